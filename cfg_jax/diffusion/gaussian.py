"""Divergences and probabilities of Gaussians, by entry, in nats; and their sums by example."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks, process
from cfg_jax.diffusion.logsnr import alpha, log_sigma, one_minus_exp


def normal_kl(
    *, shift: Float[Array, "..."], variance: ArrayLike, log_ratio: ArrayLike
) -> Float[Array, "..."]:
    """KL(N(μ, s²) || N(μ', s'²)) = ½ (s²/s'² - 1 - log(s²/s'²) + (μ - μ')²/s'²), by entry, in nats.

    Args:
      shift: μ - μ'.
      variance: s'², of the second distribution.
      log_ratio: log(s²/s'²).

    Returns:
      The divergence, of the arguments' common shape.
    """
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + jnp.square(shift) / variance)


def reverse_kl(
    error: Float[Array, "..."], *, logsnr: ArrayLike, logsnr_next: ArrayLike, v: ArrayLike
) -> Float[Array, "..."]:
    """KL(q(z_λ'|z_λ, x) || p(z_λ'|z_λ)) of one reverse step, by entry, in nats.

    p has the mean μ̃_{λ'|λ}(z_λ, x̂) and the variance (σ̃²)^(1-v) (σ²)^v.

    Args:
      error: x - x̂.
      logsnr: λ, a scalar, or of a shape that broadcasts to error's.
      logsnr_next: λ' > λ, likewise.
      v: The interpolation, a scalar or of error's shape.

    Returns:
      The divergence, of error's shape.
    """
    return normal_kl(
        shift=one_minus_exp(logsnr, logsnr_next) * alpha(logsnr_next) * error,
        variance=process.reverse_variance(logsnr=logsnr, logsnr_next=logsnr_next, v=v),
        log_ratio=2.0 * v * (log_sigma(logsnr_next) - log_sigma(logsnr)),
    )


def discretized_log_prob(
    x: Float[Array, "..."], *, mean: Float[Array, "..."], variance: ArrayLike, bins: int = 256
) -> Float[Array, "..."]:
    """Log P(x) of a Gaussian whose mass falls into the nearest of `bins` values, by entry, in nats.

        P(x) = Φ((x + h - μ) / s) - Φ((x - h - μ) / s),    h = 1 / (bins - 1)

    with the bins of -1 and 1 open to -∞ and ∞ (Ho et al. 2020, Equation 13).

    Args:
      x: Values of the grid -1, -1 + 2h, …, 1.
      mean: μ, of x's shape.
      variance: s², a scalar or of x's shape.
      bins: The number of values, at least 2.

    Returns:
      log P(x), of x's shape.

    Raises:
      ValueError: bins is not a whole number of at least 2.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.diffusion.likelihood import discretized_log_prob
    >>> p = jnp.exp(discretized_log_prob(jnp.linspace(-1, 1, 3), mean=jnp.zeros(3), variance=0.1,
    ...                                  bins=3))
    >>> round(float(p.sum()), 5)
    1.0
    """
    half, spread = 1.0 / (checks.whole("bins", bins, 2) - 1), jnp.sqrt(variance)
    upper = jnp.where(x > 1.0 - half, jnp.inf, (x + half - mean) / spread)
    lower = jnp.where(x < half - 1.0, -jnp.inf, (x - half - mean) / spread)
    # Mirrored where it lies to the right, so that Φ is a tail there and no difference of ones.
    right = lower + upper > 0
    low, high = jnp.where(right, -upper, lower), jnp.where(right, -lower, upper)
    return log_ndtr(high) + jnp.log1p(-jnp.exp(log_ndtr(low) - log_ndtr(high)))


def per_example(values: Float[Array, "batch ..."], reduce: Callable = jnp.sum) -> Array:
    """Sums, or reduces otherwise, over all axes but the batch's."""
    return reduce(values, axis=tuple(range(1, values.ndim)))


def bits_per_dim(nats: Array, x: Float[Array, "batch ..."]) -> Array:
    """Nats of a whole example of x's shape, in bits for each of its entries."""
    return nats / (math.prod(x.shape[1:]) * math.log(2.0))
