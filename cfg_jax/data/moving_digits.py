"""Videos of real handwritten digits that move and bounce."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from cfg_jax.data import fields
from cfg_jax.data.dataset import ArraySource, Dataset, Kind, load
from cfg_jax.data.digits import Digits

_SIDE = 8
_DIGITS = 1437
"""Those to train on."""

_SPEEDS = (0.75, 2.0)
"""The least and the greatest speed, in pixels a frame."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovingDigits(Kind):
    """Videos of scikit-learn's digits, each moving in a straight line until it meets an edge.

    Where a digit starts and how fast it moves are the same every time; the digits held out for
    testing are those of `Digits`. All videos are kept in memory, of which they may take 4 GiB.

    Attributes:
      frames: frames a video.
      size: height and width of a frame, in pixels; a digit has 8.
      clips: videos of each digit, with motions of their own.
      rate: frames a second, where a video is shown.
      dir: where prepared datasets are kept, "" for TFDS's default (`TFDS_DATA_DIR`).
    """

    frames: int = 8
    size: int = 16
    clips: int = 8
    rate: int = 8
    dir: str = ""

    def __post_init__(self):
        super().__post_init__()
        fields.whole("frames", self.frames, 1, 65_536)
        fields.whole("size", self.size, _SIDE, fields.SIDE)
        fields.whole("clips", self.clips, 1, 65_536)
        fields.whole("rate", self.rate, 1, 100)
        fields.path("dir", self.dir)
        gigabytes = _DIGITS * self.clips * self.frames * self.size**2 / 2**30
        if gigabytes > 4.0:
            raise ValueError(
                f"frames, size and clips should make at most 4 GiB of videos, got {gigabytes:,.0f}"
            )

    def open(self, split: str) -> Dataset:
        """As `Kind.open`, in memory."""
        digits = Digits(dir=self.dir).open(split)
        still = load(digits.source, skip_bad=False).arrays
        which = np.repeat(np.arange(len(still["x"])), self.clips)
        x = self._video(still["x"][which], split)
        source = ArraySource({"x": x, "label": still["label"][which]})
        return Dataset(
            source=source,
            shape=x.shape[1:],
            class_names=digits.class_names,
            name="moving_digits",
            split=split,
            arrays=source.specs,
            rate=self.rate,
            workers=self.workers,
        )

    def _video(
        self, digits: UInt8[np.ndarray, "n 8 8 1"], split: str
    ) -> UInt8[np.ndarray, "n frames size size 1"]:
        places = self._places(len(digits), split)
        x = np.zeros((len(digits), self.frames, self.size, self.size, 1), np.uint8)
        example, frame = np.ogrid[: len(digits), : self.frames]
        rows = places[..., 0, None, None] + np.arange(_SIDE)[:, None]
        columns = places[..., 1, None, None] + np.arange(_SIDE)
        x[example[..., None, None], frame[..., None, None], rows, columns] = digits[:, None]
        return x

    def _places(self, count: int, split: str) -> np.ndarray:
        """The digits' upper left corners, (count, frames, 2): a triangle wave of the straight line.

        A line in a box whose walls reflect is the straight line folded back and forth.
        """
        rng = np.random.default_rng(("train", "test").index(split))
        room = self.size - _SIDE
        start = rng.uniform(0, max(room, 1), (count, 2))
        angle = rng.uniform(0, 2 * np.pi, count)
        velocity = rng.uniform(*_SPEEDS, (count, 1)) * np.stack([np.sin(angle), np.cos(angle)], 1)
        line = start[:, None] + velocity[:, None] * np.arange(self.frames)[:, None]
        folded = np.abs((line + room) % (2 * max(room, 1)) - room)
        return np.rint(folded).astype(int) if room else np.zeros_like(line, int)
