"""A split of a dataset: random access to its examples, and what is known of them."""

import dataclasses
import functools
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from cfg_jax.data import fields
from cfg_jax.data.samples import to_float
from cfg_jax.parts import Facts

_LOG = logging.getLogger(__name__)

T = TypeVar("T")
Found = TypeVar("Found")

SPLITS = ("train", "test")

SKIPPING = "skip_bad (the flag --skip-bad) goes on without such examples"
"""What is added where an unreadable example ends a run that could have gone on."""

IN_MEMORY = 256 * 2**20
"""Reading one record costs 30 µs or more, a row of an array next to nothing: datasets of up to this
many bytes are decoded once, when opened (4 s for CIFAR-10, so a cache file would gain little)."""


class UnreadableError(ValueError):
    """An example that cannot be read or decoded; the message names it, and says why."""


@runtime_checkable
class Source(Protocol):
    """Random access to examples {"x": uint8 or int16 (..., channels), …}; it pickles.

    Beside "x", an example has the dataset's further arrays, such as "label": int32 (), and its
    texts, each a tuple of one or more that say the same. One that cannot be read raises
    `UnreadableError`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Examples held in memory; an array of indices gives a batch of them.

    Attributes:
      arrays: arrays of (n, ...) by name, "x" among them; one of objects holds each example's
        texts, a tuple of them.
    """

    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.arrays["x"])

    def __getitem__(self, index: int | np.ndarray) -> dict[str, Any]:
        return {name: array[index] for name, array in self.arrays.items()}

    @property
    def specs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each array that an example has beside "x"."""
        return {
            name: jax.ShapeDtypeStruct(array.shape[1:], array.dtype)
            for name, array in self.arrays.items()
            if name != "x" and array.dtype != object
        }

    @property
    def texts(self) -> tuple[str, ...]:
        """The names of what is text."""
        return tuple(name for name, array in self.arrays.items() if array.dtype == object)


@dataclasses.dataclass(frozen=True)
class Beside:
    """Examples of a source, each with its row of arrays that lie in files.

    Attributes:
      source: the examples.
      paths: .npy files of (n, ...) by the arrays' names.
    """

    source: Source
    paths: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rows = {name: mapped(path)[index] for name, path in self.paths.items()}
        return {**self.source[index], **rows}


@functools.lru_cache(maxsize=8)
def mapped(path: str) -> np.ndarray:
    """The array of an .npy file, read where it is asked for."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


LABEL: Mapping[str, jax.ShapeDtypeStruct] = {"label": jax.ShapeDtypeStruct((), np.int32)}
"""The further arrays of examples that have a label alone."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a dataset.

    Attributes:
      source: random access to its examples.
      shape: of every example's "x", channels last.
      class_names: the name of each label; empty if the examples have no "label".
      name: the dataset's name in messages and reports.
      split: `train` or `test`.
      arrays: shape and dtype of each array that an example has beside "x".
      texts: the names of the texts that an example has.
      rate: samples of a sound or frames of a video a second; 0 where that is unknown.
      dtype: of every example's "x".
      fingerprint: differs once the files that it was made of do; "" for data that cannot change.
      flip: whether `batches` mirrors each "x" left to right, along its axis before the channels,
        with probability one half.
      skip_bad: whether `batches` replaces an example that cannot be read, with a warning, rather
        than raise.
      workers: processes in which `batches` reads; 0 reads in threads of the caller's.
    """

    source: Source
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    name: str
    split: str
    arrays: Mapping[str, jax.ShapeDtypeStruct] = dataclasses.field(default_factory=dict)
    texts: tuple[str, ...] = ()
    rate: int = 0
    dtype: str = "uint8"
    fingerprint: str = ""
    flip: bool = False
    skip_bad: bool = False
    workers: int = 0

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 without labels."""
        return len(self.class_names)

    @property
    def varies(self) -> bool:
        """Whether `batches` shows an example in more ways than mirrored or not."""
        return getattr(self.source, "varies", False)

    @property
    def facts(self) -> Facts:
        """What a model is told of the data."""
        return Facts(
            self.shape, self.class_names, dict(self.arrays), self.texts, self.rate, self.dtype
        )

    def floats(self, index: Sequence[int] | np.ndarray) -> np.ndarray:
        """Some examples' "x" as float32 in [-1, 1]; zeros for those that may be left out as bad."""
        if isinstance(self.source, ArraySource):
            return to_float(self.source.arrays["x"][np.asarray(index)])
        return np.stack([to_float(self._x(int(number))) for number in index])

    def _x(self, number: int) -> np.ndarray:
        try:
            return self.source[number]["x"]
        except UnreadableError as error:
            if not self.skip_bad:
                raise UnreadableError(f"{error}; {SKIPPING}") from error
            return np.zeros(self.shape, self.dtype)

    def beside(self, paths: Mapping[str, str]) -> "Dataset":
        """The same examples, each with its row of the arrays in .npy files."""
        if isinstance(self.source, ArraySource):
            arrays = {name: mapped(path) for name, path in paths.items()}
            return dataclasses.replace(self, source=ArraySource({**self.source.arrays, **arrays}))
        return dataclasses.replace(self, source=Beside(self.source, dict(paths)))

    def digest(self) -> str:
        """A digest of the examples' "x" where they are held in memory, else the fingerprint."""
        if not isinstance(self.source, ArraySource):
            return self.fingerprint
        return hashlib.sha256(np.ascontiguousarray(self.source.arrays["x"]).data).hexdigest()

    def captions(self, name: str) -> Iterator[str]:
        """All texts of a name, example by example."""
        for index in range(len(self.source)):
            yield from self.source[index][name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """Where data come from; a base for the kinds of sources.

    Attributes:
      workers: processes that read batches, at most 256; 0 reads them in threads of the trainer.
    """

    workers: int = 0

    def __post_init__(self):
        fields.whole("workers", self.workers, 0, 256)

    def open(self, split: str) -> Dataset:
        """Opens one split, preparing the data if this is the first time.

        Args:
          split: `train` or `test`.

        Raises:
          ValueError: There is no such split, or the data cannot be read.
        """
        raise NotImplementedError

    def peek(self) -> Facts:
        """What is known of the data; nothing is downloaded for it."""
        return self.open("train").facts


def check_split(split: str) -> None:
    """Raises ValueError where `split` is neither train nor test."""
    if split not in SPLITS:
        raise ValueError(f"split should be train or test, got {split!r}")


def load(source: Source, *, skip_bad: bool) -> ArraySource:
    """Reads a whole source into memory.

    Args:
      source: its examples all have the same arrays.
      skip_bad: leave unreadable examples out, with a warning.

    Raises:
      UnreadableError: an example cannot be read, and `skip_bad` is not set.
      ValueError: no example can be read.
    """
    arrays: dict[str, np.ndarray] = {}
    kept = 0
    for _, example in readable(range(len(source)), source.__getitem__, skip_bad=skip_bad):
        for name, value in example.items():
            if kept == 0:
                is_text = isinstance(value, tuple)
                shape, dtype = (
                    ((), object) if is_text else (np.shape(value), np.asarray(value).dtype)
                )
                arrays[name] = np.empty((len(source), *shape), dtype)
            arrays[name][kept] = value
        kept += 1
    return ArraySource({name: array[:kept] for name, array in arrays.items()})


def readable(
    places: Sequence[T], read: Callable[[T], Found], *, skip_bad: bool
) -> Iterator[tuple[T, Found]]:
    """Every place and what is read there; what cannot be read is left out, with a warning.

    Args:
      places: where to read, in order.
      read: reads one, or raises `UnreadableError`.
      skip_bad: leave one out that cannot be read.

    Raises:
      UnreadableError: one cannot be read, and `skip_bad` is not set.
      ValueError: none can be read.
    """
    bad = []
    for place in places:
        try:
            found = read(place)
        except UnreadableError as error:
            if not skip_bad:
                raise UnreadableError(f"{error}; {SKIPPING}") from error
            bad.append(error)
            continue
        yield place, found
    if bad:
        warn_of_left_out(bad, len(places))


def first_readable(
    places: Sequence[T], read: Callable[[T], Found], *, skip_bad: bool, named: str
) -> Found:
    """What is read at the first place where anything can be.

    Args:
      places: where to read, in order.
      read: reads one, or raises `UnreadableError`.
      skip_bad: go on to the next where one cannot be read.
      named: what they are, in the message.

    Raises:
      UnreadableError: the first cannot be read, and `skip_bad` is not set.
      ValueError: none can be read.
    """
    bad = []
    for place in places:
        try:
            return read(place)
        except UnreadableError as error:
            if not skip_bad:
                raise UnreadableError(f"{error}; {SKIPPING}") from error
            bad.append(error)
    raise ValueError(f"none of {len(places)} {named} can be read, such as {bad[0]}")


def warn_of_left_out(bad: Sequence[UnreadableError], count: int) -> None:
    """Warns of the examples left out, of so many; that nothing be left is refused."""
    if len(bad) == count:
        raise ValueError(f"none of {count} examples can be read, such as {bad[0]}")
    _LOG.warning("left out %d of %d examples as unreadable, such as %s", len(bad), count, bad[0])


def warn_of_empty(where: str, split: str, class_names: Sequence[str], source: Source) -> None:
    """Warns of classes without a training example, as far as the labels are in memory."""
    if split != "train" or not isinstance(source, ArraySource) or not class_names:
        return
    missing = np.setdiff1d(np.arange(len(class_names)), source.arrays["label"])
    if len(missing):
        _LOG.warning(
            "%s: %d of %d classes have no training example, such as %r",
            where,
            len(missing),
            len(class_names),
            class_names[missing[0]],
        )


def reason(error: Exception) -> str:
    """An error as one line, without the addresses of objects."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    said = re.sub(r"<\S+ object at \w+>", "", said)
    return " ".join(f"{type(error).__name__}: {said}".split()).removesuffix(":")
