"""Pictures, sounds and videos: how samples of each are shown and written, whatever they are."""

import dataclasses
import math
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cfg_jax.data.images import enlarge, save_grid, tile
from cfg_jax.data.samples import to_int16, to_uint8
from cfg_jax.data.spectrograms import spectrograms
from cfg_jax.parts import Facts
from cfg_jax.runtime.files import atomic


@dataclasses.dataclass(frozen=True)
class Medium:
    """How samples of one shape are shown and written; a base for the three kinds.

    Attributes:
      shape: of one sample, channels last.
      rate: samples or frames a second; 0 where that is unknown.
      noun: one sample's name in messages.
      writers: what writes files, by their suffix: (medium, path, x, labels, columns) -> paths.
    """

    shape: tuple[int, ...]
    rate: int = 0

    noun: ClassVar[str]
    writers: ClassVar[Mapping[str, Callable[..., list[Path]]]]

    def stored(self, x: Any) -> np.ndarray:
        """Floats in [-1, 1] as they are stored, on the host."""
        return to_uint8(x)

    def tiles(self, x: np.ndarray) -> np.ndarray:
        """Each of (n, *shape) stored samples as a still: uint8 (n, height, width, 1 or 3)."""
        raise NotImplementedError

    def seen(self, x: np.ndarray) -> np.ndarray:
        """Samples, stored or floats in [-1, 1], as pictures: what a scorer looks at."""
        return self.tiles(self.stored(x) if x.dtype.kind == "f" else x)

    def grid(self, path: Path, x: np.ndarray, columns: int, **more: Any) -> None:
        """Draws samples as they are stored in rows of so many; `more` is that of `save_grid`."""
        save_grid(path, self.tiles(x), columns, **more)

    def check(self, path: Path) -> None:
        """Raises ValueError where samples cannot be written to such a file."""
        if path.suffix.lower() not in self.writers:
            raise ValueError(
                f"{self.noun}s are written as {', '.join(self.writers)}, got {path.name!r}"
            )

    def save_samples(
        self,
        path: Path,
        x: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        columns: int | None = None,
    ) -> list[Path]:
        """Writes samples in the format of the file's suffix.

        Args:
          path: the file; its folder must exist.
          x: samples as they are stored, (n, *shape).
          labels: (n,) integers, which an .npz file has beside them; None without.
          columns: samples a row, where they are laid out; by default about as many as rows.

        Returns:
          The files written.

        Raises:
          ValueError: the suffix is none of `writers`.
        """
        self.check(path)
        columns = columns or math.ceil(math.sqrt(len(x)))
        write = self.writers[path.suffix.lower()]
        return write(self, path, x, labels, min(columns, len(x)))


def _save_arrays(
    medium: Medium, path: Path, x: np.ndarray, labels: np.ndarray | None, columns: int
) -> list[Path]:
    """`arr_0`, the samples, and `arr_1`, their labels."""
    arrays = [x] if labels is None else [x, np.asarray(labels).astype(np.int64)]
    with atomic(path) as file:
        np.savez(file, *arrays)
    return [path]


def _save_page(
    medium: Medium, path: Path, x: np.ndarray, labels: np.ndarray | None, columns: int
) -> list[Path]:
    medium.grid(path, x, columns)
    return [path]


def _save_sounds(
    medium: Medium, path: Path, x: np.ndarray, labels: np.ndarray | None, columns: int
) -> list[Path]:
    """One sound as the file itself; several as NAME-000.wav, NAME-001.wav, …."""
    digits = max(3, len(str(len(x) - 1)))
    names = [path.name]
    if len(x) > 1:
        names = [f"{path.stem}-{index:0{digits}}{path.suffix}" for index in range(len(x))]
    paths = [path.with_name(name) for name in names]
    for target, samples in zip(paths, x, strict=True):
        with atomic(target) as file, wave.open(file, "wb") as sound:
            sound.setnchannels(samples.shape[-1])
            sound.setsampwidth(2)
            sound.setframerate(medium.rate)
            sound.writeframes(samples.astype("<i2").tobytes())
    return paths


def _save_animation(
    medium: Medium, path: Path, x: np.ndarray, labels: np.ndarray | None, columns: int
) -> list[Path]:
    """One animated page on which all samples run at once, over and over."""
    from PIL import Image

    zoom = max(1, round(32 / x.shape[2]))
    pages = [
        tile(enlarge(frame, zoom), columns, padding=max(1, zoom // 2))
        for frame in np.moveaxis(x, 1, 0)
    ]
    frames = [Image.fromarray(page[..., 0] if page.shape[-1] == 1 else page) for page in pages]
    with atomic(path) as file:
        frames[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=round(1000 / (medium.rate or 10)),
            loop=0,
        )
    return [path]


@dataclasses.dataclass(frozen=True)
class Picture(Medium):
    """Pictures: uint8 (height, width, channels)."""

    noun: ClassVar[str] = "picture"
    writers: ClassVar = {".png": _save_page, ".npz": _save_arrays}

    def tiles(self, x: np.ndarray) -> np.ndarray:
        """The pictures themselves."""
        return x

    def seen(self, x: np.ndarray) -> np.ndarray:
        """The pictures themselves, floats as floats."""
        return x


@dataclasses.dataclass(frozen=True)
class Sound(Medium):
    """Sounds: int16 (length, channels)."""

    noun: ClassVar[str] = "sound"
    writers: ClassVar = {".wav": _save_sounds, ".png": _save_page, ".npz": _save_arrays}

    def stored(self, x: Any) -> np.ndarray:
        """Floats in [-1, 1] as they are stored, on the host."""
        return to_int16(x)

    def tiles(self, x: np.ndarray) -> np.ndarray:
        """Spectrograms."""
        return spectrograms(x)

    def seen(self, x: np.ndarray) -> np.ndarray:
        """Coarse spectrograms, half as high and a quarter as wide: enough to tell sounds apart."""
        return spectrograms(self.stored(x) if x.dtype.kind == "f" else x, window=64, width=32)

    def check(self, path: Path) -> None:
        """As `Medium.check`; a .wav file tells its rate."""
        super().check(path)
        if path.suffix.lower() == ".wav" and not self.rate:
            raise ValueError("a .wav file needs the rate of the sounds, which is not known")


@dataclasses.dataclass(frozen=True)
class Video(Medium):
    """Videos: uint8 (frames, height, width, channels)."""

    noun: ClassVar[str] = "video"
    writers: ClassVar = {".gif": _save_animation, ".png": _save_page, ".npz": _save_arrays}

    def tiles(self, x: np.ndarray) -> np.ndarray:
        """The frames of each in a row, from the left to the right."""
        count, frames, height, width, channels = x.shape
        return np.moveaxis(x, 1, 2).reshape(count, height, frames * width, channels)


MEDIA: dict[int, type[Medium]] = {2: Sound, 3: Picture, 4: Video}
"""Kinds of samples by the number of their dimensions, channels included."""


def medium(facts: Facts) -> Medium:
    """What samples of such data are.

    Raises:
      ValueError: they are neither pictures nor sounds nor videos.
    """
    kind = MEDIA.get(len(facts.shape))
    if kind is None:
        raise ValueError(
            "samples should be (length, channels), (height, width, channels) or "
            f"(frames, height, width, channels), got {facts.shape}"
        )
    return kind(tuple(facts.shape), facts.rate)
