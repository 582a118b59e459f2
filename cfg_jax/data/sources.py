"""Opens a dataset by name: real digits, a folder or zip of images, or one of TFDS's catalogue."""

import contextlib
import dataclasses
import importlib.util
import io
import logging
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, UInt8

# Reading one record costs 30 µs or more, a row of an array next to nothing: datasets up to this
# many bytes are decoded once, when opened (4 s for CIFAR-10, so a cache file would gain little).
_IN_MEMORY = 256 * 2**20

_LOG = logging.getLogger(__name__)

_STORED_SPLITS = {"train": ("train",), "test": ("test", "validation")}

SKIPPING = "skip_bad (the flag --skip-bad) goes on without such examples"
"""What is added where an unreadable example ends a run that could have gone on."""


class UnreadableError(ValueError):
    """An example that cannot be read or decoded; the message names it, and says why."""


@runtime_checkable
class Source(Protocol):
    """Random access to examples {"image": uint8 (H, W, C), "label": int32 ()}; it pickles.

    Where the data have vectors, an example has "vector": float32 (length,) too. One that cannot be
    read raises `UnreadableError`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Examples held in memory; an array of indices gives a batch of them."""

    images: UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, "n"]
    vectors: Float32[np.ndarray, "n length"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | np.ndarray) -> dict[str, Any]:
        example = {"image": self.images[index], "label": self.labels[index]}
        return example if self.vectors is None else {**example, "vector": self.vectors[index]}


@dataclasses.dataclass(frozen=True)
class RecordSource:
    """Examples decoded, as they are asked for, from the records of a prepared TFDS dataset.

    Attributes:
      records: TFDS's data source; its images are arrays, or encoded as PNG or JPEG.
      shape: (H, W, C) that every image is brought to.
      labelled: whether the records have class labels; all labels are 0 otherwise.
      name: the dataset and split, as messages name them.
    """

    records: Sequence[Any]
    shape: tuple[int, int, int]
    labelled: bool
    name: str

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            record = self.records[index]
            label = record["label"] if self.labelled else 0
            image = self._pixels(record["image"])
            if image.shape != self.shape:
                raise ValueError(f"it is {image.shape} where {self.shape} is expected")
        except Exception as error:  # Damaged records make readers and decoders raise anything.
            raise UnreadableError(
                f"{self.name}: example {index} cannot be read ({_reason(error)})"
            ) from error
        if label < 0:  # So TFDS marks a competition's test images.
            raise ValueError(
                f"{self.name}: example {index} is unlabelled, as may be the whole split"
            )
        return {"image": image, "label": np.int32(label)}

    def _pixels(self, image: bytes | np.ndarray) -> UInt8[np.ndarray, "height width channels"]:
        if isinstance(image, np.ndarray) and image.shape == self.shape:
            return image
        from PIL import Image

        from cfg_jax.data.folder import to_pixels

        if isinstance(image, np.ndarray):
            decoded = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        else:
            decoded = Image.open(io.BytesIO(image))
        height, width, channels = self.shape
        return to_pixels(decoded, image_size=height if height == width else 0, channels=channels)

    def in_memory(self, *, skip_bad: bool) -> ArraySource:
        """Decodes every record; `skip_bad` leaves bad ones out, with a warning."""
        images = np.empty((len(self), *self.shape), np.uint8)
        labels = np.empty(len(self), np.int32)
        kept, bad = 0, []
        for index in range(len(self)):
            try:
                example = self[index]
            except UnreadableError as error:
                if not skip_bad:
                    raise UnreadableError(f"{error}; {SKIPPING}") from error
                bad.append(error)
                continue
            images[kept], labels[kept] = example["image"], example["label"]
            kept += 1
        if bad:
            _warn_of_left_out(bad, len(self))
        return ArraySource(images[:kept], labels[:kept])


def _reason(error: Exception) -> str:
    """An error as one line, without the addresses of objects."""
    text = re.sub(r"<\S+ object at \w+>", "", str(error))
    return " ".join(f"{type(error).__name__}: {text}".split())


def _warn_of_left_out(bad: Sequence[UnreadableError], count: int) -> None:
    """Warns of the examples left out, of so many; that nothing be left is refused."""
    if len(bad) == count:
        raise ValueError(f"none of {count} examples can be read, such as {bad[0]}")
    _LOG.warning("left out %d of %d examples as unreadable, such as %s", len(bad), count, bad[0])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a labelled image dataset.

    Attributes:
      source: random access to examples {"image": uint8 (H, W, C), "label": int32 ()}.
      shape: (H, W, C) of every image.
      class_names: the name of each label; empty if the images have no labels (all are then 0).
      name: the name it was opened by.
      split: `train` or `test`.
      vector: the length of the vectors that the images have beside them; 0 without.
    """

    source: Source
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    name: str
    split: str
    vector: int = 0

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 without labels."""
        return len(self.class_names)


def open_dataset(config: Any, *, split: str) -> Dataset:
    """Opens one split of a dataset, preparing the dataset if this is the first time.

    Only the preparation of a catalogue dataset ever needs TensorFlow.

    Args:
      config: has the attributes
        `name`: "digits" (scikit-learn's, 8×8 grey), "folder", "npz", or "tfds:NAME" with a name
        of TFDS's catalogue, such as "tfds:cifar10" or "tfds:imagenet_resized/64x64";
        `path`, `test_path`, `held_out`: for "folder", see `cfg_jax.data.folder.class_folders`,
        and for "npz", see `cfg_jax.data.arrays.open_arrays`;
        `skip_bad`: leave out, with a warning, what cannot be read while a folder is prepared or
        a dataset is decoded into memory; a dataset that stays on disk is `batches`' concern;
        `image_size`: side that images are resized and cropped to; 0 leaves their size;
        `channels`: for "folder", 1 (grey) or 3 (RGB); other datasets keep their own;
        `dir`: where prepared datasets are kept, "" for TFDS's default (`TFDS_DATA_DIR`).
      split: `train` or `test`; the `validation` split of a catalogue dataset stands in for a
        missing `test`.

    Returns:
      The split.

    Raises:
      ValueError: if a setting is wrong, an image cannot be read (and `skip_bad` is not set), or
        the preparation needs a package that is not installed.
    """
    if split not in _STORED_SPLITS:
        raise ValueError(f"split should be train or test, got {split!r}")
    if config.name == "npz":
        return _arrays(config, split)
    if config.name == "digits":
        builder = _digits(config)
    elif config.name == "folder":
        builder = _folder(config)
    elif config.name.startswith("tfds:"):
        builder = _catalogue(config)
    else:
        raise ValueError(f"dataset should be digits, folder, npz or tfds:NAME, got {config.name!r}")
    try:
        _prepare(builder)
    except ImportError as error:
        raise _needs(config.name, error.name) from error
    return _read(config, builder.data_dir, split)


def peek(config: Any) -> tuple[tuple[int, int, int], int]:
    """The shape of a dataset's images and its number of classes, for planning.

    A dataset of the catalogue is neither downloaded nor prepared; any other is opened.

    Args:
      config: As in `open_dataset`.

    Returns:
      (H, W, C) and the number of classes, 0 without labels.

    Raises:
      ValueError: As `open_dataset`.
    """
    if not config.name.startswith("tfds:"):
        data = open_dataset(config, split="train")
        return data.shape, data.num_classes
    features = dict(_builder(config).info.features)
    return _shape(config, features), len(_class_names(features))


def _arrays(config: Any, split: str) -> Dataset:
    from cfg_jax.data.arrays import open_arrays

    return open_arrays(config, split=split)


def _digits(config: Any) -> Any:
    from cfg_jax.data.digits import Digits

    if config.image_size not in (0, 8):
        raise ValueError(f"digits are 8x8: image_size should be 0 or 8, got {config.image_size}")
    return Digits(data_dir=_data_dir(config))


def _folder(config: Any) -> Any:
    from cfg_jax.data.folder import class_folders

    if not config.path:
        raise ValueError("the folder dataset needs path: a folder or zip of class folders")
    return class_folders(
        config.path,
        test_path=config.test_path,
        image_size=config.image_size,
        channels=config.channels,
        held_out=config.held_out,
        skip_bad=config.skip_bad,
        data_dir=_data_dir(config),
    )


def _catalogue(config: Any) -> Any:
    builder = _builder(config)
    if not builder.data_path.exists() and importlib.util.find_spec("tensorflow") is None:
        raise _needs(config.name, "TensorFlow")  # Said before, not after, gigabytes of download.
    return builder


def _builder(config: Any) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(config.name.removeprefix("tfds:"), data_dir=_data_dir(config))
    except (ValueError, AssertionError, OSError, ImportError) as error:
        raise ValueError(
            f"{config.name} names no dataset that TFDS can open: see "
            "https://www.tensorflow.org/datasets/catalog for NAME or NAME/CONFIG"
        ) from error


def _needs(name: str, package: str | None) -> ValueError:
    return ValueError(
        f"preparing {name} needs {package}: pip install 'cfg-jax[prepare]' (reading it does not)"
    )


def _data_dir(config: Any) -> str | None:
    return os.path.expanduser(config.dir) or None


def _prepare(builder: Any) -> None:
    if builder.data_path.exists():
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Standard output is for results.
            builder.download_and_prepare(file_format="array_record")
    except OSError:
        if not builder.data_path.exists():  # Else another process was first, with the same data.
            raise


def _read(config: Any, directory: str, split: str) -> Dataset:
    import tensorflow_datasets as tfds

    reader = tfds.builder_from_directory(directory)
    features, stored = dict(reader.info.features), reader.info.splits
    names = [name for name in _STORED_SPLITS[split] if name in stored]
    if not names:
        raise ValueError(f"{config.name} has no {split} split: it has {', '.join(stored)}")
    shape = _shape(config, features)
    # TFDS without TensorFlow would take palettes for levels and grey files for what they are.
    encoded = isinstance(features["image"], tfds.features.Image)
    decoders = {"image": tfds.decode.SkipDecoding()} if encoded else None
    try:
        records = reader.as_data_source(names[0], decoders=decoders)
    except NotImplementedError as error:
        raise ValueError(
            f"{config.name} in {directory} lies in a format without random access: "
            "set another dir to prepare it as array_record"
        ) from error
    class_names = _class_names(features)
    source = RecordSource(
        records, shape, labelled=bool(class_names), name=f"{config.name} {names[0]}"
    )
    small = len(source) * math.prod(shape) <= _IN_MEMORY
    return Dataset(
        source=source.in_memory(skip_bad=config.skip_bad) if small else source,
        shape=shape,
        class_names=class_names,
        name=config.name,
        split=split,
    )


def _class_names(features: dict[str, Any]) -> tuple[str, ...]:
    """The name of each label; none where the records have no class labels."""
    import tensorflow_datasets as tfds

    label = features.get("label")
    return tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()


def _shape(config: Any, features: dict[str, Any]) -> tuple[int, int, int]:
    """Returns the (H, W, C) that a stored dataset's images are brought to."""
    image = features.get("image")
    if image is None or len(image.shape) != 3 or image.np_dtype != np.uint8:
        raise ValueError(f"{config.name} has no feature named image of 8-bit images")
    height, width, channels = image.shape
    if config.image_size < 0:
        raise ValueError(f"image_size should be 0 (as stored) or more, got {config.image_size}")
    if config.image_size:
        height = width = config.image_size
    if height is None or width is None:
        raise ValueError(f"the images of {config.name} differ in size: set image_size")
    if channels not in (1, 3):
        raise ValueError(f"images should have 1 or 3 channels, those of {config.name} {channels}")
    return height, width, channels
