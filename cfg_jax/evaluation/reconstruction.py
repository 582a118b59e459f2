"""How near a codec's pictures come to the originals, and how much its latents tell of them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float
from scipy import ndimage, special

WINDOW, DEVIATION = 11, 1.5
"""Side and standard deviation of SSIM's Gaussian window."""

K1, K2 = 0.01, 0.03
"""The constants that keep SSIM's quotients stable, as shares of the data's range."""


class Usage(NamedTuple):
    """What a set makes of a codebook.

    Attributes:
      used: The share of codes that occur.
      perplexity: The exponential of the entropy of how often each occurs, from 1 to their number.
    """

    used: float
    perplexity: float


def psnr(x: ArrayLike, reference: ArrayLike, *, data_range: float) -> Float[np.ndarray, " batch"]:
    """Peak signal-to-noise ratio of each example in dB, 10 log₁₀(range² / mean squared error).

    Args:
      x: Examples of (batch, ...).
      reference: What they should be, of the same shape.
      data_range: The largest value less the smallest that data can have: 2 for [-1, 1].

    Returns:
      Float64; infinity where an example is exact.

    Raises:
      ValueError: The shapes differ, or data_range is not positive.

    >>> import numpy as np
    >>> from cfg_jax.evaluation import psnr
    >>> psnr(np.full((1, 4, 4, 3), 0.2), np.zeros((1, 4, 4, 3)), data_range=2.0).tolist()
    [20.0]
    """
    x, reference = _pair(x, reference, data_range)
    error = np.square(x - reference).reshape(len(x), -1).mean(1)
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(data_range**2 / error)


def ssim(x: ArrayLike, reference: ArrayLike, *, data_range: float) -> Float[np.ndarray, " batch"]:
    """Structural similarity of each picture, the mean over all places and channels.

        (2 μ μ' + C₁) (2 σ_xx' + C₂) / ((μ² + μ'² + C₁) (σ² + σ'² + C₂)),   C = (K · range)²

    with means, variances and covariance weighted by a Gaussian window of 11 × 11 and σ = 1.5 that
    lies within the picture (Wang et al. 2004, "Image Quality Assessment: From Error Visibility to
    Structural Similarity", Equation 13).

    Args:
      x: Pictures of (batch, height, width, channels).
      reference: What they should be, of the same shape.
      data_range: The largest value less the smallest that data can have: 2 for [-1, 1].

    Returns:
      Float64 within [-1, 1]; 1 where a picture is exact.

    Raises:
      ValueError: The shapes differ, are no pictures of at least 11 × 11, or data_range is not
        positive.

    >>> import numpy as np
    >>> from cfg_jax.evaluation import ssim
    >>> x = np.linspace(-1, 1, 256).reshape(1, 16, 16, 1)
    >>> ssim(x, x, data_range=2.0).tolist()
    [1.0]
    """
    x, reference = _pair(x, reference, data_range)
    if x.ndim != 4 or min(x.shape[1:3]) < WINDOW:
        raise ValueError(
            f"SSIM is of pictures (batch, height, width, channels) of at least {WINDOW}×{WINDOW}, "
            f"got {x.shape}"
        )
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    a, b = _local_mean(x), _local_mean(reference)
    var_a = _local_mean(x * x) - a * a
    var_b = _local_mean(reference * reference) - b * b
    covariance = _local_mean(x * reference) - a * b
    means = (2 * a * b + c1) / (a * a + b * b + c1)
    return (means * (2 * covariance + c2) / (var_a + var_b + c2)).mean((1, 2, 3))


def bits_per_dimension(kl: ArrayLike, *, dimensions: int) -> float:
    """What latents tell of an example, in bits for each of its numbers: E[KL] / (D ln 2).

    Args:
      kl: KL(q(ẑ|x) ‖ N(0, 1)) of each example in nats, as `Moments.kl` gives it.
      dimensions: D, how many numbers an example has.

    Raises:
      ValueError: There are no examples, or D is not positive.

    >>> import numpy as np
    >>> from cfg_jax.evaluation import bits_per_dimension
    >>> round(bits_per_dimension(np.log(2.0) * np.array([96]), dimensions=48), 6)
    2.0
    """
    kl = np.asarray(kl, np.float64)
    if kl.size == 0 or dimensions < 1:
        raise ValueError(
            f"bits per dimension need examples and dimensions, got {kl.size} and {dimensions}"
        )
    return float(kl.mean() / (dimensions * np.log(2.0)))


def codebook_usage(counts: ArrayLike) -> Usage:
    """Usage and perplexity of a codebook.

    Args:
      counts: How often each code occurred in the whole set, (codes,). Those of a single batch read
        too low: its perplexity is at most the number of its places.

    Raises:
      ValueError: No code occurred, or a count is negative.

    >>> import numpy as np
    >>> from cfg_jax.evaluation import codebook_usage
    >>> codebook_usage(np.array([3, 0, 3, 0]))
    Usage(used=0.5, perplexity=2.0)
    """
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 1 or not counts.sum() > 0 or (counts < 0).any():
        raise ValueError("counts must be of (codes,), none negative and not all zero")
    entropy = special.entr(counts / counts.sum()).sum()
    return Usage(float((counts > 0).mean()), float(np.exp(entropy)))


def _pair(
    x: ArrayLike, reference: ArrayLike, data_range: float
) -> tuple[Float[np.ndarray, "batch ..."], Float[np.ndarray, "batch ..."]]:
    """Both in float64, checked."""
    x, reference = np.asarray(x, np.float64), np.asarray(reference, np.float64)
    if x.shape != reference.shape or x.size == 0:
        raise ValueError(f"the two must have the same shape, got {x.shape} and {reference.shape}")
    if not data_range > 0:
        raise ValueError(f"data_range must be positive, got {data_range}")
    return x, reference


def _local_mean(x: Float[np.ndarray, "batch height width channels"]) -> np.ndarray:
    """Means weighted by the window, wherever it lies within the picture."""
    reach = WINDOW // 2
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / DEVIATION))
    weights /= weights.sum()
    for axis in (1, 2):
        x = ndimage.correlate1d(x, weights, axis=axis)
    return x[:, reach:-reach, reach:-reach]
