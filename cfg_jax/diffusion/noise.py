"""Random streams, by name: whatever is random for example i is a function of (key, stream, i).

Every stream is a constant that is folded into the key. Examples have small numbers, so the streams
count down from the largest: a key's streams and its examples never meet.
"""

import enum
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from cfg_jax.diffusion import checks


class Stream(enum.IntEnum):
    """What is drawn."""

    AUGMENTATION = 2**32 - 1  # noise laid on a condition
    AUGMENTATION_LEVEL = 2**32 - 2  # how much of it
    LEVEL = 2**32 - 3  # λ of a training example
    NOISE = 2**32 - 4  # ε of a training example
    HIDING = 2**32 - 5  # which entries of its condition are hidden
    DROPOUT = 2**32 - 6
    STEP = 2**32 - 7  # what an objective draws beside these
    LATENTS = 2**32 - 8  # z of a training example, where its codec is random
    OFFSET = 2**32 - 9  # what a training example's ε is shifted by
    PERTURBATION = 2**32 - 10  # what is added to its ε where z is made
    CUTOUTS = 2**32 - 11  # the parts of x̂ that guidance looks at


def stream(key: jax.Array, name: Stream) -> jax.Array:
    """The key of a stream."""
    return jax.random.fold_in(key, int(name))


def numbers(offset: Any, count: int) -> Int[Array, " batch"]:
    """The numbers of so many examples, the first of them plain or traced.

    Raises:
      ValueError: The first is no whole number, or the last does not fit into int32.
    """
    if not isinstance(offset, jax.core.Tracer):
        offset = checks.whole("offset", offset, 0, 2**31 - max(count, 1))
    return offset + jnp.arange(count)


def examples(key: jax.Array, index: Int[Array, " batch"], name: Stream | None = None) -> jax.Array:
    """One key an example, of a stream or of the key itself.

    Args:
      key: A JAX random key.
      index: The examples' numbers.
      name: The stream.

    Returns:
      Keys of (batch,).
    """
    key = key if name is None else stream(key, name)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def first_and_steps(key: jax.Array, fold: ArrayLike) -> jax.Array:
    """The key of an example's first noise, fold 0, or of the noise of step t, fold t + 1."""
    return jax.random.fold_in(key, fold)
