"""Patches as places: arrays cut into them, and put together again."""

import itertools
from collections.abc import Sequence

from jaxtyping import Array, Float

from cfg_jax.nn.resampling import space_axes


def folded(x: Float[Array, "batch *sides _"], sizes: Sequence[int]) -> Float[Array, "batch *_ _"]:
    """Puts so many neighbours along each side into the channels of one place, the last side last.

    (batch, height, width, channels) becomes (batch, height / a, width / b, a · b · channels) for
    sizes (a, b), the channels of an entry next to each other.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn import folded
    >>> folded(jnp.arange(8.0).reshape(1, 2, 4, 1), (1, 2)).tolist()
    [[[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]]]
    """
    batch, *sides, channels = x.shape
    apart = [(side // size, size) for side, size in zip(sides, sizes, strict=True)]
    last = 2 * len(sides) + 1
    order = (0, *range(1, last, 2), *range(2, last, 2), last)
    h = x.reshape(batch, *itertools.chain(*apart), channels).transpose(order)
    return h.reshape(batch, *(grid for grid, _ in apart), -1)


def unfolded(x: Float[Array, "batch *grid _"], sizes: Sequence[int]) -> Float[Array, "batch *_ _"]:
    """The way back from `folded`.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn import folded, unfolded
    >>> x = jnp.arange(48.0).reshape(1, 4, 6, 2)
    >>> bool((unfolded(folded(x, (2, 3)), (2, 3)) == x).all())
    True
    """
    batch, *grid, _ = x.shape
    count = len(grid)
    order = itertools.chain(*((1 + i, 1 + count + i) for i in range(count)))
    h = x.reshape(batch, *grid, *sizes, -1).transpose(0, *order, 2 * count + 1)
    sides = (side * size for side, size in zip(grid, sizes, strict=True))
    return h.reshape(batch, *sides, h.shape[-1])


def patched(x: Float[Array, "batch *sides _"], size: int) -> Float[Array, "batch *_ _"]:
    """Cuts space into patches of so many entries a side, the entries of each in its channels.

    (batch, height, width, channels) becomes (batch, height / size, width / size, size · size ·
    channels), the channels of an entry next to each other; frames of a video are kept.

    Raises:
      ValueError: The size does not divide a side.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn import patched
    >>> patched(jnp.arange(8.0).reshape(1, 2, 4, 1), 2).tolist()
    [[[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]]]
    """
    space = [x.shape[axis] for axis in space_axes(x.ndim)]
    if any(side % size for side in space):
        raise ValueError(f"patches of {size} must divide the sides of space, {space}")
    return folded(x, _sizes(x.ndim, size))


def unpatched(x: Float[Array, "batch *grid _"], size: int) -> Float[Array, "batch *_ _"]:
    """Puts patches together again, as `patched` cuts them.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn import patched, unpatched
    >>> x = jnp.arange(48.0).reshape(1, 4, 6, 2)
    >>> bool((unpatched(patched(x, 2), 2) == x).all())
    True
    """
    return unfolded(x, _sizes(x.ndim, size))


def grid_of(sides: Sequence[int], size: int) -> tuple[int, ...]:
    """How many patches there are along each side; frames of a video count one by one.

    >>> from cfg_jax.nn import grid_of
    >>> grid_of((8, 6), 2), grid_of((3, 8, 6), 2)
    ((4, 3), (3, 4, 3))
    """
    sizes = _sizes(len(sides) + 2, size)
    return tuple(side // each for side, each in zip(sides, sizes, strict=True))


def _sizes(ndim: int, size: int) -> tuple[int, ...]:
    """A patch's entries along each side of an array with so many axes: 1 along frames."""
    space = space_axes(ndim)
    return tuple(size if axis in space else 1 for axis in range(1, ndim - 1))


def cropped(
    grid: Float[Array, "*sides channels"], sides: Sequence[int]
) -> Float[Array, "*_ channels"]:
    """The middle of a grid, (side - wanted) // 2 entries from its beginning along each side.

    Raises:
      ValueError: More is wanted than there is.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn import cropped
    >>> cropped(jnp.arange(7.0)[:, None], (4,)).ravel().tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    there = grid.shape[:-1]
    if any(wanted > side for wanted, side in zip(sides, there, strict=True)):
        raise ValueError(f"a grid of {_by(there)} places holds no {_by(sides)}")
    starts = [(side - wanted) // 2 for wanted, side in zip(sides, there, strict=True)]
    return grid[tuple(slice(a, a + n) for a, n in zip(starts, sides, strict=True))]


def _by(sides: Sequence[int]) -> str:
    return "×".join(map(str, sides))
