"""Vector quantisation: the nearest code of a codebook, its losses, and codes that nothing uses.

van den Oord et al. 2017, "Neural Discrete Representation Learning".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

AT_ONCE = 4096
"""So many vectors are compared with all codes at a time, which bounds the memory of distances."""


class Quantised(NamedTuple):
    """Vectors in the place of which codes stand.

    Attributes:
      vectors: The codes' vectors (batch, *sides, width), whose gradient is passed straight through
        to what was quantised, and none of it to the codebook.
      codes: The codes' numbers, int32 (batch, *sides).
      loss: Of each example, what pulls codes and vectors together.
      inputs: What was quantised.
    """

    vectors: Float[Array, "batch *sides width"]
    codes: Int[Array, "batch *sides"]
    loss: Float[Array, " batch"]
    inputs: Float[Array, "batch *sides width"]


def nearest(
    codebook: Float[Array, "codes width"], z: Float[Array, "*places width"]
) -> Int[Array, "*places"]:
    """The number of the nearest code, argmin_k ‖z - e_k‖², the first of several.

    ‖z - e‖² is ‖z‖² - 2 z·e + ‖e‖², where the first term decides nothing. Both are measured from
    the mean code, so that codes close to each other and far from zero keep their digits.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.codecs.quantise import nearest
    >>> nearest(jnp.array([[0.0], [1.0], [4.0]]), jnp.array([[0.4], [9.0], [2.4]])).tolist()
    [0, 2, 1]
    """
    codebook, z = jax.lax.stop_gradient((codebook, z))
    e = codebook - codebook.mean(0)
    vectors = (z - codebook.mean(0)).reshape(-1, z.shape[-1])
    squares = jnp.square(e).sum(-1)

    def code(vector):
        products = jnp.matmul(e, vector, precision=jax.lax.Precision.HIGHEST)
        return jnp.argmin(squares - 2.0 * products).astype(jnp.int32)

    if len(vectors) <= AT_ONCE:
        return jax.vmap(code)(vectors).reshape(z.shape[:-1])
    return jax.lax.map(code, vectors, batch_size=AT_ONCE).reshape(z.shape[:-1])


def quantise(
    codebook: Float[Array, "codes width"],
    z: Float[Array, "batch *sides width"],
    *,
    beta: float = 0.25,
    swapped: bool = False,
) -> Quantised:
    """Each vector's nearest code; the loss is mean (e - sg z)² + β mean (sg e - z)².

    (Equation 3, sg being the identity without gradient, the means over an example's entries.)

    Args:
      codebook: The codes.
      z: Vectors, (batch, *sides, width).
      beta: How much vectors are drawn to their codes, against codes to their vectors.
      swapped: Lay β on the other term, which draws codes to vectors, as the published VQ models of
        latent diffusion were trained.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.codecs.quantise import quantise
    >>> found = quantise(jnp.array([[0.0], [1.0]]), jnp.array([[[0.5], [3.0]]]))
    >>> found.vectors.ravel().tolist(), found.codes.tolist(), found.loss.tolist()
    ([0.0, 1.0], [[0, 1]], [2.65625])
    """
    codes = nearest(codebook, z)
    e = codebook[codes]
    axes = tuple(range(1, z.ndim))
    of_codes = jnp.square(e - jax.lax.stop_gradient(z)).mean(axes)
    of_vectors = jnp.square(jax.lax.stop_gradient(e) - z).mean(axes)
    loss = beta * of_codes + of_vectors if swapped else of_codes + beta * of_vectors
    return Quantised(z + jax.lax.stop_gradient(e - z), codes, loss, z)


def counts(codes: Int[Array, "..."], size: int) -> Int[Array, " size"]:
    """How often each of `size` codes occurs: counts of several batches add up."""
    return jnp.bincount(codes.ravel(), length=size)


def perplexity(counts: Int[Array, " codes"] | Float[Array, " codes"]) -> Float[Array, ""]:
    """The exponential of the entropy of how often codes occur, from 1 to the number of codes.

    Of one batch it is at most the number of its places: add the counts of a whole set.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.codecs.quantise import perplexity
    >>> round(float(perplexity(jnp.array([5, 5, 0, 5, 5]))), 5)
    4.0
    """
    p = counts / jnp.maximum(counts.sum(), 1)
    return jnp.exp(jax.scipy.special.entr(p).sum())


def revived(
    codebook: Float[Array, "codes width"],
    counts: Int[Array, " codes"] | Float[Array, " codes"],
    z: Float[Array, "*places width"],
    key: jax.Array,
    *,
    least: float = 1.0,
) -> tuple[Float[Array, "codes width"], Bool[Array, " codes"]]:
    """Puts dead codes where vectors are.

    Each gets a vector of its own, drawn without replacement, so no more codes are revived than
    there are vectors (Dhariwal et al. 2020, "Jukebox", Section 3.1).

    Args:
      codebook: The codes.
      counts: How often each occurred.
      z: Vectors that were quantised.
      key: A JAX random key.
      least: Codes that occurred less often are dead.

    Returns:
      The codebook, and which of its rows are new: an optimiser's moments of those are out of date.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.codecs.quantise import revived
    >>> book, new = revived(jnp.zeros((3, 1)), jnp.array([4, 0, 2]), 5 * jnp.ones((2, 1)),
    ...                     jax.random.key(0))
    >>> book.ravel().tolist(), new.tolist()
    ([0.0, 5.0, 0.0], [False, True, False])
    """
    vectors = jax.lax.stop_gradient(z.reshape(-1, z.shape[-1]))
    dead = counts < least
    rank = jnp.cumsum(dead) - 1
    new = dead & (rank < len(vectors))
    drawn = jax.random.permutation(key, len(vectors))[rank % len(vectors)]
    return jnp.where(new[:, None], vectors[drawn].astype(codebook.dtype), codebook), new
