"""A folder or zip of class folders of WAV files."""

import dataclasses
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int16

from cfg_jax.data import dataset, fields, folder
from cfg_jax.data.dataset import LABEL, Dataset, Kind, UnreadableError, check_split
from cfg_jax.data.tree import Tree, What, class_of, shown

_EXTENSIBLE, _GUID = 65534, bytes.fromhex("000000001000800000aa00389b71")
"""A format that is named further on, by a number and these bytes."""
_OPEN = 2**32 - 1
"""The length that a stream claims, whose end nobody knew."""

WAVS = What(one="sound", suffixes=(".wav", ".wave"), example="SOUND.wav", named="WAV file")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sounds(Kind):
    """A folder or zip of class folders of WAV files of 16 bits, mono or stereo.

    The layouts are those of `Folder`. All sounds have one rate and as many channels.

    Attributes:
      path: the folder or zip.
      test_path: another of held-out sounds, with the same class folders; "" takes the folder test
        of `path`, or holds out a part of it.
      held_out: that part of every class, between 0 and 1, the same sounds every time.
      length: samples that sounds are cut or, with silence, filled up to, at most 2²⁴; 0 if all have
        one length.
      skip_bad: leave out sounds that cannot be read, with a warning, rather than raise.
    """

    path: str = ""
    test_path: str = ""
    held_out: float = 0.1
    length: int = 0
    skip_bad: bool = False

    def __post_init__(self):
        super().__post_init__()
        fields.needed("path", self.path, "a folder or zip of class folders of WAV files")
        fields.path("test_path", self.test_path)
        fields.share("held_out", self.held_out)
        fields.whole("length", self.length, 0, 2**24, why=" (as stored)")
        fields.flag("skip_bad", self.skip_bad)

    def open(self, split: str) -> Dataset:
        """As `Kind.open`, in memory if that is small."""
        check_split(split)
        found = folder.both(self.path, self.test_path, self.held_out, WAVS)
        (length, channels), rate = self._form(*found["train"])
        tree, files = found[split]
        source = SoundSource(
            tree, tuple(files), tree.folders, (length, channels), rate, self.length
        )
        small = len(files) * length * channels * 2 <= dataset.IN_MEMORY
        held = dataset.load(source, skip_bad=self.skip_bad) if small else source
        dataset.warn_of_empty(shown(self.path), split, tree.class_names, held)
        return Dataset(
            source=held,
            shape=source.shape,
            class_names=tree.class_names,
            name="sounds",
            split=split,
            arrays=LABEL if tree.folders else {},
            rate=rate,
            dtype="int16",
            fingerprint=folder.fingerprint(found),
            skip_bad=self.skip_bad,
            workers=self.workers,
        )

    def _form(self, tree: Tree, files: Sequence[str]) -> tuple[tuple[int, int], int]:
        """Shape and rate of the first sound that can be read."""
        samples, rate = dataset.first_readable(
            files, lambda file: _read(tree, file), skip_bad=self.skip_bad, named="sounds"
        )
        return (self.length or len(samples), samples.shape[1]), rate


@dataclasses.dataclass(frozen=True)
class SoundSource:
    """Sounds decoded as they are asked for.

    Attributes:
      tree: where they lie.
      files: their names.
      folders: the classes' folders in the order of the labels; none without labels.
      shape: (length, channels) of every sound.
      rate: samples a second of every sound.
      length: samples that sounds are cut or, with silence, filled up to; 0 if all have as many.
    """

    tree: Tree
    files: tuple[str, ...]
    folders: tuple[str, ...]
    shape: tuple[int, int]
    rate: int
    length: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = self.files[index]
        samples, rate = _read(self.tree, file)
        if self.length:
            samples = samples[: self.length]
            samples = np.pad(samples, ((0, self.length - len(samples)), (0, 0)))
        for wrong in self._wrong(samples, rate):
            raise _unreadable(self.tree, file, f"it has {wrong}")
        if not self.folders:
            return {"x": samples}
        return {"x": samples, "label": np.int32(self.folders.index(class_of(file)))}

    def _wrong(self, samples: np.ndarray, rate: int) -> Iterator[str]:
        length, channels = self.shape
        if rate != self.rate:
            yield f"{rate} samples a second where the first has {self.rate}"
        if samples.shape[1] != channels:
            yield f"{samples.shape[1]} channels where the first has {channels}"
        if len(samples) != length:
            yield (
                f"{len(samples)} samples where the first has {length}; "
                "set length to cut or fill up all to one"
            )


def _read(tree: Tree, file: str) -> tuple[Int16[np.ndarray, "length channels"], int]:
    """A WAV file's samples and rate."""
    try:
        return _parsed(tree.read(file))
    except Exception as error:  # Damaged zips make readers raise anything.
        raise _unreadable(tree, file, dataset.reason(error)) from error


def _parsed(content: bytes) -> tuple[Int16[np.ndarray, "length channels"], int]:
    """The samples and rate of a WAV file's content.

    Raises:
      ValueError: It is none, or is stored otherwise than `Sounds` takes.
    """
    chunks = dict(reversed([*_chunks(content)]))  # of two of a name, the first
    form, _ = chunks.get(b"fmt ", (b"", 0))
    data, size = chunks.get(b"data", (b"", 0))
    if len(form) < 16 or b"data" not in chunks:
        raise ValueError("it is no whole WAV file")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", form)
    if kind == _EXTENSIBLE and form[26:40] == _GUID:
        (kind,) = struct.unpack_from("<H", form, 24)
    if kind != 1:
        raise ValueError(f"its format is number {kind} where 1, plain PCM, is expected")
    if bits != 16:
        raise ValueError(f"it has {bits} bits where 16 are expected")
    if channels not in (1, 2):
        raise ValueError(f"it has {channels} channels where 1 or 2 are expected")
    if not 0 < rate < 2**31:
        raise ValueError(f"it has {rate} samples a second where 1 to {2**31 - 1} are expected")
    if size == _OPEN:
        raise ValueError("its header leaves its length open, as that of a stream: store it anew")
    count = size // (2 * channels)
    if not count or len(data) < 2 * channels * count:
        held = len(data) // (2 * channels)
        raise ValueError(f"by its header it should hold {count} samples, and it holds {held}")
    samples = np.frombuffer(data, "<i2", count * channels)
    return samples.reshape(-1, channels).astype(np.int16), rate


def _chunks(content: bytes) -> Iterator[tuple[bytes, tuple[bytes, int]]]:
    """The chunks of a RIFF file of the kind WAVE: names, contents and the sizes claimed."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return
    start = 12
    while start + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, start)
        yield name, (content[start + 8 : start + 8 + size], size)
        start += 8 + size + size % 2


def _unreadable(tree: Tree, file: str, why: str) -> UnreadableError:
    return UnreadableError(
        f"{shown(tree.path)}: the sound {shown(tree.prefix + file)} cannot be read ({why})"
    )
