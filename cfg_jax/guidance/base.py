"""What guidances share: their type, a strength, and one call of a network for several conditions.

Guidance that is not affine in the prediction acts in a space of its choice, a `prediction.Kind`
p = a x + b ε. There it is a step from one pair (x̂, ε̂) to another with z held:

    p' = p + δ,    x̂' = x̂ - (σ / d) δ,    ε̂' = ε̂ + (α / d) δ,    d = α b - σ a

A step of zero changes no bit, whatever the space.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks, condition
from cfg_jax.diffusion.condition import Condition, PerExample
from cfg_jax.diffusion.denoiser import Denoiser, as_pair
from cfg_jax.diffusion.logsnr import alpha, expand, floating, sigma
from cfg_jax.diffusion.prediction import Estimate, Kind

Output = TypeVar("Output", bound=Float[Array, "..."] | Estimate)


class Guidance:
    """A denoiser that guides another one, its field `denoiser`."""

    denoiser: Any

    @property
    def unguided(self) -> Denoiser:
        """The denoiser where guidance is off."""
        return self.denoiser


def strength(name: str, value: ArrayLike) -> Any:
    """A finite number as an array, or one for each example, of (batch,), marked `PerExample`.

    Raises:
      ValueError: It holds a NaN or an infinity, or has more than one axis.
    """
    checks.finite(name, value)
    value = floating(value)
    if value.ndim > 1:
        raise ValueError(f"{name} must be a number or have shape (batch,), got shape {value.shape}")
    return PerExample(value) if value.ndim else value


def amount(value: Any, like: Float[Array, "..."]) -> Float[Array, "..."]:
    """A `strength` with the axes that let it multiply `like`."""
    return expand(value.values if isinstance(value, PerExample) else value, like)


def ask(
    denoiser: Denoiser, z: Float[Array, "..."], logsnr: ArrayLike, *conds: Condition
) -> list[Any]:
    """Calls a network once, on one batch of all conditions; returns its output for each of them."""
    count = len(conds)
    logsnr = jnp.asarray(logsnr)
    output = denoiser(
        jnp.concatenate([z] * count),
        jnp.concatenate([logsnr] * count) if logsnr.ndim else logsnr,
        jax.tree.map(lambda *parts: jnp.concatenate(parts), *conds),
    )
    leaves, structure = jax.tree.flatten(output)
    parts = zip(*(jnp.split(leaf, count) for leaf in leaves), strict=True)
    return [jax.tree.unflatten(structure, part) for part in parts]


def ask_both(
    denoiser: Denoiser, z: Float[Array, "..."], logsnr: ArrayLike, cond: Condition, null: Any
) -> tuple[Any, Any]:
    """What a network says to the condition and to the null, in one call of twice the batch."""
    towards, away = ask(denoiser, z, logsnr, cond, condition.broadcast(null, cond))
    return towards, away


def extrapolate(towards: Output, away: Output, w: Any) -> Output:
    """(1 + w) towards - w away; w = 0 and w = -1 return either to the last bit."""

    def combine(towards, away):
        weight = amount(w, towards)
        return (1 + weight) * towards - weight * away

    return jax.tree.map(combine, towards, away)


def difference(
    towards: Float[Array, "..."] | Estimate,
    away: Float[Array, "..."] | Estimate,
    logsnr: ArrayLike,
) -> Estimate:
    """The difference of two outputs, as a pair.

    Two outputs in ε alone are subtracted before x̂ is made of them: near clean data the x̂ of both
    agree in all but their last digits.
    """
    if isinstance(towards, Estimate) or isinstance(away, Estimate):
        return jax.tree.map(jnp.subtract, towards, away)
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
    return Estimate(x=pair.x - (noise / d) * step, eps=pair.eps + (signal / d) * step)


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
