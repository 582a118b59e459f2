"""Many images in batches, each kept on disk as soon as it is made, so that a long job can go on."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from cfg_jax.runtime import processes
from cfg_jax.runtime.files import atomic

Draw = Callable[[int, np.ndarray | None], np.ndarray]
"""(offset, labels) -> uint8 images of (batch, height, width, channels), from number `offset` on."""


def collect(
    draw: Draw,
    *,
    count: int,
    labels: np.ndarray | None,
    batch: int,
    parts: Path,
    settings: dict[str, Any],
) -> np.ndarray | None:
    """Draws `count` images, going on with the parts that an interrupted call left.

    Every call of `draw` gets a full batch, see `full_batches`. Several processes share the parts
    out among them, in a folder that all of them see.

    Args:
      draw: Draws a batch.
      count: The number of images.
      labels: One an image, or None.
      batch: Images at a time.
      parts: The folder for the parts; removed by `discard` once the images are safe elsewhere.
      settings: What the images depend on, as JSON values. Parts of other settings are not gone on
        with.

    Returns:
      uint8 images of (count, height, width, channels); None in all processes but the first.

    Raises:
      ValueError: `parts` holds parts of other settings.
    """
    batch = min(batch, count)
    processes.by_first(lambda: _claim(parts, {**settings, "count": count, "batch": batch}))
    mine, others = jax.process_index(), jax.process_count()
    paths = []
    with tqdm(total=count, desc="sample", unit="image", disable=not processes.is_first()) as bar:
        for number, (start, here, chosen) in enumerate(full_batches(count, labels, batch)):
            paths.append(parts / f"{start}.npy")
            if number % others == mine and not paths[-1].exists():
                with atomic(paths[-1]) as file:
                    np.save(file, draw(start, chosen)[:here])
            bar.update(here)
    images: list[np.ndarray] = []
    # All have to be there before the first one reads them.
    processes.agree("number of images", count)
    processes.by_first(lambda: images.extend(np.load(path) for path in paths))
    return np.concatenate(images) if images else None


def full_batches(
    count: int, labels: np.ndarray | None, batch: int
) -> Iterator[tuple[int, int, np.ndarray | None]]:
    """Cuts `count` images into batches of one size, so that one compiled program serves them all.

    Yields:
      The first image's number, how many images of the batch are wanted, and its labels, the last
      batch's filled up by repeating them.
    """
    for start in range(0, count, batch):
        here = min(batch, count - start)
        yield (
            start,
            here,
            None if labels is None else np.resize(labels[start : start + here], batch),
        )


def discard(parts: Path) -> None:
    """Removes the parts."""
    shutil.rmtree(parts)


def _claim(parts: Path, settings: dict[str, Any]) -> None:
    path = parts / "settings.json"
    if path.exists():
        held = json.loads(path.read_text())
        different = [
            f"{name}: {held.get(name)} -> {settings.get(name)}"
            for name in sorted(held.keys() | settings.keys())
            if held.get(name) != settings.get(name)
        ]
        if different:
            raise ValueError(
                f"{parts} holds part of another job ({'; '.join(different)}): repeat that "
                "command to finish it, or remove the folder"
            )
    parts.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))
