"""The datasets of TFDS's catalogue."""

import dataclasses
import importlib.util
import os
from typing import Any

from cfg_jax.data import fields
from cfg_jax.data.dataset import LABEL, Dataset, Kind, check_split
from cfg_jax.parts import Facts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalogue(Kind):
    """Images of a dataset of TFDS's catalogue; preparing it needs TensorFlow, reading it does not.

    Attributes:
      name: of the dataset, such as "cifar10" or "imagenet_resized/64x64".
      text: the feature that holds captions, one of text or a sequence of them, such as "caption" or
        "captions/text"; "" for none.
      image_size: side that images are resized and cropped to, at most 16,384; 0 leaves their size.
      dir: where prepared datasets are kept, "" for TFDS's default (`TFDS_DATA_DIR`).
      flip: mirror half of the examples left to right.
      skip_bad: leave out, with a warning, what cannot be read.
    """

    name: str = ""
    text: str = ""
    image_size: int = 0
    dir: str = ""
    flip: bool = False
    skip_bad: bool = False

    def __post_init__(self):
        super().__post_init__()
        fields.text("name", self.name)
        fields.text("text", self.text)
        fields.whole("image_size", self.image_size, 0, fields.SIDE, why=" (as stored)")
        fields.path("dir", self.dir)
        fields.flag("flip", self.flip)
        fields.flag("skip_bad", self.skip_bad)

    def open(self, split: str) -> Dataset:
        """As `Kind.open`; a stored `validation` split stands in for a missing `test`."""
        check_split(split)
        from cfg_jax.data import records

        builder = self._builder()
        # Said before, not after, gigabytes of download.
        if not builder.data_path.exists() and importlib.util.find_spec("tensorflow") is None:
            raise records.needs(self.name, "TensorFlow")
        records.prepare(builder, self.name)
        found = records.read(
            builder,
            split,
            name=self.name,
            image_size=self.image_size,
            text=self.text,
            skip_bad=self.skip_bad,
        )
        return dataclasses.replace(found, flip=self.flip, workers=self.workers)

    def peek(self) -> Facts:
        """What the catalogue says of the dataset, without downloading or preparing it."""
        from cfg_jax.data import records

        features = dict(self._builder().info.features)
        names = records.class_names_of(features)
        shape = records.shape_of(features, name=self.name, image_size=self.image_size)
        texts = records.text_of(features, self.text, name=self.name)
        return Facts(shape, names, dict(LABEL) if names else {}, texts)

    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        from cfg_jax.data import records

        place = records.place(self.dir)
        try:
            return tfds.builder(self.name, data_dir=place)
        except Exception as error:  # Damaged files make TFDS raise anything
            if os.path.exists(prepared := os.path.join(place, self.name)):
                raise records.damaged(prepared, error) from error
            raise ValueError(
                f"{self.name!r} names no dataset that TFDS can open: see "
                "https://www.tensorflow.org/datasets/catalog for NAME or NAME/CONFIG"
            ) from error
