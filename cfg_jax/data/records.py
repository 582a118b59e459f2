"""Prepared datasets of TFDS: how they are made, and random access to their records."""

import contextlib
import dataclasses
import errno
import io
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from cfg_jax.data import dataset
from cfg_jax.data.dataset import LABEL, Dataset, UnreadableError
from cfg_jax.data.pixels import to_pixels

_STORED = {"train": ("train",), "test": ("test", "validation")}


@dataclasses.dataclass(frozen=True)
class RecordSource:
    """Examples decoded, as they are asked for, from the records of a prepared dataset.

    Attributes:
      records: TFDS's data source; its images are arrays, or encoded as PNG or JPEG.
      shape: (H, W, C) that every image is brought to.
      labelled: whether the records have class labels.
      name: the dataset and split, as messages name them.
      text: the feature that holds the captions, see `text_of`; "" for none.
    """

    records: Sequence[Any]
    shape: tuple[int, int, int]
    labelled: bool
    name: str
    text: str = ""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            record = self.records[index]
            image = self._pixels(record["image"])
            label = record["label"] if self.labelled else 0
            texts = {"text": _texts(record, self.text)} if self.text else {}
            if image.shape != self.shape:
                raise ValueError(f"it is {image.shape} where {self.shape} is expected")
        except Exception as error:  # Damaged records make readers and decoders raise anything.
            raise UnreadableError(
                f"{self.name}: example {index} cannot be read ({dataset.reason(error)})"
            ) from error
        if label < 0:  # So TFDS marks a competition's test images.
            raise ValueError(
                f"{self.name}: example {index} is unlabelled, as may be the whole split"
            )
        return {"x": image, **({"label": np.int32(label)} if self.labelled else {}), **texts}

    def _pixels(self, image: bytes | np.ndarray) -> UInt8[np.ndarray, "height width channels"]:
        if isinstance(image, np.ndarray) and image.shape == self.shape:
            return image
        if isinstance(image, np.ndarray):
            decoded = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        else:
            decoded = Image.open(io.BytesIO(image))
        height, width, channels = self.shape
        return to_pixels(decoded, image_size=height if height == width else 0, channels=channels)


def _texts(record: Any, path: str) -> tuple[str, ...]:
    """The captions of a record, one or several.

    Raises:
      ValueError: it has none, or they are not UTF-8.
    """
    value = record
    for part in path.split("/"):
        value = [one[part] for one in value] if isinstance(value, list) else value[part]
    texts = tuple(one.decode("utf-8") for one in np.ravel(np.asarray(value, object)).tolist())
    if not texts:
        raise ValueError("it has no caption")
    return texts


def needs(name: str, package: str | None) -> ValueError:
    """The error of a preparation that lacks a package."""
    return ValueError(
        f"preparing {name} needs {package}: pip install 'cfg-jax[prepare]' (reading it does not)"
    )


def prepare(builder: Any, name: str) -> None:
    """Downloads and writes what a builder makes, unless that has been done.

    Raises:
      ValueError: a package that the preparation needs is not installed, or the place where
        prepared datasets are kept cannot be written to.
    """
    try:
        if builder.data_path.exists():
            return
        with contextlib.redirect_stdout(sys.stderr):  # Standard output is for results.
            builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        raise needs(name, error.name) from error
    except (OSError, RuntimeError) as error:
        failure = _failure(error)
        if failure is None:
            raise
        if not os.path.exists(builder.data_dir):  # Else another process was first, with these data.
            raise ValueError(
                f"{name} cannot be prepared in {builder.data_dir} ({failure}): dir, or "
                "TFDS_DATA_DIR, should be a folder that can be written to"
            ) from error


def place(directory: str) -> str:
    """Where prepared datasets are kept: a directory, or TFDS's default for ""."""
    return os.path.expanduser(directory or str(tfds.core.constants.DATA_DIR))


def damaged(folder: str, error: Exception) -> ValueError:
    """The error of what was prepared in a folder and cannot be read."""
    return ValueError(
        f"what was prepared in {folder} is damaged ({dataset.reason(error)}): remove that folder, "
        "and it is prepared again"
    )


@contextlib.contextmanager
def undamaged(folder: str) -> Iterator[None]:
    """Raises ValueError where reading what was prepared in a folder, within, raises anything."""
    try:
        yield
    except Exception as error:
        raise damaged(folder, error) from error


def opened(make: Callable[..., Any], directory: str, name: str) -> Any:
    """A builder of this name, of what it prepares in a directory, "" for TFDS's default.

    Raises:
      ValueError: What it has prepared there is damaged.
    """
    kept = place(directory)
    with undamaged(os.path.join(kept, name)):
        return make(data_dir=kept)


def _failure(error: OSError | RuntimeError) -> str | None:
    """What the operating system said, which array_record quotes in a RuntimeError; else None."""
    if isinstance(error, OSError):
        return dataset.reason(error)
    quoted = map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO))
    return next((said for said in quoted if said in str(error)), None)


def read(
    builder: Any,
    split: str,
    *,
    name: str,
    image_size: int = 0,
    text: str = "",
    class_names: tuple[str, ...] | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """Opens one split of a prepared dataset, in memory if it is small.

    Args:
      builder: as `prepare` left it.
      split: `train` or `test`, for which a stored `validation` stands in.
      name: of the dataset, in messages.
      image_size: side that images are resized and cropped to; 0 leaves their size.
      text: the feature that holds the captions, see `text_of`; "" for none.
      class_names: the names of the labels; None asks the stored ones.
      skip_bad: leave out, with a warning, what cannot be decoded into memory.

    Raises:
      ValueError: there is no such split, or the dataset holds no images of one size.
    """
    dataset.check_split(split)
    with undamaged(builder.data_dir):
        reader = tfds.builder_from_directory(builder.data_dir)
        features, stored = dict(reader.info.features), reader.info.splits
    names = [stored_name for stored_name in _STORED[split] if stored_name in stored]
    if not names:
        raise ValueError(f"{name} has no {split} split: it has {', '.join(stored)}")
    shape = shape_of(features, name=name, image_size=image_size)
    texts = text_of(features, text, name=name)
    # TFDS without TensorFlow would take palettes for levels and grey files for what they are.
    encoded = isinstance(features["image"], tfds.features.Image)
    decoders = {"image": tfds.decode.SkipDecoding()} if encoded else None
    try:
        records = reader.as_data_source(names[0], decoders=decoders)
    except NotImplementedError as error:
        raise ValueError(
            f"{name} in {builder.data_dir} lies in a format without random access: "
            "set another dir to prepare it as array_record"
        ) from error
    if not skip_bad:
        with undamaged(builder.data_dir):
            _check_files(stored[names[0]].filepaths)
    known = class_names_of(features) if class_names is None else class_names
    source = RecordSource(records, shape, bool(known), f"{name} {names[0]}", text)
    small = len(source) * math.prod(shape) <= dataset.IN_MEMORY
    return Dataset(
        source=dataset.load(source, skip_bad=skip_bad) if small else source,
        shape=shape,
        class_names=known,
        name=name,
        split=split,
        arrays=LABEL if known else {},
        texts=texts,
        skip_bad=skip_bad,
    )


def _check_files(paths: Sequence[Any]) -> None:
    """Raises ValueError where a file is not there or empty, as a power cut leaves one."""
    for path in paths:
        if not path.exists() or not path.stat().length:
            raise ValueError(f"{path.name} is missing or empty")


def class_names_of(features: dict[str, Any]) -> tuple[str, ...]:
    """The name of each label; none where the records have no class labels."""
    label = features.get("label")
    return tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()


def text_of(features: dict[str, Any], path: str, *, name: str) -> tuple[str, ...]:
    """The names of what is text: "text" where a feature holds captions.

    Args:
      features: the dataset's features by name.
      path: a feature of text, "caption", or of several, "captions"; where these lie in a feature of
        further ones, both their names, "captions/text". "" for none.
      name: of the dataset, in messages.

    Raises:
      ValueError: there is no such feature.
    """
    if not path:
        return ()
    found = sorted(_texts_within(features))
    if path not in found:
        raise ValueError(
            f"{name} has no feature {path!r} of text: it has {', '.join(found) or 'none'}"
        )
    return ("text",)


def _texts_within(features: Mapping[str, Any], outer: str = "") -> Iterator[str]:
    """The paths of features of text, one or several an example."""
    for own, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a sequence, what it is of
        if isinstance(inner, tfds.features.Text):
            yield f"{outer}{own}"
        elif isinstance(inner, tfds.features.FeaturesDict):
            yield from _texts_within(dict(inner.items()), f"{outer}{own}/")


def shape_of(features: dict[str, Any], *, name: str, image_size: int) -> tuple[int, int, int]:
    """Returns the (H, W, C) that a dataset's images are brought to."""
    image = features.get("image")
    if image is None or len(image.shape) != 3 or image.np_dtype != np.uint8:
        raise ValueError(f"{name} has no feature named image of 8-bit images")
    height, width, channels = image.shape
    if image_size:
        height = width = image_size
    if height is None or width is None:
        raise ValueError(f"the images of {name} differ in size: set image_size")
    if channels not in (1, 3):
        raise ValueError(f"images should have 1 or 3 channels, those of {name} {channels}")
    return height, width, channels
