"""Patches against loops over them."""

import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.nn import cropped, grid_of, patched, unpatched

RNG = np.random.default_rng(0)
SHAPES = {"sound": (2, 6, 3), "picture": (2, 4, 6, 3), "video": (2, 3, 4, 6, 3)}


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("size", [1, 2])
def test_patches_are_windows_of_space_their_entries_in_order(data, size):
    x = RNG.normal(size=SHAPES[data]).astype(np.float32)
    got = np.asarray(patched(jnp.asarray(x), size))
    sides = x.shape[1:-1]
    grid = grid_of(sides, size)
    assert got.shape[1:-1] == grid
    steps = [side // count for side, count in zip(sides, grid, strict=True)]
    assert steps == ([1] if data == "video" else []) + [size] * min(len(sides), 2)
    for place in np.ndindex(*grid):
        window = tuple(slice(i * s, i * s + s) for i, s in zip(place, steps, strict=True))
        np.testing.assert_array_equal(
            got[(slice(None), *place)], x[(slice(None), *window)].reshape(2, -1)
        )
    np.testing.assert_array_equal(unpatched(jnp.asarray(got), size), x)


def test_patches_that_do_not_divide_the_sides_are_refused():
    with pytest.raises(ValueError, match=r"patches of 2 must divide the sides of space, \[4, 5\]"):
        patched(jnp.ones((1, 4, 5, 1)), 2)


@pytest.mark.parametrize(
    ("wanted", "first"), [((3, 7), (2, 0)), ((7, 4), (0, 1)), ((2, 2), (2, 2))]
)
def test_a_grid_is_cropped_from_its_middle(wanted, first):
    """(side - wanted) // 2 from the beginning, rounded towards it."""
    grid = jnp.asarray(RNG.normal(size=(7, 7, 2)), jnp.float32)
    rows, columns = (slice(a, a + n) for a, n in zip(first, wanted, strict=True))
    np.testing.assert_array_equal(cropped(grid, wanted), grid[rows, columns])


def test_a_grid_holds_no_more_than_it_has():
    with pytest.raises(ValueError, match="a grid of 7×7 places holds no 3×8"):
        cropped(jnp.ones((7, 7, 2)), (3, 8))
