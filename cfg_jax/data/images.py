"""Images of uint8 laid out in grids, and grids as PNG files."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from cfg_jax.runtime.files import atomic

LONGEST = 24
"""Letters of a line beside a row, at most."""


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


def save_grid(
    path: Path,
    images: np.ndarray,
    columns: int,
    *,
    smallest: int = 32,
    names: Sequence[str] = (),
    told: Mapping[str, Any] | None = None,
) -> None:
    """Writes a grid of images as a PNG, tiny ones enlarged by whole pixels.

    Args:
      path: The file; its folder must exist.
      images: uint8 of (count, height, width, channels), 1 or 3 channels.
      columns: Images a row.
      smallest: The least height of an image on the page, in pixels.
      names: What stands at the left of each row; those that are missing are empty.
      told: What the file says of itself, JSON values, as PNG text of the key "cfg_jax".
    """
    from PIL import Image, PngImagePlugin

    zoom = max(1, round(smallest / images.shape[1]))
    padding = max(1, zoom // 2)
    grid = tile(enlarge(images, zoom), columns, padding=padding)
    if any(names):
        grid = _named(grid, names, zoom * images.shape[1], padding)
    picture = Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid)
    text = PngImagePlugin.PngInfo()
    if told:
        text.add_itxt("cfg_jax", json.dumps(told))
    with atomic(path) as file:
        picture.save(file, format="PNG", pnginfo=text)


def _named(grid: np.ndarray, names: Sequence[str], height: int, padding: int) -> np.ndarray:
    """The page with a margin at its left, the names of rows of such a height in it."""
    from PIL import Image, ImageDraw, ImageFont

    size = max(10, min(16, height // 2))
    font = ImageFont.load_default(size)
    lines = max(1, height // (size + 4))
    shown = [_lines(name, lines) for name in names]
    margin = padding + math.ceil(max(font.getlength(line) for lines in shown for line in lines))
    page = Image.new("L", (margin, len(grid)), 255)
    draw = ImageDraw.Draw(page)
    for row, text in enumerate(shown):
        middle = padding + row * (height + padding) + height / 2
        place = (margin, middle)
        draw.multiline_text(
            place, "\n".join(text), fill=0, font=font, anchor="rm", align="right", spacing=1
        )
    left = np.asarray(page)[..., None].repeat(grid.shape[-1], axis=-1)
    return np.concatenate([left, grid], axis=1)


def _lines(text: str, most: int) -> list[str]:
    """A text in so many lines at most."""
    lines = wrap(text, LONGEST)
    return (
        lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][: LONGEST - 1]}…"]
    )
