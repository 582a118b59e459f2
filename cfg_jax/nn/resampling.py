"""Resampling of (batch, *sides, channels) arrays: means of blocks, and copies."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def space_axes(ndim: int) -> tuple[int, ...]:
    """The axes of space in an array of so many axes: at most two, next to the channels.

    They are the length of (batch, length, channels), and height and width of (batch, height, width,
    channels) and (batch, frames, height, width, channels).

    >>> from cfg_jax.nn import space_axes
    >>> space_axes(3), space_axes(4), space_axes(5)
    ((1,), (1, 2), (2, 3))
    """
    return tuple(range(max(1, ndim - 3), ndim - 1))


def downsample(
    x: Float[Array, "batch *sides channels"], factor: int = 2, axes: Sequence[int] | None = None
) -> Float[Array, "batch *_ channels"]:
    """Divides sides by a factor: the mean of each block of so many entries a side.

    Args:
      x: An array of (batch, *sides, channels).
      factor: By how much.
      axes: Which axes; those of space if None, so that a video keeps its frames.

    Raises:
      ValueError: The factor does not divide a side.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn import downsample
    >>> downsample(jnp.arange(6.0).reshape(1, 6, 1)).ravel().tolist()
    [0.5, 2.5, 4.5]
    """
    axes = space_axes(x.ndim) if axes is None else axes
    shape: list[int] = []
    inner = []
    for axis, side in enumerate(x.shape):
        if axis not in axes:
            shape.append(side)
            continue
        if side % factor:
            raise ValueError(f"a side of {side} cannot be divided by {factor}")
        shape += [side // factor, factor]
        inner.append(len(shape) - 1)
    return x.reshape(shape).mean(tuple(inner))


def upsample(
    x: Float[Array, "batch *sides channels"], factor: int = 2, axes: Sequence[int] | None = None
) -> Float[Array, "batch *_ channels"]:
    """Multiplies sides by a factor: each entry becomes a block of copies.

    Args:
      x: An array of (batch, *sides, channels).
      factor: By how much.
      axes: Which axes; those of space if None, so that a video keeps its frames.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn import upsample
    >>> upsample(jnp.arange(3.0).reshape(1, 3, 1)).ravel().tolist()
    [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    """
    axes = space_axes(x.ndim) if axes is None else axes
    copied = [factor if axis in axes else 1 for axis in range(x.ndim)]
    pairs = [n for side, copies in zip(x.shape, copied, strict=True) for n in (side, copies)]
    apart = jnp.expand_dims(x, tuple(2 * axis + 1 for axis in range(x.ndim)))
    sides = [side * copies for side, copies in zip(x.shape, copied, strict=True)]
    return jnp.broadcast_to(apart, pairs).reshape(sides)
