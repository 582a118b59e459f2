"""The kernel distance of two sets of features: an unbiased estimate of their squared MMD.

    MMD² = Σ_{i≠j} k(x_i, x_j) / m(m-1) + Σ_{i≠j} k(y_i, y_j) / m(m-1) - 2 Σ_{i,j} k(x_i, y_j) / m²
    k(x, y) = (xᵀy / d + 1)³ in d dimensions

(Bińkowski et al. 2018, "Demystifying MMD GANs", Section 4, where the features are an Inception
network's and the distance is called KID.)
"""

import numpy as np
from jaxtyping import ArrayLike, Float


def kernel_distance(
    a: ArrayLike, b: ArrayLike, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of MMD² over random subsets of equal size, in float64.

    Args:
      a: Features of (samples, features).
      b: Features of the other set; the sets may differ in size.
      subsets: How many pairs of subsets to draw.
      subset_size: Samples of each set in a pair, drawn without replacement.
      seed: Decides which.

    Returns:
      Mean and standard deviation (divided by `subsets`). The mean is an unbiased estimate whatever
      the numbers of samples, so it may be negative; it estimates 0 for equal distributions.

    Raises:
      ValueError: Features are not two finite matrices of as many columns, or a set is smaller than
        a subset.

    >>> import numpy as np
    >>> from cfg_jax.evaluation import kernel_distance
    >>> kernel_distance(np.zeros((4, 1)), np.ones((4, 1)), subsets=3, subset_size=4)
    (7.0, 0.0)
    """
    x, y = _checked(a), _checked(b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"the sets have {x.shape[1]} and {y.shape[1]} features, not the same ones")
    if not 2 <= subset_size <= min(len(x), len(y)):
        raise ValueError(
            f"subset_size must lie in [2, {min(len(x), len(y))}], the smaller set's number of "
            f"samples; got {subset_size}"
        )
    if subsets < 1:
        raise ValueError(f"subsets must be at least 1, got {subsets}")
    rng = np.random.default_rng(seed)
    distances = [
        _squared_mmd(
            x[rng.choice(len(x), subset_size, replace=False)],
            y[rng.choice(len(y), subset_size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return float(np.mean(distances)), float(np.std(distances))


def _checked(features: ArrayLike) -> Float[np.ndarray, "samples features"]:
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or not np.all(np.isfinite(values)):
        raise ValueError(f"features must be finite, of (samples, features); got {values.shape}")
    return values


def _squared_mmd(
    x: Float[np.ndarray, "samples features"], y: Float[np.ndarray, "samples features"]
) -> float:
    m = len(x)
    within = sum(_kernel(z, z).sum() - np.sum(_norms(z)) for z in (x, y))
    return float(within / (m * (m - 1)) - 2.0 * _kernel(x, y).mean())


def _kernel(
    x: Float[np.ndarray, "n features"], y: Float[np.ndarray, "m features"]
) -> Float[np.ndarray, "n m"]:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _norms(x: Float[np.ndarray, "n features"]) -> Float[np.ndarray, " n"]:
    """k(x_i, x_i)."""
    return (np.sum(np.square(x), axis=1) / x.shape[1] + 1.0) ** 3
