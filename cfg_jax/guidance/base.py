"""What guidances share: their type, a strength, and one call of a network for several conditions.

Guidance that is not affine in the prediction acts in a space of its choice, a `prediction.Kind`
p = a x + b ε. There it is a step from one pair (x̂, ε̂) to another with z held:

    p' = p + δ,    x̂' = x̂ - (σ / d) δ,    ε̂' = ε̂ + (α / d) δ,    d = α b - σ a

A step of zero changes no bit, whatever the space.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks, condition, prediction
from cfg_jax.diffusion.condition import Condition, PerExample
from cfg_jax.diffusion.denoiser import Denoiser, as_pair
from cfg_jax.diffusion.logsnr import alpha, expand, floating, sigma
from cfg_jax.diffusion.prediction import Estimate, Kind
from cfg_jax.guidance.unconditional import Unconditional

Output = TypeVar("Output", bound=Float[Array, "..."] | Estimate)

_DEEPEST = 100
"""Adapters within one another; an object may name itself as what it holds."""


class Guidance:
    """A denoiser that guides another one, its field `denoiser`."""

    denoiser: Any

    @property
    def unguided(self) -> Denoiser:
        """The denoiser where guidance is off."""
        return self.denoiser


def strength(name: str, value: Any) -> Any:
    """A finite number as an array, or one for each example, of (batch,), marked `PerExample`.

    Raises:
      ValueError: It is no number, holds a NaN or an infinity, or has more than one axis.
    """
    checks.finite(name, value)
    given = value if isinstance(value, jax.Array) else checks.numbers(name, value)
    value = floating(jnp.asarray(value) if given is None else given)
    if value.ndim > 1:
        raise ValueError(f"{name} must be a number or have shape (batch,), got shape {value.shape}")
    return PerExample(value) if value.ndim else value


def amount(value: Any, like: Float[Array, "..."]) -> Float[Array, "..."]:
    """A `strength` with the axes that let it multiply `like`."""
    return expand(value.values if isinstance(value, PerExample) else value, like)


def ask(
    denoiser: Denoiser, z: Float[Array, "..."], logsnr: ArrayLike, *conds: Condition
) -> list[Any]:
    """Calls a network once, on one batch of all conditions; returns its output for each of them.

    Raises:
      ValueError: The network never sees its condition, or what it returns is not of z's shape.
    """
    if _is_blind(denoiser):
        raise ValueError(
            "unconditional(...) hides every condition from its network, so that guidance around "
            "it would guide nothing; guide the network itself, and sample with the null as the "
            "condition where the unconditional answer is wanted"
        )
    count = len(conds)
    logsnr = jnp.asarray(logsnr)
    several = jnp.concatenate([z] * count)
    output = denoiser(
        several,
        jnp.concatenate([logsnr] * count) if logsnr.ndim else logsnr,
        jax.tree.map(lambda *parts: jnp.concatenate(parts), *conds),
    )
    leaves, structure = jax.tree.flatten(prediction.checked(output, several))
    parts = zip(*(jnp.split(leaf, count) for leaf in leaves), strict=True)
    return [jax.tree.unflatten(structure, part) for part in parts]


def _is_blind(denoiser: Any) -> bool:
    """Whether a denoiser, or what its adapters hold, is `Unconditional`."""
    for _ in range(_DEEPEST):
        if isinstance(denoiser, Unconditional):
            return True
        denoiser = getattr(denoiser, "denoiser", None)
    return False


def ask_both(
    denoiser: Denoiser, z: Float[Array, "..."], logsnr: ArrayLike, cond: Condition, null: Any
) -> tuple[Any, Any]:
    """What a network says to the condition and to the null, in one call of twice the batch."""
    towards, away = ask(denoiser, z, logsnr, cond, condition.broadcast(null, cond))
    return towards, away


def combined(combine: Callable[..., Array], towards: Any, *others: Any) -> Any:
    """Outputs combined in ε, or in x̂ and ε̂; a learned v is that of the first, as it is."""
    if not isinstance(towards, Estimate):
        return combine(towards, *others)
    return Estimate(
        x=combine(towards.x, *(other.x for other in others)),
        eps=combine(towards.eps, *(other.eps for other in others)),
        v=towards.v,
    )


def extrapolate(towards: Output, away: Output, w: Any) -> Output:
    """(1 + w) towards - w away; w = 0 and w = -1 return either to the last bit."""

    def combine(towards, away):
        weight = amount(w, towards)
        return (1 + weight) * towards - weight * away

    return combined(combine, towards, away)


def difference(
    towards: Float[Array, "..."] | Estimate,
    away: Float[Array, "..."] | Estimate,
    logsnr: ArrayLike,
) -> Estimate:
    """The difference of two outputs, as a pair.

    Two outputs in ε alone are subtracted before x̂ is made of them: near clean data the x̂ of both
    agree in all but their last digits.
    """
    if isinstance(towards, Estimate):
        return combined(jnp.subtract, towards, away)
    assert not isinstance(away, Estimate)  # one network says one kind of thing
    return as_pair(towards - away, jnp.zeros_like(towards), logsnr)


def prediction_of(pair: Estimate, logsnr: ArrayLike, kind: Kind) -> Float[Array, "..."]:
    """The prediction p = a x̂ + b ε̂ of a pair."""
    signal, noise = expand(alpha(logsnr), pair.x), expand(sigma(logsnr), pair.x)
    a, b = kind.coefficients(signal, noise)
    return floating(a * pair.x + b * pair.eps)


def moved(pair: Estimate, step: Float[Array, "..."], logsnr: ArrayLike, kind: Kind) -> Estimate:
    """The pair whose prediction is that of `pair` plus a step, with the same z."""
    signal, noise = expand(alpha(logsnr), pair.x), expand(sigma(logsnr), pair.x)
    a, b = kind.coefficients(signal, noise)
    d = signal * b - noise * a
    return pair._replace(x=pair.x - (noise / d) * step, eps=pair.eps + (signal / d) * step)


def inner(a: Float[Array, "batch ..."], b: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """<a, b> of each example, its axes kept."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def norm(a: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """‖a‖ of each example, its axes kept; its gradient at 0 is 0."""
    square = inner(a, a)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def ratio(a: Float[Array, "..."], b: Float[Array, "..."], otherwise: float) -> Float[Array, "..."]:
    """The quotient a / b, or `otherwise` where b is 0."""
    return jnp.where(b == 0, otherwise, a / jnp.where(b == 0, 1.0, b))
