"""Images of uint8 laid out in grids, and grids as PNG files."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cfg_jax.runtime.files import atomic


def enlarge(images: np.ndarray, factor: int) -> np.ndarray:
    """Images of (batch, height, width, channels), each pixel as a square of so many."""
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def interleave(rows: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Stacks of as many images, as one: so many of the first, as many of the second, and so on."""
    starts = range(0, len(rows[0]), columns)
    return np.concatenate([row[start : start + columns] for start in starts for row in rows])


def tile(images: np.ndarray, columns: int, *, padding: int = 1) -> np.ndarray:
    """Lays images out in rows.

    Args:
      images: uint8 of (count, height, width, channels).
      columns: Images a row.
      padding: White pixels between neighbours and around.

    Returns:
      One uint8 image of (rows · (height + padding) + padding, …, channels).
    """
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    step_y, step_x = height + padding, width + padding
    canvas = np.full((rows * step_y + padding, columns * step_x + padding, channels), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = padding + (i // columns) * step_y, padding + (i % columns) * step_x
        canvas[y : y + height, x : x + width] = image
    return canvas


def save_grid(path: Path, images: np.ndarray, columns: int, *, smallest: int = 32) -> None:
    """Writes a grid of images as a PNG, tiny ones enlarged by whole pixels.

    Args:
      path: The file; its folder must exist.
      images: uint8 of (count, height, width, channels), 1 or 3 channels.
      columns: Images a row.
      smallest: The least height of an image on the page, in pixels.
    """
    from PIL import Image

    zoom = max(1, round(smallest / images.shape[1]))
    grid = tile(enlarge(images, zoom), columns, padding=max(1, zoom // 2))
    picture = Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid)
    with atomic(path) as file:
        picture.save(file, format="PNG")
