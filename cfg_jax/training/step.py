"""One training step: draw what is random, ask the network, descend, average.

Everything random is a function of (seed, step, example): the key is folded with the step here, and
with the example's place in the global batch in its own stream, see `diffusion.noise`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.core import FrozenDict
from flax.errors import ModifyScopeVariableError
from jaxtyping import Array, Float, Int

from cfg_jax import conditions
from cfg_jax.blueprint import Blueprint
from cfg_jax.data.samples import to_float
from cfg_jax.diffusion import noise
from cfg_jax.diffusion.noise import Stream
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.objectives import Losses
from cfg_jax.optim.averages import Average, move
from cfg_jax.parts import Setting, through
from cfg_jax.training.state import State

BINS = 10
"""The range of λ is split into so many equal parts, and the loss logged for each."""


class Frozen(NamedTuple):
    """What a step reads and never changes: neither donated, averaged, nor in the optimiser.

    Attributes:
      objective: The objective, a teacher's parameters among its leaves.
      codec: The codec's parameters; {} without.
      condition: The parameters of each conditioner that has some, by entries' names.
    """

    objective: Any
    codec: Any
    condition: Mapping[str, Any]


class Metrics(NamedTuple):
    """What one step measured.

    Attributes:
      loss: The mean over the batch.
      grad_norm: The gradient's global norm, before clipping.
      bin_loss: The sum of the losses of the examples in each part of λ's range.
      bin_count: The number of them.
      skipped: How many steps were skipped so far, this one included.
      replaced: How many of the batch's examples stand in for unreadable ones.
      measured: What else the objective measures, by name.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    bin_loss: Float[Array, " bins"]
    bin_count: Int[Array, " bins"]
    skipped: Int[Array, ""]
    replaced: Int[Array, ""]
    measured: Mapping[str, Float[Array, ""]] = FrozenDict()


class Drawn(NamedTuple):
    """A batch made ready for the network.

    Attributes:
      draw: What the objective drew: a pytree of (batch, ...) arrays.
      dropout: The key of the network's dropout.
    """

    draw: Any
    dropout: jax.Array


Step = Callable[[State, Frozen, dict[str, Array]], tuple[State, Metrics]]

Prepare = Callable[[Frozen, dict[str, Array], Int[Array, ""]], Drawn]
"""(frozen, batch, number of steps made before) -> what the network is asked."""


def prepare(
    frozen: Frozen,
    batch: dict[str, Array],
    step: Int[Array, ""],
    *,
    blueprint: Blueprint,
    seed: int,
) -> Drawn:
    """Makes a batch ready: its condition, its z, and all that is random in one step.

    Args:
      frozen: The objective, and parameters that are not trained.
      batch: {"x": (batch, ...), …} as the data yield it.
      step: The number of steps made before.
      blueprint: The model that is trained.
      seed: Random seed.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    x = to_float(batch["x"])
    cond = conditions.read(blueprint.conditioners, frozen.condition, batch, x)
    keys = noise.examples(key, jnp.arange(len(x)))
    cond = conditions.shown(blueprint.conditioners, keys, cond, blueprint.schedule, training=True)
    z = _latents(blueprint.codec, frozen.codec, key, batch, x)
    draw = frozen.objective.draw(key, z, cond, setting(blueprint, step))
    return Drawn(draw, noise.stream(key, Stream.DROPOUT))


def _latents(codec: Any, params: Any, key: jax.Array, batch: dict[str, Array], x: Array) -> Array:
    """Z of a batch: drawn, where the codec is random, of what it said or says of the data."""
    if not hasattr(codec, "drawn"):
        return through(codec, "encode", params, x)
    said = batch["latents"] if "latents" in batch else through(codec, "described", params, x)
    return through(
        codec, "drawn", params, said, noise.examples(key, jnp.arange(len(x)), Stream.LATENTS)
    )


def setting(blueprint: Blueprint, step: Any = 0) -> Setting:
    """What the objective may draw from, after so many steps."""
    made = blueprint.conditioners
    return Setting(
        blueprint.schedule,
        conditions.hidden_null(made),
        {name: conditioner.p_uncond for name, conditioner in made},
        {name: conditioner.guided for name, conditioner in made},
        step,
    )


class Asker(NamedTuple):
    """The network in training: `(z, logsnr, cond) -> prediction`, shown what it takes.

    Attributes:
      network: The Flax module.
      variables: What is differentiated by.
      conditioners: What makes each entry of the condition.
      condition_params: What they need beside the data.
      dropout: The key of the network's dropout.
    """

    network: Any
    variables: Any
    conditioners: conditions.Conditioners
    condition_params: Mapping[str, Any]
    dropout: jax.Array

    def __call__(self, z: Array, logsnr: Any, cond: Any) -> Any:
        """The prediction.

        Raises:
          ValueError: The network takes what it is not shown.
        """
        hidden = [name for name in self.network.takes if name not in cond]
        if hidden:
            network = type(self.network).__name__
            raise ValueError(f"{network} takes {hidden[0]}, which the objective keeps from it")
        logsnr = jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1])
        shown = {name: cond[name] for name in self.network.takes}
        shown = conditions.encoded(self.conditioners, self.variables, self.condition_params, shown)
        return self.apply("__call__", z, logsnr, shown)

    def apply(self, way: str, *args: Any, variables: Any = None) -> Any:
        """What a method of the network returns in training, of these or other variables."""
        method = getattr(type(self.network), way)
        training = {"train": True} if "train" in inspect.signature(method).parameters else {}
        try:
            return self.network.apply(
                self.variables if variables is None else variables,
                *args,
                **training,
                rngs={"dropout": self.dropout},
                method=method,
            )
        except ModifyScopeVariableError as error:
            raise ValueError(
                f"{type(self.network).__name__} changes its variables as it runs, as BatchNorm "
                f"does; norms of one example, such as GroupNorm, change none: {error}"
            ) from error


def losses(blueprint: Blueprint, params: Any, frozen: Frozen, drawn: Drawn) -> Losses:
    """Each example's training loss, and what else the objective measures.

    Raises:
      ValueError: The objective returns something else.
    """
    ask = Asker(blueprint.network, params, blueprint.conditioners, frozen.condition, drawn.dropout)
    found = frozen.objective.losses(ask, drawn.draw)
    found = found if isinstance(found, Losses) else Losses(found, {})
    shape, (count, *_) = jnp.shape(found.each), jax.tree.leaves(drawn.draw)[0].shape
    if shape != (count,) or not jnp.issubdtype(jnp.result_type(found.each), jnp.floating):
        raise ValueError(
            f"{type(frozen.objective).__name__}.losses must return a float an example, shape "
            f"({count},); got shape {shape} of {jnp.result_type(found.each)}"
        )
    return found


def make_step(
    blueprint: Blueprint,
    optimizer: optax.GradientTransformation,
    *,
    prepare: Prepare,
    averages: Sequence[Average],
    accumulate: int = 1,
    gather: Callable[[Any], Any] = lambda params: params,
    scatter: Callable[[Any], Any] = lambda gradient: gradient,
) -> Step:
    """The function (state, frozen, batch) -> (state, metrics), to be jitted.

    A step whose loss or gradient is not finite changes nothing but the counts.

    Args:
      blueprint: The model that is trained.
      optimizer: Takes gradients to updates.
      prepare: Draws all that is random in a step, see the function of this name.
      averages: The parameters' moving averages.
      accumulate: In how many parts the gradient of a batch is computed, one after another.
      gather: Lays the parameters out for the network, where the state has them split.
      scatter: Lays the gradient out as the state has the parameters.

    Returns:
      A step over batches as `prepare` takes them, and "replaced": int32 (batch,) in them.
    """

    def gradient_of(params: Any, frozen: Frozen, drawn: Drawn) -> tuple[Losses, Any]:
        def mean(params):
            found = losses(blueprint, params, frozen, drawn)
            return found.each.mean(), found

        (_, found), gradient = jax.value_and_grad(mean, has_aux=True)(params)
        return found, scatter(gradient)

    def zeros(params: Any) -> Any:
        return scatter(jax.tree.map(jnp.zeros_like, params))

    def step(state: State, frozen: Frozen, batch: dict[str, Array]) -> tuple[State, Metrics]:
        drawn = prepare(frozen, batch, state.step)
        params = gather(state.params)
        descend = functools.partial(gradient_of, params, frozen)
        if accumulate == 1:
            found, gradient = descend(drawn)
        else:
            found, gradient = _in_parts(descend, drawn, accumulate, zeros(params))
        each = found.each
        mean, norm = each.mean(), optax.tree.norm(gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params, measured = _after(frozen.objective, params, found.measured, drawn.dropout)
        moved = [
            move(average, ema, params, state.step + 1)
            for average, ema in zip(averages, state.ema, strict=True)
        ]
        finite = jnp.isfinite(mean) & jnp.isfinite(norm)
        changed = jax.tree.map(
            functools.partial(jnp.where, finite),
            (params, tuple(moved), opt_state),
            (state.params, state.ema, state.opt_state),
        )
        skipped = state.skipped + (~finite).astype(jnp.int32)
        bins = _bins(getattr(drawn.draw, "logsnr", None), each, blueprint.schedule)
        metrics = Metrics(mean, norm, *bins, skipped, batch["replaced"].sum(), measured)
        return State(state.step + 1, skipped, *changed), metrics

    return step


def _after(objective: Any, params: Any, measured: Any, dropout: jax.Array) -> tuple[Any, Any]:
    """The parameters as the objective leaves a step, and what is logged of what it measured."""
    if hasattr(objective, "after"):
        return objective.after(params, measured, noise.stream(dropout, Stream.STEP))
    return params, {name: each.mean() for name, each in measured.items()}


def _in_parts(
    descend: Callable[[Drawn], tuple[Losses, Any]], drawn: Drawn, parts: int, zeros: Any
) -> tuple[Losses, Any]:
    """Losses and mean gradient of a batch, computed in so many parts one after another.

    Part m has the examples m, m + parts, m + 2 parts, …: each device finds its share of every part
    within its share of the batch.
    """
    apart = jax.tree.map(
        lambda a: jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0), drawn.draw
    )

    def body(total, part):
        draw, number = part
        found, gradient = descend(Drawn(draw, jax.random.fold_in(drawn.dropout, number)))
        return jax.tree.map(lambda t, g: t + g / parts, total, gradient), found

    gradient, found = jax.lax.scan(body, zeros, (apart, jnp.arange(parts)))
    together = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1).reshape(-1, *a.shape[2:]), found)
    return together, gradient


def _bins(logsnr: Array | None, losses: Array, schedule: Schedule) -> tuple[Array, Array]:
    """Sums and counts of the losses in equal parts of λ's range; zeros where nothing has a λ."""
    if logsnr is None:
        return jnp.zeros(BINS), jnp.zeros(BINS, jnp.int32)
    width = (schedule.logsnr_max - schedule.logsnr_min) / BINS
    place = jnp.clip((logsnr - schedule.logsnr_min) / width, 0, BINS - 1).astype(jnp.int32)
    return (
        jax.ops.segment_sum(losses, place, BINS),
        jax.ops.segment_sum(jnp.ones_like(place), place, BINS),
    )
