"""Examples that lie in an .npz file: pictures, sounds or videos, with anything beside them."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from cfg_jax.data import fields, splits
from cfg_jax.data.dataset import ArraySource, Dataset, Kind, check_split, warn_of_empty
from cfg_jax.data.tree import readable, shown, twin
from cfg_jax.runtime.files import DAMAGED_NPZ, check_regular, checksum, read_arrays

_CHANNELS = {np.dtype(np.uint8): (3, 4, 5), np.dtype(np.int16): (3,)}
"""Dimensions of x with the batch, by dtype: sounds are int16, pictures and videos uint8."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays(Kind):
    """Examples in an .npz file, held in memory.

    The file holds `x` (or `image`): uint8 (n, height, width, 1 or 3) or, for videos, (n, frames,
    height, width, 1 or 3), or int16 (n, length, channels) for sounds. It may hold `label`, (n,)
    integers that number the classes from 0; `class_names`, text, one a label; `rate`, the samples
    or frames a second; and further arrays of n real numbers or arrays of them, by any name: a
    `vector` that embeds a text, attributes, a mask; or of n texts, or of several each, (n, k), of
    which empty ones at the end do not count.

    Attributes:
      path: the file.
      test_path: another such file, of held-out examples; "" holds out a part of `path`.
      held_out: that part of every class, between 0 and 1, the same examples every time.
      flip: mirror half of the pictures left to right; what lies beside them stays.
    """

    path: str = ""
    test_path: str = ""
    held_out: float = 0.1
    flip: bool = False

    def __post_init__(self):
        super().__post_init__()
        fields.needed(
            "path", self.path, "an .npz file with x or image and, perhaps, label and vector"
        )
        fields.path("test_path", self.test_path)
        fields.share("held_out", self.held_out)
        fields.flag("flip", self.flip)

    def open(self, split: str) -> Dataset:
        """As `Kind.open`, in memory."""
        check_split(split)
        whole = _File.read(self.path)
        class_names = whole.class_names(shown(self.path))
        held = whole.arrays
        if self.test_path:
            if split == "test":
                held = _File.read(self.test_path).arrays
                self._check_alike(whole.arrays, held, len(class_names))
        else:
            labels = held.get("label", np.zeros(len(held["x"]), np.int32))
            chosen = splits.of_labels(labels, self.held_out) == (split == "test")
            held = {name: array[chosen] for name, array in held.items()}
        if self.flip and held["x"].ndim == 3:
            raise ValueError(f"flip should be False: {shown(self.path)} holds sounds")
        source = ArraySource(held)
        warn_of_empty(shown(self.path), split, class_names, source)
        paths = [path for path in (self.path, self.test_path) if path]
        return Dataset(
            source=source,
            shape=source.arrays["x"].shape[1:],
            class_names=class_names,
            name="arrays",
            split=split,
            arrays=source.specs,
            texts=source.texts,
            rate=whole.rate,
            dtype=source.arrays["x"].dtype.name,
            fingerprint="".join(checksum(Path(path).expanduser())[:16] for path in paths),
            flip=self.flip,
            workers=self.workers,
        )

    def _check_alike(
        self, train: dict[str, np.ndarray], test: dict[str, np.ndarray], num_classes: int
    ) -> None:
        """Raises ValueError where two files do not belong together."""
        of_train, of_test = (
            {name: (array.dtype.name, array.shape[1:]) for name, array in arrays.items()}
            for arrays in (train, test)
        )
        if of_train != of_test:
            raise ValueError(
                f"the arrays of {shown(self.test_path)} should be as those of "
                f"{shown(self.path)}, {of_train}; got {of_test}"
            )
        if num_classes and test["label"].max() >= num_classes:
            raise ValueError(
                f"label in {shown(self.test_path)} should be below {num_classes}, "
                f"got {test['label'].max()}"
            )


@dataclasses.dataclass(frozen=True)
class _File:
    """What an .npz file holds, checked."""

    arrays: dict[str, np.ndarray]
    names: np.ndarray | None
    rate: int

    @classmethod
    def read(cls, path: str) -> "_File":
        where, file = shown(path), Path(path).expanduser()
        arrays = read_arrays(file, _stored(file))
        rate = arrays.pop("rate", np.zeros((), np.int32))
        if rate.shape != () or rate.dtype.kind not in "iu" or not 0 <= rate < 2**31:
            raise ValueError(f"rate in {where} should be one whole number, got {rate!r}")
        names = arrays.pop("class_names", None)
        x = _main(where, arrays)
        beside = {name: _beside(where, name, a, len(x)) for name, a in arrays.items()}
        return cls({"x": x, **beside}, names, int(rate))

    def class_names(self, where: str) -> tuple[str, ...]:
        """The classes' names: those that the file gives, or numbers; none without labels."""
        labels = self.arrays.get("label")
        return () if labels is None else _class_names(where, self.names, labels)


def _stored(file: Path) -> list[str]:
    """The names of a file's arrays; none of one that is damaged, which `read_arrays` says.

    Raises:
      ValueError: It is no file.
    """
    check_regular(file)
    try:
        with zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except DAMAGED_NPZ:
        return []


def _main(where: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Takes x, or image, out of a file's arrays."""
    named = [name for name in ("x", "image") if name in arrays]
    if len(named) != 1:
        raise ValueError(f"{where} holds {'both x and image' if named else 'no x and no image'}")
    name = named[0]
    x = arrays.pop(name)
    channels = (1, 2) if x.dtype == np.int16 else (1, 3)
    if x.ndim not in _CHANNELS.get(x.dtype, ()) or x.shape[-1] not in channels or not x.size:
        raise ValueError(
            f"{name} in {where} should be uint8 (n, height, width, 1 or 3), uint8 (n, frames, "
            f"height, width, 1 or 3) or int16 (n, length, 1 or 2), got {x.dtype} {x.shape}"
        )
    return x


def _beside(where: str, name: str, array: np.ndarray, count: int) -> np.ndarray:
    """An array beside x, as int32, float32 or uint8, or of texts."""
    if array.dtype.kind in "US" and name not in ("label", "vector"):
        return _texts(where, name, array, count)
    if name == "label" and (array.shape != (count,) or array.dtype.kind not in "iu"):
        raise ValueError(
            f"label in {where} should be {count} integers, got {array.dtype} {array.shape}"
        )
    if name == "vector" and (array.ndim != 2 or len(array) != count):
        raise ValueError(f"vector in {where} should be ({count}, length), got {array.shape}")
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{name} in {where} should hold real numbers, got {array.dtype}")
    if array.ndim == 0 or len(array) != count:
        raise ValueError(f"{name} in {where} should be ({count}, …), got {array.shape}")
    if array.dtype == np.uint8 and name not in ("label", "vector"):
        return array
    if array.dtype.kind in "iu" and name != "vector":
        low, high = (0 if name == "label" else -(2**31)), 2**31 - 1
        if array.size and (array.min() < low or array.max() > high):
            outside = array.min() if array.min() < low else array.max()
            bound = f"{low} or more" if array.min() < low else f"at most {high}"
            raise ValueError(f"{name} in {where} should be {bound}, got {outside}")
        return array.astype(np.int32)
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if not np.all(np.isfinite(narrow)):
        raise ValueError(f"{name} in {where} should hold finite float32 numbers alone")
    return narrow


def _texts(where: str, name: str, array: np.ndarray, count: int) -> np.ndarray:
    """Each example's texts, a tuple of them, as an array of objects."""
    if array.ndim not in (1, 2) or len(array) != count or not array.size:
        raise ValueError(
            f"{name} in {where} should be ({count},) or ({count}, k) texts, got {array.shape}"
        )
    found = np.empty(count, object)
    for i, row in enumerate(array.reshape(count, -1).tolist()):
        try:
            texts = list(fields.captions(name, [_decoded(text) for text in row]))
        except ValueError as error:
            raise ValueError(f"example {i} of {where}: {error}") from None
        while len(texts) > 1 and not texts[-1]:
            texts.pop()
        found[i] = tuple(texts)
    return found


def _class_names(where: str, names: np.ndarray | None, labels: np.ndarray) -> tuple[str, ...]:
    most = int(labels.max()) + 1
    if names is None:
        present = np.unique(labels)
        missing = np.flatnonzero(present != np.arange(len(present)))
        if len(missing):
            raise ValueError(
                f"label in {where} should number the classes from 0 without gaps, and none is "
                f"{missing[0]}: class_names names classes without examples"
            )
        return tuple(map(str, range(most)))
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise ValueError(f"class_names in {where} should be text, got {names.dtype} {names.shape}")
    if len(names) < most:
        raise ValueError(f"class_names in {where} should be {most} or more, got {len(names)}")
    texts = tuple(_decoded(name) for name in names.tolist())
    if found := twin(texts):
        raise ValueError(f"class_names in {where} should differ, but {found!r} stands there twice")
    return texts


def _decoded(name: str | bytes) -> str:
    return readable(name.decode("utf-8", "surrogateescape")) if isinstance(name, bytes) else name
