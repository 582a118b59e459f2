"""Precision and recall of samples: the share of each set within the other's support.

A set's support is the union of balls around its points, each reaching to the point's k-th nearest
neighbour in the set. Precision is the share of samples within the real images' support, recall the
share of real images within the samples' (Kynkäänniemi et al. 2019, "Improved Precision and Recall
Metric for Assessing Generative Models", Equations 1 and 2, with k = 3).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float


def precision_recall(
    real: ArrayLike, samples: ArrayLike, *, neighbours: int = 3, block: int = 1024
) -> tuple[float, float]:
    """Precision and recall, each in [0, 1].

    Args:
      real: Features of real images, (images, features).
      samples: Features of samples, in the same features; both measures depend on the numbers of
        images, so compare only equal ones.
      neighbours: k, from 1 up; an image is not its own neighbour.
      block: Rows of the matrix of distances that are in memory at a time.

    Returns:
      Precision and recall.

    Raises:
      ValueError: Features are not two finite matrices of as many columns, or a set has no more
        than k images.

    >>> import numpy as np
    >>> from cfg_jax.evaluation import precision_recall
    >>> real = np.arange(10.0)[:, None]
    >>> precision_recall(real, real[:5] + 0.5, neighbours=1)
    (1.0, 0.6)
    """
    a, b = _checked(real, neighbours), _checked(samples, neighbours)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the sets have {a.shape[1]} and {b.shape[1]} features, not the same ones")
    centre = a.mean(0)  # Squared distances then are differences of smaller numbers.
    x, y = (jnp.asarray(f - centre, jnp.float32) for f in (a, b))
    precision = _share_within(y, x, _radii(x, neighbours, block), block)
    recall = _share_within(x, y, _radii(y, neighbours, block), block)
    return precision, recall


def _checked(features: ArrayLike, neighbours: int) -> np.ndarray:
    values = np.asarray(features)
    if values.ndim != 2 or not np.all(np.isfinite(values)):
        raise ValueError(f"features must be finite, of (images, features); got {values.shape}")
    if not 1 <= neighbours < len(values):
        raise ValueError(
            f"neighbours must lie in [1, {len(values) - 1}], less than the {len(values)} images "
            f"of a set; got {neighbours}"
        )
    return values


def _radii(x: Array, neighbours: int, block: int) -> Array:
    """The squared distance of each point to its k-th nearest neighbour."""
    rows = range(0, len(x), block)
    return jnp.concatenate([_nearest(x[i : i + block], x, neighbours) for i in rows])


def _share_within(points: Array, centres: Array, radii: Array, block: int) -> float:
    rows = range(0, len(points), block)
    return float(
        np.concatenate([_within(points[i : i + block], centres, radii) for i in rows]).mean()
    )


@functools.partial(jax.jit, static_argnums=2)
def _nearest(
    rows: Float[Array, "rows features"], x: Float[Array, "n features"], k: int
) -> Float[Array, " rows"]:
    return -jax.lax.top_k(-_squared_distances(rows, x), k + 1)[0][:, k]  # The first is its own.


@jax.jit
def _within(
    rows: Float[Array, "rows features"], centres: Float[Array, "n features"], radii: Array
) -> Bool[Array, " rows"]:
    return jnp.any(_squared_distances(rows, centres) <= radii, axis=1)


def _squared_distances(
    x: Float[Array, "n features"], y: Float[Array, "m features"]
) -> Float[Array, "n m"]:
    products = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.square(x).sum(1)[:, None] + jnp.square(y).sum(1)
    return jnp.maximum(squares - 2.0 * products, 0.0)
