"""The signal and noise levels of a variance-preserving diffusion, as functions of λ.

    λ = log(α_λ² / σ_λ²),    α_λ² = sigmoid(λ),    σ_λ² = sigmoid(-λ)

(Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", Section 2.) Nothing here takes the square
root of 1 - α²: near λ = 20 that difference has no correct digit left in float32. λ = ∞ is allowed
and means clean data: α = 1, σ = 0.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def log_alpha(logsnr: ArrayLike) -> Float[Array, "..."]:
    """Log α_λ, for λ of any shape; 0 at λ = ∞."""
    return 0.5 * jax.nn.log_sigmoid(floating(logsnr))


def log_sigma(logsnr: ArrayLike) -> Float[Array, "..."]:
    """Log σ_λ, for λ of any shape; -∞ at λ = ∞."""
    return 0.5 * jax.nn.log_sigmoid(-floating(logsnr))


def alpha(logsnr: ArrayLike) -> Float[Array, "..."]:
    """α_λ = sqrt(sigmoid(λ)), in (0, 1].

    >>> from cfg_jax.diffusion.logsnr import alpha, sigma
    >>> round(float(alpha(1.0) ** 2 + sigma(1.0) ** 2), 6)
    1.0
    """
    return jnp.sqrt(jax.nn.sigmoid(floating(logsnr)))


def sigma(logsnr: ArrayLike) -> Float[Array, "..."]:
    """σ_λ = sqrt(sigmoid(-λ)), in [0, 1); 0 at λ = ∞ alone."""
    return jnp.sqrt(jax.nn.sigmoid(-floating(logsnr)))


def one_minus_exp(logsnr: ArrayLike, logsnr_next: ArrayLike) -> Float[Array, "..."]:
    """1 - e^(λ-λ') for λ ≤ λ', without cancellation when the two are close."""
    return -jnp.expm1(floating(logsnr) - floating(logsnr_next))


def log_one_minus_exp(logsnr: ArrayLike, logsnr_next: ArrayLike) -> Float[Array, "..."]:
    """log(1 - e^(λ-λ')) for λ ≤ λ', accurate for close and for distant pairs.

    Near 0 the logarithm of expm1 is accurate, far from it log1p of exp is (Mächler 2012,
    "Accurately computing log(1 - exp(-|a|))"). λ = λ' gives -∞.
    """
    gap = floating(logsnr_next) - floating(logsnr)
    near = gap < jnp.log(2.0)
    # Each branch sees a harmless argument where the other one is taken, so gradients stay finite.
    return jnp.where(
        near,
        jnp.log(-jnp.expm1(-jnp.where(near, gap, 1.0))),
        jnp.log1p(-jnp.exp(-jnp.where(near, 1.0, gap))),
    )


def expand(level: ArrayLike, z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Gives a scalar or (batch,) `level` trailing axes, so that it multiplies z of (batch, ...)."""
    level = jnp.asarray(level)
    return level.reshape(level.shape + (1,) * (z.ndim - level.ndim)) if level.ndim else level


def floating(value: ArrayLike) -> Float[Array, "..."]:
    """float32 at least, so that λ in bfloat16 or an integer does not decide the precision."""
    return jnp.asarray(value, jnp.promote_types(jnp.result_type(value), jnp.float32))


def root(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root of what is not negative; its derivative at 0 is 0, where √'s is infinite."""
    positive = value > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, value, 1.0)), 0.0)


def cast_like(tree: Any, like: Any) -> Any:
    """Each array of a pytree in the dtype of its fellow, so that a scan may carry it."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), tree, like)
