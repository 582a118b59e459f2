"""Many images in batches, each kept on disk as soon as it is made, so that a long job can go on.

A part's file is an array as NumPy writes it, and after it the SHA-256 of the job's settings and of
that array. So a part that was cut off, changed, or belongs to another job is found, and made again.
"""

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cfg_jax.runtime import locks, processes
from cfg_jax.runtime.files import atomic
from cfg_jax.runtime.notes import Bar, note

_SETTINGS = "settings.json"

_PART = re.compile(r"\d+\.npy")
"""Names of parts."""

_WRITTEN = rf"{re.escape(_SETTINGS)}|{_PART.pattern}"

_OWN = re.compile(rf"{re.escape(locks.NAME)}|{_WRITTEN}|\.({_WRITTEN})\.\d+\.part")
"""Names of the files that a job makes, those that it was killed over among them."""

Draw = Callable[[int, np.ndarray], np.ndarray]
"""(offset, numbers) -> samples of (batch, ...), from number `offset` on."""


def collect(
    draw: Draw,
    *,
    count: int,
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
      batch: Images at a time.
      parts: The folder for the parts; removed by `discard` once the images are safe elsewhere.
      settings: What the images depend on, as JSON values: the network's parameters by their
        checksum (`manifest.identity`). Parts of other settings are not gone on with.

    Returns:
      uint8 images of (count, height, width, channels); None in all processes but the first.

    Raises:
      ValueError: `parts` holds parts of other settings, or what is no part; another process makes
        them; or the processes were given different settings.
    """
    batch = min(batch, count)
    settings = {**settings, "count": count, "batch": batch}
    processes.agree("settings", {**settings, "parts": str(parts.absolute())})
    seal = json.dumps(settings, sort_keys=True).encode()
    processes.by_first(lambda: _check_ours(parts))
    with locks.alone(parts):
        processes.by_first(lambda: _claim(parts, settings))
        try:
            return _collected(draw, count, batch, parts, seal)
        except Exception:
            if not _parts_in(parts):
                discard(parts)
            raise


def _collected(draw: Draw, count: int, batch: int, parts: Path, seal: bytes) -> np.ndarray | None:
    """The images, from the parts that are there and from those that are drawn now."""
    mine, others = jax.process_index(), jax.process_count()
    paths = []
    with Bar(total=count, desc="sample", unit="image") as bar:
        for number, (start, here, chosen) in enumerate(full_batches(count, batch)):
            paths.append(parts / f"{start}.npy")
            if number % others == mine and _read(paths[-1], seal) is None:
                if paths[-1].exists():
                    note(f"{paths[-1]} is damaged, and made again")
                _write(paths[-1], seal, draw(start, chosen)[:here])
            bar.update(here)
    images: list[np.ndarray] = []
    # All have to be there before the first one reads them.
    processes.agree("number of images", count)
    processes.by_first(lambda: images.extend(_whole(path, seal) for path in paths))
    return np.concatenate(images) if images else None


def full_batches(count: int, batch: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Cuts `count` images into batches of one size, so that one compiled program serves them all.

    Yields:
      The first image's number, how many images of the batch are wanted, and the numbers of all in
      it, the last batch's filled up by repeating them.
    """
    for start in range(0, count, batch):
        here = min(batch, count - start)
        yield start, here, np.resize(np.arange(start, start + here), batch)


def discard(parts: Path) -> None:
    """Removes the parts, and their folder if nothing else lies there."""
    for path in list(parts.iterdir()):
        if _OWN.fullmatch(path.name):
            path.unlink()
    with contextlib.suppress(OSError):
        parts.rmdir()


def _parts_in(parts: Path) -> list[str]:
    """The names of the parts in a folder."""
    return [path.name for path in parts.iterdir() if _PART.fullmatch(path.name)]


def _check_ours(parts: Path) -> None:
    """Raises ValueError where the folder holds what no job made."""
    present = sorted(file.name for file in parts.iterdir()) if parts.exists() else []
    others = [name for name in present if not _OWN.fullmatch(name)]
    if _SETTINGS not in present:  # a job writes them first
        others += [name for name in present if not name.startswith(".")]
    if others:
        raise ValueError(
            f"{parts} is where parts are kept, and holds {others[0]}, which is none: move that "
            "folder away, or write to another file"
        )


def _claim(parts: Path, settings: dict[str, Any]) -> None:
    """Makes the folder this job's own; one whose settings are damaged has parts to be checked."""
    path = parts / _SETTINGS
    settings = json.loads(json.dumps(settings))
    try:
        held = json.loads(path.read_bytes())
    except FileNotFoundError:
        held = settings
    except (ValueError, OSError):
        held = None
    if not isinstance(held, dict):
        note(f"{path} is damaged, and made again")
        held = settings
    different = [
        f"{name}: {_short(held.get(name))} -> {_short(settings.get(name))}"
        for name in sorted(held.keys() | settings.keys())
        if held.get(name) != settings.get(name)
    ]
    if different and _parts_in(parts):
        raise ValueError(
            f"{parts} holds part of another job ({'; '.join(different)}): repeat that "
            "command to finish it, or remove the folder"
        )
    with atomic(path) as file:
        file.write(json.dumps(settings).encode())


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write(path: Path, seal: bytes, images: np.ndarray) -> None:
    written = io.BytesIO()
    np.save(written, images)
    content = written.getvalue()
    with atomic(path) as file:
        file.write(content + hashlib.sha256(seal + content).digest())


def _read(path: Path, seal: bytes) -> np.ndarray | None:
    """A part's images; None if it is not there or not whole."""
    try:
        written = path.read_bytes()
    except OSError:
        return None
    content, digest = written[:-32], written[-32:]
    if hashlib.sha256(seal + content).digest() != digest:
        return None
    return np.load(io.BytesIO(content))


def _whole(path: Path, seal: bytes) -> np.ndarray:
    images = _read(path, seal)
    if images is None:
        raise ValueError(f"{path} is damaged: repeat the command to make it again")
    return images
