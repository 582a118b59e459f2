"""What a recipe and the data make together: the parts of a model, fitted to each other."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from cfg_jax import conditions, recipe
from cfg_jax.conditions import Conditioners
from cfg_jax.diffusion import checks
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.parts import Facts, through, translate
from cfg_jax.sampling.clips import Off


class Sampling(NamedTuple):
    """How a model samples where the caller does not say.

    Attributes:
      w: The guidance strength.
      steps: The number of steps.
      solver: The solver; the default of `cfg_jax.sample` when None.
      grid: The grid; the solver's default when None.
      clip: What keeps x̂ within the codec's bound, see `sampling.clips`.
      guidance: The method, see `guidance.methods`.
    """

    w: float
    steps: int
    solver: Any
    grid: Any
    clip: Any
    guidance: Any


class FrozenParameters(NamedTuple):
    """Parameters that are not trained.

    Attributes:
      codec: The codec's; {} without.
      condition: What each conditioner needs beside the data, by entries' names.
    """

    codec: Any
    condition: Mapping[str, Any]


class Blueprint(NamedTuple):
    """A model without its parameters.

    Attributes:
      network: The Flax module.
      codec: The codec.
      conditioners: The conditioners, by their entries' names.
      schedule: p(λ).
      objective: What training descends on.
      sampling: How it samples.
      facts: What is known of the data.
      frozen: Parameters that are not trained.
    """

    network: Any
    codec: Any
    conditioners: Conditioners
    schedule: Schedule
    objective: Any
    sampling: Sampling
    facts: Facts
    frozen: FrozenParameters

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example's z."""
        return latent_shape(self.codec, self.frozen.codec, self.facts.shape)

    def shown(self, count: int) -> dict[str, Any]:
        """Shapes of the condition that the network is shown of so many samples."""

        def batched(spec: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((count, *spec.shape), spec.dtype)

        inlets = conditions.inlets(self.conditioners)
        return {name: jax.tree.map(batched, inlet.spec) for name, inlet in inlets}

    def init(self, key: jax.Array) -> Any:
        """The first variables of the network, and of its conditioners' encoders."""
        specs = {name: inlet.spec for name, inlet in conditions.inlets(self.conditioners)}
        shown = {name: specs[name] for name in self.network.takes}
        zeros = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape), leaf.dtype), shown)
        variables = self.network.init(key, jnp.zeros((1, *self.shape)), jnp.zeros((1,)), zeros)
        begun = {name: made.begun(key) for name, made in self.conditioners}
        encoders = {name: {"encoder": held} for name, held in begun.items() if held is not None}
        return {**variables, conditions.ENCODERS: encoders} if encoders else variables

    def model(self, params: Any) -> dict[str, Any]:
        """The fields of a `Model` of such variables."""
        return {
            "network": self.network,
            "params": params,
            "codec_params": self.frozen.codec,
            "condition_params": dict(self.frozen.condition),
            "kind": self.objective.kind,
            "codec": self.codec,
            "conditioners": self.conditioners,
            "schedule": self.schedule,
            "sampling": self.sampling,
            "facts": self.facts,
        }


def described(codec: Any, params: Any, shape: tuple[int, ...]) -> Any:
    """Shape and dtype of what a codec says of an example of a shape, from which z is drawn."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    found = jax.eval_shape(lambda x: through(codec, "described", params, x), x)
    return jax.ShapeDtypeStruct(found.shape[1:], found.dtype)


def translated(codec: Any, params: Any, way: str, x: Any, shape: tuple[int, ...]) -> Any:
    """What a codec's `encode` or `decode` makes of an array, compiled, where that array lies.

    Args:
      codec: The codec.
      params: Its parameters.
      way: "encode" or "decode".
      x: Data or latents, (batch, ...); their sides may be others than those of training.
      shape: That of one example of the data.

    Raises:
      ValueError: It is no such array.
    """
    name, wanted = "x", shape
    if way == "decode":
        name, wanted = "z", latent_shape(codec, params, shape)
    checks.no_bytes(name, x)
    x = checks.batch(name, x)
    if x.ndim != len(wanted) + 1 or x.shape[-1] != wanted[-1] or not x.shape[0]:
        sides = ", ".join(map(str, wanted))
        raise ValueError(f"{name} must be (batch, {sides}), or of other sides, got {x.shape}")
    place = getattr(x, "sharding", None)
    if params and isinstance(place, NamedSharding) and place.mesh.size > 1:
        params = jax.device_put(params, NamedSharding(place.mesh, PartitionSpec()))
    return translate(codec, way, params, x) if params else through(codec, way, {}, x)


def latent_shape(codec: Any, params: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one z, for data of a shape."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.eval_shape(lambda x: through(codec, "encode", params, x), x).shape[1:]


def blueprint(
    config: ConfigDict,
    facts: Facts,
    frozen: FrozenParameters | None = None,
    data: Any = None,
) -> Blueprint:
    """Makes the parts that a recipe names, for data of which so much is known.

    Args:
      config: The recipe.
      facts: What is known of the data.
      frozen: Parameters that are not trained; read from where the recipe says when None.
      data: The `Dataset` that a tokenizer may be learned from, and the scale of latents; None where
        none of that is wanted.

    Returns:
      The parts.

    Raises:
      ValueError: A value of the recipe is out of range, or the parts do not fit each other or the
        data; in one sentence that names the field.
    """
    known = _known(config, facts)
    made = _conditioners(config, facts, known)
    known["inlets"] = conditions.inlets(made)
    network, codec, objective = (
        recipe.make(config[slot], slot, path=f"config.{slot}", **known)
        for slot in ("network", "codec", "objective")
    )
    _check(network, objective, made)
    if frozen is None:
        frozen = FrozenParameters(
            _of_codec(codec, data),
            {name: {**c.frozen(), **_learned(name, c, facts, data)} for name, c in made},
        )
    hashable = facts._replace(arrays=FrozenDict(facts.arrays))
    plan = Blueprint(
        network, codec, made, known["schedule"], objective, sampling(config), hashable, frozen
    )
    _check_size(plan)
    return plan


def conditioners_of(config: ConfigDict, facts: Facts) -> Conditioners:
    """The conditioners of a recipe, bound to data.

    Raises:
      ValueError: A value is out of range, or the data cannot make an entry.
    """
    return _conditioners(config, facts, _known(config, facts))


def _conditioners(config: ConfigDict, facts: Facts, known: dict[str, Any]) -> Conditioners:
    return tuple(
        (name, _conditioner(name, node, facts, known))
        for name, node in config.condition.items()
        if node is not None
    )


def _known(config: ConfigDict, facts: Facts) -> dict[str, Any]:
    """What kinds leave open to be filled in."""
    return {
        "schedule": recipe.make(config.schedule, "schedule", path="config.schedule"),
        "num_classes": len(facts.class_names) or None,
        "class_names": facts.class_names,
        "train_steps": config.train.steps,
    }


def sampling(config: ConfigDict) -> Sampling:
    """How a recipe samples.

    Raises:
      ValueError: A value is out of range, or the guidance needs another solver.
    """
    chosen = recipe.block(config, "sample")
    guidance = recipe.make(config.guidance, "guidance", path="config.guidance")
    recipe.check_reading(guidance, config.guidance.kind, chosen)
    return Sampling(
        w=chosen.w,
        steps=chosen.steps,
        solver=chosen.solver,
        grid=chosen.grid,
        clip=chosen.clip or Off(),
        guidance=guidance,
    )


def profiles(config: ConfigDict) -> list[Any]:
    """The moving averages of a recipe, in order: the first is what sampling uses.

    Raises:
      ValueError: There is none, or a value is out of range.
    """
    made = [
        recipe.make(node, "average", path=f"config.averages.{name}")
        for name, node in config.averages.items()
        if node is not None
    ]
    if not made:
        raise ValueError("config.averages must hold one average at least, such as Constant")
    return made


def ready(objective: Any) -> Any:
    """An objective with what it reads before training, such as a teacher."""
    return objective.ready() if hasattr(objective, "ready") else objective


def _conditioner(name: str, node: ConfigDict, facts: Facts, known: dict[str, Any]) -> Any:
    path = f"config.condition.{name}"
    made = recipe.make(node, "conditioner", path=path, **known)
    try:
        return made.bind(name, facts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _learned(name: str, made: Any, facts: Facts, data: Any) -> Mapping[str, Any]:
    """What a conditioner learns from the data's texts; nothing where there are none."""
    return {} if data is None or name not in facts.texts else made.learned(data.captions(name))


def _of_codec(codec: Any, data: Any) -> Any:
    """The codec's parameters, and what it learns from the data."""
    params = codec.frozen() if hasattr(codec, "frozen") else {}
    learns = data is not None and hasattr(codec, "learned")
    return codec.learned(params, data) if learns else params


def _check(network: Any, objective: Any, made: Conditioners) -> None:
    """Raises ValueError where the network, the objective and the condition do not fit together."""
    if any(leaf is objective for leaf in jax.tree.leaves(objective)):
        raise ValueError(
            f"{type(objective).__name__} must be known to JAX: a dataclass below "
            "@jax.tree_util.register_dataclass"
        )
    has = {name for name, _ in made}
    takes = getattr(network, "takes", None)
    if takes is None:
        raise ValueError(f"{type(network).__name__} does not say what entries it `takes`")
    if not isinstance(takes, tuple | list) or not all(isinstance(name, str) for name in takes):
        raise ValueError(
            f"{type(network).__name__}.takes must be a tuple of entries' names, such as "
            f'("label",); got {takes!r}'
        )
    missing = [name for name in takes if name not in has]
    if missing:
        raise ValueError(
            f"the network takes {', '.join(missing)}, which the recipe does not make: add "
            f"config.condition.{missing[0]}"
        )
    kind = getattr(objective, "kind", None)
    unused = has - set(takes)
    if kind is not None and unused:
        raise ValueError(
            f"config.condition has {', '.join(sorted(unused))}, which {type(network).__name__} "
            "does not take"
        )
    predicts = getattr(network, "predicts", None)
    target = getattr(objective, "target", None)
    if kind is not None and predicts not in (None, target):
        raise ValueError(
            f"{type(network).__name__} predicts {predicts}, so config.objective.target must be "
            f"{predicts}; got {target}"
        )
    call = list(inspect.signature(type(network).__call__).parameters.values())[1:]
    beside = {"train", *(p.name for p in call if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD))}
    needed = [p for p in call if p.default is p.empty and p.name not in beside]
    if len(call) < 3 or len(needed) > 3:
        raise ValueError(f"{type(network).__name__} must be called as (z, logsnr, cond)")


def _check_size(plan: Blueprint) -> None:
    """Raises ValueError where the network cannot take z."""
    if hasattr(plan.network, "check"):
        plan.network.check(plan.shape)
