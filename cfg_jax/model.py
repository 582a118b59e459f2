"""A model in memory: a network, its parameters, and all that sampling from it needs. No files."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float

from cfg_jax import beside, conditions, guidance
from cfg_jax.blueprint import Sampling, latent_shape, translated
from cfg_jax.conditions import Conditioners
from cfg_jax.data.samples import to_float
from cfg_jax.diffusion import checks, condition, noise
from cfg_jax.diffusion.condition import KEPT
from cfg_jax.diffusion.denoiser import Denoiser, FromPrediction, from_prediction
from cfg_jax.diffusion.prediction import Kind
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.guidance.methods import ClassifierFree
from cfg_jax.networks.applied import Applied
from cfg_jax.networks.encoder import LogProb
from cfg_jax.parts import Condition, Facts
from cfg_jax.sampling import arguments, sample, sharded_sample
from cfg_jax.sampling.watched import watched


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Model:
    """A trained network and all that sampling from it needs: a pytree, its parameters the leaves.

    Attributes:
      network: The Flax module.
      params: Its variables, a moving average.
      codec_params: The codec's; {} without.
      condition_params: Those of each conditioner that has some, by entries' names.
      weak: The weaker model of autoguidance; None for other guidance.
      kind: What the network predicts; None for a classifier.
      codec: Between data and z.
      conditioners: What makes each entry of the condition.
      schedule: The p(λ) it was trained with.
      sampling: How it samples where the caller does not say.
      facts: What is known of its data.
    """

    network: Any = dataclasses.field(metadata={"static": True})
    params: Any
    codec_params: Any
    condition_params: Any
    weak: "Model | None" = None
    kind: Kind | None = dataclasses.field(metadata={"static": True})
    codec: Any = dataclasses.field(metadata={"static": True})
    conditioners: Conditioners = dataclasses.field(metadata={"static": True})
    schedule: Schedule = dataclasses.field(metadata={"static": True})
    sampling: Sampling = dataclasses.field(metadata={"static": True})
    facts: Facts = dataclasses.field(metadata={"static": True})

    def __repr__(self) -> str:
        count = sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(self.params))
        entries = ", ".join(f"{name}: {type(made).__name__}" for name, made in self.conditioners)
        return (
            f"{type(self).__name__}({type(self.network).__name__} of {count / 1e6:.2f} M "
            f"parameters, data {'×'.join(map(str, self.facts.shape))}, condition {{{entries}}})"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example's z."""
        return latent_shape(self.codec, self.codec_params, self.facts.shape)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels; empty where the data have none."""
        return self.facts.class_names

    @property
    def denoiser(self) -> FromPrediction:
        """`(z, logsnr, cond) -> eps`, unguided; the parameters are its leaves.

        Raises:
          ValueError: This is a classifier, or a pair of towers.
        """
        if self.kind is None:
            raise ValueError(f"{self!r} is a {self.role}, which denoises nothing")
        return from_prediction(Applied(self.network, self.params), self.kind)

    @property
    def log_prob(self) -> LogProb:
        """`(z, logsnr, cond) -> log p(c|z_λ)` of a noisy classifier, for `guidance.classifier`.

        Raises:
          ValueError: This is another model.
        """
        if self.role != beside.CLASSIFIER:
            raise ValueError(f"{self!r} is a {self.role}, not a {beside.CLASSIFIER}")
        (entry,) = (name for name, _ in self.conditioners)
        return LogProb(network=self.network, params=self.params, of=entry)

    @property
    def role(self) -> str:
        """What it is called: one that samples, or what its network says, or a classifier."""
        own = getattr(self.network, "role", beside.CLASSIFIER)
        return own if self.kind is None else "diffusion model"

    @property
    def agreement(self) -> Any:
        """How well data and sentences agree, by a pair of towers; ValueError of another model."""
        return beside.agreement_of(self)

    @property
    def null(self) -> dict[str, Any]:
        """What guidance puts in the condition's place; `condition.KEPT` for what it keeps."""
        return conditions.encoded_null(self.conditioners, self._encoded)

    @property
    def guidable(self) -> bool:
        """Whether guidance has something to hide."""
        return any(none is not KEPT for none in conditions.null(self.conditioners).values())

    @property
    def coder(self) -> tuple[Any, Any]:
        """The codec and its parameters: what was trained, where that is a codec."""
        if hasattr(self.network, "trained_codec"):
            return self.network.trained_codec(self.params)
        return self.codec, self.codec_params

    def encode(self, x: Float[ArrayLike, "batch ..."]) -> Float[Array, "batch ..."]:
        """Data in [-1, 1], channels last, to z."""
        return translated(*self.coder, "encode", x, self.facts.shape)

    def decode(self, z: Float[ArrayLike, "batch ..."]) -> Float[Array, "batch ..."]:
        """Z to data in [-1, 1], channels last."""
        return translated(*self.coder, "decode", z, self.facts.shape)

    def entries(self, cond: Any = None, **entries: Any) -> dict[str, Any]:
        """What a person gives, each as its conditioner makes it.

        Args:
          cond: The single entry of a model that has one conditioner, or a dictionary of entries.
          **entries: Entries by name.

        Raises:
          ValueError: One is missing, unknown or wrong, or they differ in length.
        """
        found = self._given(conditions.named(self.conditioners, cond, entries))
        condition.batch_size(found)
        return found

    def condition(
        self, cond: Any = None, *, key: jax.Array | None = None, offset: int = 0, **entries: Any
    ) -> Condition:
        """The condition that the network is shown of what a person gives.

        Args:
          cond: As in `entries`.
          key: A JAX random key, for entries that noise is laid on.
          offset: The number of the first example.
          **entries: As in `entries`.
        """
        given = self.entries(cond, **entries)
        if not given:
            return {}
        key = jax.random.key(0) if key is None else checks.random_key(key)
        keys = noise.examples(key, noise.numbers(offset, condition.batch_size(given) or 0))
        shown = conditions.shown(self.conditioners, keys, given, self.schedule, training=False)
        return self._encoded(shown)

    def lend(self, examples: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], np.ndarray]:
        """The entries of a condition that examples of the data lend, and the examples as floats."""
        x = to_float(np.stack([example["x"] for example in examples]))
        return {name: made.lend(examples, x) for name, made in self.conditioners}, x

    def guided(
        self,
        w: Any = None,
        *,
        negative: Mapping[str, Any] | None = None,
        guide: Callable[[Denoiser, Any], Denoiser] | None = None,
        classifier: Any = None,
        classifier_scale: ArrayLike | None = None,
        classifier_form: str = "eps",
    ) -> Denoiser:
        """The denoiser under guidance of strength w, its x̂ kept within the codec's bound.

        Args:
          w: The strength of the model's own guidance; what it samples with when None, or 0 beside a
            classifier or where there is nothing to hide.
          negative: Entries that stand in the null's place, one an example or one for all.
          guide: Another guidance: `(denoiser, null) -> denoiser`.
          classifier: A noisy classifier that guides as well, a `Model` or a `LogProb`.
          classifier_scale: Its s of Dhariwal & Nichol 2021, a scalar or (batch,); 1 when None.
          classifier_form: "eps" moves ε̂ (their Algorithm 2); "mean" leaves that to the solver.

        Raises:
          ValueError: There is nothing to hide, and w is not 0; or the guidance has a mistake.
        """
        scale = beside.scale_of(classifier, classifier_scale, classifier_form)
        denoiser = self._self_guided(w, negative, guide, classifier is not None)
        if classifier is not None and classifier_form == "eps":
            denoiser = self.sampling.guidance.limited(
                guidance.classifier(denoiser, beside.log_prob_of(classifier), w=scale)
            )
        return self.sampling.clip(denoiser, self.codec.bound)

    def _self_guided(self, w: Any, negative: Any, guide: Any, classified: bool) -> Denoiser:
        """The network guided by itself, or alone where guidance needs no second half."""
        negative = arguments.named("negative", negative)
        hides = self.guidable or bool(negative) or self.weak is not None
        if w is None:
            w = self.sampling.w if hides and not classified else 0.0
        w = w if isinstance(w, (int, float, jax.Array)) else checks.array("w", w, "numbers")
        denoiser, method = self.denoiser, self.sampling.guidance
        instead = self._encoded(self._given(negative))
        null = conditions.negative(self.conditioners, self.null, instead)
        if guide is not None:
            made = checks.function("guide", guide, "(denoiser, null) -> denoiser")
            return checks.function("what guide returns", made(denoiser, null))
        if not hides and np.any(np.asarray(w) != 0):
            raise ValueError(f"{self!r} has nothing that guidance could hide: w must be 0, got {w}")
        if classified and not self.conditioners:
            return denoiser
        plain = isinstance(method, ClassifierFree) and not method.bounded
        if classified and plain and isinstance(w, (int, float)) and w in (0.0, -1.0):
            return denoiser if w == 0.0 else guidance.unconditional(denoiser, null=null)
        weak = None if self.weak is None else self.weak.denoiser
        return method(denoiser, w=w, null=null, condition=self._one, weak=weak)

    def _given(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Some entries, each as its conditioner makes it, (batch, ...)."""
        return conditions.given(self.conditioners, self.condition_params, entries)

    def _encoded(self, cond: Condition) -> Condition:
        """Some entries of (batch, ...) as the network is shown them."""
        return conditions.encoded(self.conditioners, self.params, self.condition_params, cond)

    def _one(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Some entries of one value each, without the batch axis."""
        given = self._given({name: [value] for name, value in entries.items()})
        return jax.tree.map(lambda leaf: leaf[0], self._encoded(given))

    def sample(
        self,
        key: jax.Array,
        cond: Any = None,
        *,
        w: Any = None,
        negative: Mapping[str, Any] | None = None,
        steps: Any = None,
        solver: Any = None,
        grid: Any = None,
        z: Float[Array, "batch ..."] | None = None,
        size: tuple[int, ...] | None = None,
        guide: Callable[[Denoiser, Any], Denoiser] | None = None,
        classifier: Any = None,
        classifier_scale: ArrayLike | None = None,
        classifier_form: str = "eps",
        batch: int | None = None,
        offset: int = 0,
        mesh: Mesh | None = None,
        decode: bool = True,
        on_step: Callable[[Any, Any], None] | None = None,
        **entries: Any,
    ) -> Float[Array, "batch ..."]:
        """Samples data.

        Args:
          key: A JAX random key; example i draws from `fold_in(key, offset + i)`.
          cond: The single entry of a model that has one conditioner, or a dictionary of entries.
          w: The guidance strength, a scalar or (batch,); the model's own when None, or 0 beside a
            classifier.
          negative: As in `guided`.
          steps: The number of steps; the model's own when None.
          solver: The solver, or its name; the model's own, on its grid, when None.
          grid: The grid, or its name; the solver's default when a solver is named without one.
          z: Noise to start from, (batch, *shape); drawn when None.
          size: The sides of the data, for a network that takes other sizes than it was trained on.
          guide: As in `guided`.
          classifier: As in `guided`; beside an unconditional network its label is the condition.
          classifier_scale: As in `guided`.
          classifier_form: "eps", or "mean" for `Ancestral` alone; see `guidance.gradient`.
          batch: The number of examples, where no condition tells it.
          offset: The number of the first example.
          mesh: Devices to split the examples over; the samples are the same.
          decode: Whether to return data, or z as the last step leaves it.
          on_step: Called on the host with (λ', z_λ') after each step.
          **entries: Entries of the condition, by name.

        Returns:
          Data of (batch, ...), channels last, in [-1, 1] unless clipping is off.

        Raises:
          ValueError: An entry is missing, unknown or wrong, an argument is out of range, the solver
            does not have the form of the classifier's guidance, or the samples are not finite.

        >>> x = cfg_jax.load("runs/digits").sample(key, label=[3, 4], w=1.0)  # doctest: +SKIP
        """
        checks.truth("decode", decode)
        if solver is None:
            solver, grid = self.sampling.solver, self.sampling.grid if grid is None else grid
        chosen = beside.solver_of(
            solver, classifier, classifier_scale, classifier_form, self.sampling.guidance
        )
        if steps is None and not isinstance(grid, (np.ndarray, jax.Array)):
            steps = self.sampling.steps
        if on_step is not None:
            chosen, grid = watched(chosen, grid, steps, on_step)
        if classifier is not None and not self.conditioners:
            shown = beside.labels_of(classifier, cond, entries)
        else:
            shown = self.condition(cond, key=key, offset=offset, **entries)
        beside.check_labels(classifier, shown)
        denoiser = self.guided(
            w,
            negative=negative,
            guide=guide,
            classifier=classifier,
            classifier_scale=classifier_scale,
            classifier_form=classifier_form,
        )
        front = sample if mesh is None else functools.partial(sharded_sample, mesh=mesh)
        x = front(
            denoiser,
            key,
            shown,
            shape=self._z_shape(size),
            schedule=self.schedule,
            solver=chosen,
            grid=grid,
            steps=steps,
            z=z,
            batch=batch,
            offset=offset,
        )
        checks.finite_samples(x)
        return self.decode(x) if decode else x

    def _z_shape(self, size: tuple[int, ...] | None) -> tuple[int, ...]:
        if size is None:
            return self.shape
        *sides, channels = self.facts.shape
        size = arguments.example_shape(size, "size", str(tuple(sides)))
        if len(size) != len(sides):
            raise ValueError(f"size must have {len(sides)} sides, got {size}")
        shape = latent_shape(self.codec, self.codec_params, (*size, channels))
        getattr(self.network, "check", lambda shape: None)(shape)
        return shape
