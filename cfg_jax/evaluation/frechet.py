"""The Fréchet distance of two sets of features, each taken for a Gaussian.

    d² = |μ₁ - μ₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^(1/2))

(Dowson & Landau 1982; Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", Equation
6, where the features are an Inception network's and d² is called FID.)
"""

import dataclasses

import numpy as np
from jaxtyping import ArrayLike, Float

_ROWS = 4096
"""Samples whose deviations are in memory at a time, in float64."""


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of a set of features, float64.

    Attributes:
      mean: (features,).
      covariance: (features, features), the unbiased estimate (divided by count - 1).
      count: The number of samples; None where a file does not tell.
    """

    mean: Float[np.ndarray, " features"]
    covariance: Float[np.ndarray, "features features"]
    count: int | None


def moments(features: ArrayLike) -> Moments:
    """Mean and covariance of features.

    Args:
      features: (samples, features), at least two samples.

    Returns:
      The moments, float64.

    Raises:
      ValueError: There are fewer than two samples, an entry is NaN or infinite, or the shape is
        another.
    """
    values = np.asarray(features)
    if values.ndim != 2:
        raise ValueError(f"features must have shape (samples, features), got {values.shape}")
    if len(values) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {len(values)}")
    if not np.all(np.isfinite(values)):
        raise ValueError("features must be finite, but hold a NaN or an infinity")
    mean = values.mean(0, dtype=np.float64)
    scatter = np.zeros((len(mean), len(mean)))
    for start in range(0, len(values), _ROWS):
        centred = values[start : start + _ROWS] - mean
        scatter += centred.T @ centred
    return Moments(mean, scatter / (len(values) - 1), len(values))


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared Fréchet distance d² of N(μ₁, C₁) and N(μ₂, C₂).

    tr (C₁ C₂)^(1/2) is the sum of the singular values of C₁^(1/2) C₂^(1/2), which needs no square
    root of a matrix that is not symmetric, and no inverse: either covariance may be singular, as it
    is for fewer samples than features.

    Args:
      a: Moments of one set.
      b: Moments of the other, in the same features.

    Returns:
      d² ≥ 0; 0 for equal moments. Biased upwards for few samples, so compare only equal counts.

    Raises:
      ValueError: The two have different numbers of features.

    >>> import numpy as np
    >>> from cfg_jax.evaluation import Moments, frechet_distance
    >>> a = Moments(np.array([0.0]), np.array([[1.0]]), 100)
    >>> b = Moments(np.array([3.0]), np.array([[4.0]]), 100)
    >>> frechet_distance(a, b)
    10.0
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"the two sets have {len(a.mean)} and {len(b.mean)} features, not the same ones"
        )
    means = np.sum(np.square(a.mean - b.mean))
    roots = _square_root(a.covariance) @ _square_root(b.covariance)
    cross = np.linalg.svd(roots, compute_uv=False).sum()
    covariances = np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return float(means + max(covariances, 0.0))  # Rounding can leave -1e-15 where it is zero.


def _square_root(
    covariance: Float[np.ndarray, "features features"],
) -> Float[np.ndarray, "features features"]:
    values, vectors = np.linalg.eigh(covariance)
    roots = np.sqrt(np.maximum(values, 0.0))  # A singular covariance has some of -1e-17.
    return (vectors * roots) @ vectors.T
