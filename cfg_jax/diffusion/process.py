"""The forward process and its Gaussian posteriors, between any two noise levels.

    q(z_λ | x)        = N(α_λ x, σ_λ² I)
    q(z_λ | z_λ')     = N((α_λ / α_λ') z_λ', σ²_{λ|λ'} I),        σ²_{λ|λ'} = (1 - e^(λ-λ')) σ_λ²
    q(z_λ' | z_λ, x)  = N(μ̃_{λ'|λ}(z_λ, x), σ̃²_{λ'|λ} I),        σ̃²_{λ'|λ} = (1 - e^(λ-λ')) σ_λ'²
    μ̃_{λ'|λ}(z_λ, x)  = e^(λ-λ') (α_λ' / α_λ) z_λ + (1 - e^(λ-λ')) α_λ' x

for λ < λ', that is with λ' the cleaner level (Ho & Salimans 2022, Section 2, Equations 1 to 3).
A noise level is a scalar or a (batch,) vector; z, x and eps are (batch, ...).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.logsnr import (
    alpha,
    expand,
    floating,
    log_one_minus_exp,
    log_sigma,
    one_minus_exp,
    sigma,
)


class Gaussian(NamedTuple):
    """An isotropic Gaussian: `mean` of (batch, ...) and `variance`, a scalar or (batch,)."""

    mean: Float[Array, "..."]
    variance: Float[Array, "..."]


class Transition(NamedTuple):
    """q(z_λ|z_λ') = N(scale · z_λ', variance · I); each a scalar or (batch,)."""

    scale: Float[Array, "..."]
    variance: Float[Array, "..."]


def forward(
    x: Float[Array, "..."], eps: Float[Array, "..."], *, logsnr: ArrayLike
) -> Float[Array, "..."]:
    """z_λ = α_λ x + σ_λ ε, a draw from q(z_λ|x) when ε ~ N(0, I).

    Args:
      x: Data of (batch, ...).
      eps: Standard normal noise of x's shape.
      logsnr: λ, a scalar or (batch,).

    Returns:
      z_λ of x's shape.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.diffusion import process
    >>> process.forward(jnp.ones((2, 1)), jnp.zeros((2, 1)), logsnr=jnp.inf).tolist()
    [[1.0], [1.0]]
    """
    return expand(alpha(logsnr), x) * x + expand(sigma(logsnr), x) * eps


def transition(*, logsnr_from: ArrayLike, logsnr_to: ArrayLike) -> Transition:
    """q(z_λ|z_λ'), from the cleaner λ' = `logsnr_from` to the noisier λ = `logsnr_to`.

    Returns:
      The scale α_λ / α_λ' and the variance σ²_{λ|λ'} = (1 - e^(λ-λ')) σ_λ².
    """
    scale = alpha(logsnr_to) / alpha(logsnr_from)
    return Transition(scale, one_minus_exp(logsnr_to, logsnr_from) * sigma(logsnr_to) ** 2)


def posterior(
    z: Float[Array, "..."], x: Float[Array, "..."], *, logsnr: ArrayLike, logsnr_next: ArrayLike
) -> Gaussian:
    """q(z_λ'|z_λ, x), from the noisier λ = `logsnr` to the cleaner λ' = `logsnr_next`.

    λ' = ∞ gives the point mass at x.

    Args:
      z: z_λ of (batch, ...).
      x: The data, or an estimate of it, of z's shape.
      logsnr: λ, a scalar or (batch,).
      logsnr_next: λ' ≥ λ, likewise.

    Returns:
      The mean μ̃_{λ'|λ}(z_λ, x) and the variance σ̃²_{λ'|λ} = (1 - e^(λ-λ')) σ_λ'².
    """
    fresh = one_minus_exp(logsnr, logsnr_next)
    keep = alpha(logsnr_next) / alpha(logsnr) * jnp.exp(floating(logsnr) - logsnr_next)
    mean = expand(keep, z) * z + expand(fresh * alpha(logsnr_next), z) * x
    return Gaussian(mean, fresh * sigma(logsnr_next) ** 2)


def reverse_variance(
    *, logsnr: ArrayLike, logsnr_next: ArrayLike, v: ArrayLike
) -> Float[Array, "..."]:
    """(σ̃²_{λ'|λ})^(1-v) (σ²_{λ|λ'})^v, the reverse process' variance, interpolated in logs.

    v = 0 is the variance of the posterior given x, the lower bound on the reverse process' own;
    v = 1 the upper bound, that of the forward transition (Nichol & Dhariwal 2021, Equation 15;
    Ho & Salimans 2022, Equation 4). λ' = ∞ gives 0 for every v: the last step of the reverse
    process adds no noise (Algorithm 2).

    Args:
      logsnr: λ, a scalar or (batch,).
      logsnr_next: λ' > λ, likewise.
      v: The interpolation, in [0, 1]; or what a network learned, of z's shape.

    Returns:
      The variance, a scalar or (batch,), or of v's shape.

    Raises:
      ValueError: `v` is a plain number outside [0, 1].
    """
    if jnp.ndim(v) == 0:  # what a network learned may leave the range a little
        checks.within("v", v, 0.0, 1.0)
    to_data = jnp.isposinf(jnp.asarray(logsnr_next))
    target = jnp.where(to_data, 0.0, logsnr_next)  # keeps -∞ · 0 out of the logarithms
    shared = jnp.where(to_data, -jnp.inf, log_one_minus_exp(logsnr, logsnr_next))
    return jnp.exp(shared + 2.0 * ((1.0 - v) * log_sigma(target) + v * log_sigma(logsnr)))
