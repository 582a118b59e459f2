"""The guidances that a recipe names: each method, its knobs, and where it is on.

A method is made without a network, and called with one, a strength and a null it returns the
denoiser of `guidance`. What needs a function of one's own (an energy, a w that depends on λ) or a
classifier is made in Python.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax

from cfg_jax.diffusion import checks, prediction
from cfg_jax.diffusion.condition import Kept
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.logsnr import floating
from cfg_jax.diffusion.names import lookup
from cfg_jax.guidance.autoguidance import autoguidance
from cfg_jax.guidance.base import strength
from cfg_jax.guidance.classifier_free import classifier_free
from cfg_jax.guidance.composed import Composed as ComposedGuidance
from cfg_jax.guidance.interval import interval
from cfg_jax.guidance.plus_plus import plus_plus
from cfg_jax.guidance.projected import projected
from cfg_jax.guidance.rescaled import rescaled
from cfg_jax.guidance.zero_star import zero_star

Typed = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""What turns entries as a person types them into those of a condition, without the batch axis."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What methods share: the range of noise levels where guidance is on.

    Attributes:
      low: The noisier end; None guides from the first step on.
      high: The cleaner end; None guides to the last step.

    Raises:
      ValueError: A field has a value that it cannot have.
    """

    needs_eps: ClassVar[bool] = False
    """Whether the solver must read ε̂ too: under another the method would be classifier-free."""

    low: float | None = None
    high: float | None = None

    def __post_init__(self):
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                checks.number(name, getattr(self, name))
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low must be less than high, got low={self.low}, high={self.high}")

    def __call__(
        self,
        denoiser: Denoiser,
        *,
        w: Any,
        null: Any,
        condition: Typed | None = None,
        weak: Denoiser | None = None,
    ) -> Denoiser:
        """Guides a network.

        Args:
          denoiser: The network.
          w: The strength, a scalar or (batch,).
          null: The condition's null. Where it hides nothing, only autoguidance can guide, and
            classifier-free guidance leaves the network as it is.
          condition: Makes a condition's entries of what a recipe holds; None takes that as it is.
          weak: The weaker network, for autoguidance.

        Returns:
          The denoiser.

        Raises:
          ValueError: There is nothing to guide by.
        """
        if self._needs_null and _hides_nothing(null):
            return self._unguided(denoiser)
        return self.limited(self._made(denoiser, w=w, null=null, condition=condition, weak=weak))

    @property
    def bounded(self) -> bool:
        """Whether guidance is off at some noise levels."""
        return self.low is not None or self.high is not None

    def limited(self, guided: Denoiser) -> Denoiser:
        """A guidance that is on where this method is."""
        if not self.bounded:
            return guided
        low = -math.inf if self.low is None else self.low
        return interval(guided, low=low, high=math.inf if self.high is None else self.high)

    def __str__(self):
        """The method and what it was given, in a line such as "rescaled, phi=0.7, low=-2.0"."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        own = [f for f in dataclasses.fields(self) if f.name not in ("low", "high")]
        shown = [*own, *(f for f in dataclasses.fields(self) if f.name in ("low", "high"))]
        given = ((field.name, getattr(self, field.name)) for field in shown)
        return ", ".join([name, *(f"{key}={value}" for key, value in given if value is not None)])

    _needs_null: ClassVar[bool] = True

    def _made(self, denoiser: Denoiser, *, w: Any, null: Any, condition: Any, weak: Any) -> Any:
        """The guidance at every noise level."""
        raise NotImplementedError

    def _unguided(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser where nothing is hidden that guidance could compare with."""
        raise ValueError(f"an unconditional network cannot be guided by {self}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierFree(Method):
    """Away from the unconditional answer: `guidance.classifier_free`."""

    def _made(self, denoiser, *, w, null, condition, weak):
        return classifier_free(denoiser, w=w, null=null)

    def _unguided(self, denoiser):
        return super()._unguided(denoiser) if self.bounded else denoiser


@dataclasses.dataclass(frozen=True, kw_only=True)
class Negative(Method):
    """Away from another condition, the same for all examples: `guidance.negative`.

    Attributes:
      cond: Entries by name, as a person types them; what is not named stays hidden. A single value
        stands for the only entry that guidance hides.
    """

    cond: Any

    def __post_init__(self):
        super().__post_init__()
        _check_given("cond", self.cond)

    def _made(self, denoiser, *, w, null, condition, weak):
        return classifier_free(denoiser, w=w, null=_instead(null, self.cond, condition))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composed(Method):
    """Towards further conditions as well, the same for all examples: `guidance.composed`.

    Attributes:
      conds: Conditions, each as in `Negative`.
      ws: One weight for each, times which w counts; all 1 when None.
    """

    conds: Sequence[Any]
    ws: Sequence[float] | None = None

    def __post_init__(self):
        super().__post_init__()
        _check_given("conds", self.conds)
        for name in ("conds", "ws"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, (list, tuple)):
                raise ValueError(f"{name} must be a tuple, got {value!r}")
        if not self.conds or len(self.weights) != len(self.conds):
            raise ValueError(
                "conds must hold at least one condition, and ws one weight for each; "
                f"got {len(self.conds)} and {len(self.weights)}"
            )
        for weight in self.weights:
            checks.number("ws", weight)

    @property
    def weights(self) -> tuple[float, ...]:
        """One for each condition."""
        return (1.0,) * len(self.conds) if self.ws is None else tuple(self.ws)

    def _made(self, denoiser, *, w, null, condition, weak):
        return ComposedGuidance(
            denoiser=denoiser,
            conds=tuple(_instead(null, cond, condition) for cond in self.conds),
            ws=tuple(strength("ws", weight * floating(w)) for weight in self.weights),
            null=null,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoguidance(Method):
    """Away from a weaker version of the network: `guidance.autoguidance`.

    Attributes:
      weak: Where the weaker one is: WORKDIR, WORKDIR:STEP, or :STEP of the same run.
    """

    _needs_null: ClassVar[bool] = False

    weak: str

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.weak, str) or not self.weak:
            raise ValueError(f"weak must be WORKDIR, WORKDIR:STEP or :STEP, got {self.weak!r}")

    def _made(self, denoiser, *, w, null, condition, weak):
        if weak is None:
            raise ValueError("autoguidance is for a trained network, with a weaker one beside it")
        return autoguidance(denoiser, weak, w=w)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rescaled(Method):
    """Classifier-free, each example's contrast kept: `guidance.rescaled`.

    Attributes:
      phi: The share of the rescaled prediction, in [0, 1].
      space: The kind of prediction that is rescaled; v when None.
    """

    phi: float = 0.7
    space: str | None = None

    def __post_init__(self):
        super().__post_init__()
        checks.number("phi", self.phi, 0.0, 1.0)
        _check_space(self.space)

    def _made(self, denoiser, *, w, null, condition, weak):
        return rescaled(denoiser, w=w, null=null, phi=self.phi, **_space(self.space))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projected(Method):
    """Less of what only saturates: `guidance.projected`.

    Attributes:
      eta: The share of the parallel part that is kept.
      norm_threshold: The largest norm of what guidance adds to x̂, at least 0; None sets no limit.
    """

    eta: float = 0.0
    norm_threshold: float | None = None

    def __post_init__(self):
        super().__post_init__()
        checks.number("eta", self.eta)
        if self.norm_threshold is not None:
            checks.number("norm_threshold", self.norm_threshold, 0.0, math.inf)

    def _made(self, denoiser, *, w, null, condition, weak):
        limit = self.norm_threshold
        return projected(denoiser, w=w, null=null, eta=self.eta, norm_threshold=limit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlusPlus(Method):
    """Guides x̂ and leaves ε̂ unconditional: `guidance.plus_plus`, for solvers that read ε̂."""

    needs_eps: ClassVar[bool] = True

    def _made(self, denoiser, *, w, null, condition, weak):
        return plus_plus(denoiser, w=w, null=null)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroStar(Method):
    """Away from the unconditional answer scaled to fit: `guidance.zero_star`.

    Attributes:
      space: The kind of prediction that is fitted; flow when None.
    """

    space: str | None = None

    def __post_init__(self):
        super().__post_init__()
        _check_space(self.space)

    def _made(self, denoiser, *, w, null, condition, weak):
        return zero_star(denoiser, w=w, null=null, **_space(self.space))


METHODS: dict[str, type[Method]] = {
    kind.__name__: kind
    for kind in (
        ClassifierFree,
        Negative,
        Composed,
        Autoguidance,
        Rescaled,
        Projected,
        PlusPlus,
        ZeroStar,
    )
}
"""The methods by the names that recipes use."""


def _check_given(name: str, value: Any) -> None:
    if value is None:
        raise ValueError(f"{name} must be given")


def _check_space(space: str | None) -> None:
    if space is not None:
        lookup(prediction.KINDS, space, "space")


def _space(name: str | None) -> dict[str, str]:
    """The argument of a guidance whose space a recipe may name."""
    return {} if name is None else {"space": name}


def _parts(null: Any) -> list[Any]:
    return jax.tree.leaves(null, is_leaf=lambda node: isinstance(node, Kept))


def _hides_nothing(null: Any) -> bool:
    return all(isinstance(part, Kept) for part in _parts(null))


def _instead(null: Any, typed: Any, condition: Typed | None) -> Any:
    """The null with what a person typed in the place of what it hides."""
    if not isinstance(null, Mapping):
        return typed
    if not isinstance(typed, Mapping):
        hidden = [name for name, part in null.items() if not _hides_nothing(part)]
        if len(hidden) != 1:
            raise ValueError(
                f"{typed!r} must name the entry that it is for, as {{name: value}}: guidance hides "
                f"{', '.join(hidden)}"
            )
        typed = {hidden[0]: typed}
    entries = dict(typed) if condition is None else condition(dict(typed))
    unknown = [name for name in entries if name not in null]
    if unknown:
        raise ValueError(
            f"the network takes no entry {unknown[0]!r}; it takes {', '.join(null) or 'none'}"
        )
    return {**null, **entries}
