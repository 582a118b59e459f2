"""Patches of space as places: arrays cut into them, and put together again."""

from collections.abc import Sequence

from jaxtyping import Array, Float

from cfg_jax.nn.resampling import space_axes


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
    batch, *sides, channels = x.shape
    cut = len(space_axes(x.ndim))
    frames, space = sides[: len(sides) - cut], sides[len(sides) - cut :]
    if any(side % size for side in space):
        raise ValueError(f"patches of {size} must divide the sides of space, {space}")
    pairs = [n for side in space for n in (side // size, size)]
    apart = x.reshape(batch, *frames, *pairs, channels)
    first = apart.ndim - 1 - len(pairs)
    grid, within = range(first, apart.ndim - 1, 2), range(first + 1, apart.ndim - 1, 2)
    moved = apart.transpose(*range(first), *grid, *within, apart.ndim - 1)
    return moved.reshape(batch, *grid_of(sides, size), size**cut * channels)


def unpatched(x: Float[Array, "batch *grid _"], size: int) -> Float[Array, "batch *_ _"]:
    """Puts patches together again, as `patched` cuts them.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn import patched, unpatched
    >>> x = jnp.arange(48.0).reshape(1, 4, 6, 2)
    >>> bool((unpatched(patched(x, 2), 2) == x).all())
    True
    """
    batch, *grid, entries = x.shape
    cut = len(space_axes(x.ndim))
    channels = entries // size**cut
    frames, space = grid[: len(grid) - cut], grid[len(grid) - cut :]
    apart = x.reshape(batch, *frames, *space, *(size,) * cut, channels)
    first = 1 + len(frames)
    order = [axis for i in range(cut) for axis in (first + i, first + cut + i)]
    moved = apart.transpose(*range(first), *order, apart.ndim - 1)
    return moved.reshape(batch, *frames, *(side * size for side in space), channels)


def grid_of(sides: Sequence[int], size: int) -> tuple[int, ...]:
    """How many patches there are along each side; frames of a video count one by one.

    >>> from cfg_jax.nn import grid_of
    >>> grid_of((8, 6), 2), grid_of((3, 8, 6), 2)
    ((4, 3), (3, 4, 3))
    """
    cut = {axis - 1 for axis in space_axes(len(sides) + 2)}
    return tuple(side // size if axis in cut else side for axis, side in enumerate(sides))


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
