"""Scikit-learn's 1,797 real handwritten digits, 8×8 grey."""

import dataclasses

from cfg_jax.data import fields
from cfg_jax.data.dataset import Dataset, Kind, check_split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Kind):
    """Real handwritten digits, 8×8 grey: 1,437 to train on and 360 held out.

    Attributes:
      dir: where prepared datasets are kept, "" for TFDS's default (`TFDS_DATA_DIR`).
      flip: mirror half of the examples left to right.
      skip_bad: leave out, with a warning, what cannot be read.
    """

    dir: str = ""
    flip: bool = False
    skip_bad: bool = False

    def __post_init__(self):
        super().__post_init__()
        fields.path("dir", self.dir)
        fields.flag("flip", self.flip)
        fields.flag("skip_bad", self.skip_bad)

    def open(self, split: str) -> Dataset:
        """As `Kind.open`; needs neither a download nor TensorFlow."""
        check_split(split)
        from cfg_jax.data import records
        from cfg_jax.data.digits_builder import Digits as Builder

        builder = records.opened(Builder, self.dir, "digits")
        records.prepare(builder, "digits")
        found = records.read(builder, split, name="digits", skip_bad=self.skip_bad)
        return dataclasses.replace(found, flip=self.flip, workers=self.workers)
