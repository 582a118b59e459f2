"""Fresh scenes of the digits that training scenes show, for the detector to learn from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from cfg_jax.data.scenes import CELLS, COLOURS, DIGIT_SIDE, SIDE

LEVELS = np.array(list(COLOURS.values()), np.float32) / 255.0
"""Each colour as red, green and blue in [0, 1]."""

FILLED = 0.6
"""The share of cells that hold a digit."""


class Stencils(NamedTuple):
    """Digits as ink on nothing.

    Attributes:
      ink: In [0, 1].
      digit: Which each one is.
    """

    ink: Float[Array, "n side side"]
    digit: Int[Array, " n"]


class Composed(NamedTuple):
    """Scenes, and what stands in each of their cells.

    Attributes:
      x: The pictures, in [-1, 1].
      there: Whether there is a digit in a cell.
      digit: Which.
      colour: In which colour.
    """

    x: Float[Array, "batch side side 3"]
    there: Bool[Array, "batch rows columns"]
    digit: Int[Array, "batch rows columns"]
    colour: Int[Array, "batch rows columns"]


def stencils(x: UInt8[np.ndarray, "n side side 3"], objects: Int[np.ndarray, "n 3 4"]) -> Stencils:
    """The digits of scenes, without their colours.

    Args:
      x: The pictures.
      objects: Digit, colour, row and column of each, -1 where there are fewer.
    """
    scene, place = np.nonzero(objects[..., 0] >= 0)
    digit, colour, row, column = objects[scene, place].T
    along = np.arange(DIGIT_SIDE)
    rows, columns = row[:, None, None] + along[:, None], column[:, None, None] + along
    channel = LEVELS[colour].argmax(-1)
    ink = x[scene[:, None, None], rows, columns, channel[:, None, None]] / np.float32(255.0)
    ink = np.minimum(ink / LEVELS[colour].max(-1)[:, None, None], 1.0)
    return Stencils(ink, digit.astype(np.int32))


def compose(key: jax.Array, of: Stencils, batch: int) -> Composed:
    """Draws scenes with a digit in most cells, all colours alike, each digit distorted a little.

    So there are more digits to learn from than in scenes that have captions, and no pair of colour
    and digit is rarer than another.
    """
    keys = iter(jax.random.split(key, 7))
    grid = (batch, CELLS, CELLS)
    there = jax.random.bernoulli(next(keys), FILLED, grid)
    chosen = jax.random.randint(next(keys), grid, 0, len(of.digit))
    colour = jax.random.randint(next(keys), grid, 0, len(LEVELS))
    ink = distorted(next(keys), jnp.asarray(of.ink)[chosen]) * there[..., None, None]
    light = jnp.asarray(LEVELS)[colour]
    light *= jax.random.uniform(next(keys), (*grid, 1), minval=0.85, maxval=1.15)
    x = jnp.clip(jnp.einsum("brcyx,brck->brycxk", ink, light), 0.0, 1.0)
    x = x.reshape(batch, SIDE, SIDE, -1)
    amount = jax.random.uniform(next(keys), (batch, 1, 1, 1), maxval=0.05)
    noise = amount * jax.random.normal(next(keys), x.shape)
    x = jnp.clip(2.0 * x - 1.0 + noise, -1.0, 1.0)
    return Composed(x, there, jnp.asarray(of.digit)[chosen], colour)


def distorted(
    key: jax.Array, ink: Float[Array, "batch rows columns side side"]
) -> Float[Array, "batch rows columns side side"]:
    """Rotates, scales, shears and shifts each digit a little, and writes it thicker or thinner."""
    limits = jnp.array([0.2, 0.1, 0.1, 0.15, 0.4, 0.4, 0.3])
    drawn = jax.random.uniform(key, (7, *ink.shape[:3]), minval=-1.0) * limits[:, None, None, None]
    angle, tall, wide, shear, down, right, thin = drawn[..., None, None]
    middle = (DIGIT_SIDE - 1) / 2
    row, column = jnp.indices(ink.shape[3:]) - middle
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    y = (cosine * row - sine * column) * (1.0 + tall)
    x = (sine * row + cosine * column) * (1.0 + wide) + shear * y

    def looked_up(picture: Array, *at: Array) -> Array:
        return jax.scipy.ndimage.map_coordinates(picture, at, order=1)

    each = jax.vmap(jax.vmap(jax.vmap(looked_up)))
    found = each(ink, middle + y + down, middle + x + right)
    return jnp.maximum(found, 1e-6) ** jnp.exp(thin)
