"""A folder or zip of pictures with captions: a table beside them, or a text file a picture."""

import csv
import dataclasses
import functools
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from cfg_jax.data import fields, tree
from cfg_jax.data.buckets import Bucketed, Shape, nearest, shapes
from cfg_jax.data.dataset import (
    IN_MEMORY,
    SKIPPING,
    ArraySource,
    Dataset,
    Source,
    UnreadableError,
    check_split,
    load,
    readable,
    reason,
)
from cfg_jax.data.folder import IMAGES, Pictures, Split, both, fingerprint
from cfg_jax.data.tree import Tree, shown
from cfg_jax.data.windows import Windowed
from cfg_jax.runtime.files import once

TABLES = ("metadata.jsonl", "metadata.csv")
"""Names of the tables, each looked for beside the pictures."""

PICTURES = dataclasses.replace(IMAGES, beside=(*TABLES, ".txt"))

Captions = Mapping[str, tuple[str, ...]]
"""The captions of each picture, by its name in the tree."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Captioned(Pictures):
    """Pictures of a folder or zip with their captions, "text", each picture with one or more.

    A folder of pictures has a table of their captions, or each picture IMAGE.png a file IMAGE.txt
    beside it. The table is metadata.jsonl, a line {"file_name": "IMAGE.png", "text": "a caption"}
    a picture, whose text may be a list, or metadata.csv with columns file_name and text, where
    lines of one picture are its captions. Folders train and test are splits.

    Pictures without a caption are left out where `skip_bad` is set, and refused where it is not;
    captions are not mirrored with their pictures.

    Attributes:
      buckets: 0 makes squares of all pictures; else they are sorted into shapes of at most
        image_size² pixels, heights and widths multiples of this, itself a multiple of 8, at most
        1,024. A batch is of one shape, which the network must take.
      aspect: The greatest ratio of height to width, or of width to height, of these, from 1 to 4.

    The other attributes are those of `folder.Pictures`; `crop` cuts anywhere in the whole picture.
    """

    buckets: int = 0
    aspect: float = 2.0

    wanted = "a folder or zip of pictures with captions"

    def __post_init__(self):
        super().__post_init__()
        fields.whole("buckets", self.buckets, 0, 1024, why=" (squares)")
        fields.within("aspect", self.aspect, 1, 4)
        if self.buckets % 8:
            raise ValueError(f"buckets should be a multiple of 8, got {self.buckets}")
        if self.buckets and (not self.image_size or self.image_size % self.buckets):
            raise ValueError(
                f"image_size should be a multiple of buckets, {self.buckets}, got {self.image_size}"
            )

    def open(self, split: str) -> Dataset:
        """As `Kind.open`; what takes 256 MiB or less in all is read once, unless it is cut.

        With buckets, the sizes of all pictures are read here.
        """
        check_split(split)
        found = both(self.path, self.test_path, self.held_out, PICTURES)
        said = {one: captions(one) for one in {one for one, _ in found.values()}}
        unshaped = self._pictures(found[split], said)
        square = self.image_size, self.image_size
        if self.image_size:
            shape: tuple[int, ...] = (*square, self.channels)
        else:
            shape = self.first_shape(self._pictures(found["train"], said))
        if self.buckets:
            source: Source = self._bucketed(dataclasses.replace(unshaped, shape=shape))
        elif self.crop > 1:
            source = self._cut(unshaped, square)
        else:
            source = dataclasses.replace(unshaped, shape=shape)
            if len(source) * math.prod(shape) <= IN_MEMORY:
                source = load(source, skip_bad=self.skip_bad)
        return Dataset(
            source=source,
            shape=shape,
            class_names=(),
            name="captioned",
            split=split,
            texts=("text",),
            fingerprint=fingerprint(found)
            + tree.digest([sorted(said[one].items()) for one, _ in found.values()]),
            flip=self.flip,
            skip_bad=self.skip_bad,
            workers=0 if isinstance(source, ArraySource) else self.workers,
        )

    def _pictures(self, split: Split, said: Mapping[Tree, Captions]) -> "_Pictures":
        """The pictures of a split, of any size.

        Raises:
          ValueError: One has no caption.
        """
        there, files = split
        texts = said[there]
        missing = [file for file in files if file not in texts]
        if missing and not self.skip_bad:
            raise ValueError(
                f"{shown(self.path)}: the picture {shown(missing[0])} has no caption; {SKIPPING}"
            )
        files = [file for file in files if file in texts]
        if not files:
            raise ValueError(f"{shown(self.path)} holds no picture with a caption")
        return _Pictures(there, files, texts, self)

    def _cut(self, pictures: "_Pictures", window: Shape) -> Windowed:
        """The pictures as large as they are cut from."""
        height, width = (round(side * self.crop) for side in window)
        whole = dataclasses.replace(pictures, shape=(), covered=(height, width))
        return Windowed(whole, (*window, self.channels))

    def _bucketed(self, pictures: "_Pictures") -> Bucketed:
        """The pictures sorted by their ratio of height to width."""
        every = shapes(self.image_size, self.buckets, self.aspect)
        held: list[list[str]] = [[] for _ in every]
        kept = []
        for file, size in readable(pictures.files, pictures.size, skip_bad=self.skip_bad):
            kept.append(file)
            held[nearest(every, size)].append(file)
        sources: list[Source] = []
        for shape, files in zip(every, held, strict=True):
            here = dataclasses.replace(
                pictures, files=files, covered=shape, shape=(*shape, self.channels)
            )
            if files:
                sources.append(self._cut(here, shape) if self.crop > 1 else here)
        return Bucketed(dataclasses.replace(pictures, files=kept), tuple(sources))


@dataclasses.dataclass(frozen=True)
class _Pictures:
    """Random access to the pictures of a tree and their captions.

    Attributes:
      tree: Where they lie.
      files: Their names there.
      texts: The captions of them and perhaps others.
      settings: How they are decoded.
      shape: What each must have; () allows any, and leaves what lies beyond `covered`.
      covered: Height and width that each is made to cover; `image_size` both when None.
    """

    tree: Tree
    files: Sequence[str]
    texts: Captions
    settings: Captioned
    shape: tuple[int, ...] = ()
    covered: Shape | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from cfg_jax.data.pixels import decoded

        file, settings = self.files[index], self.settings
        try:
            x = decoded(
                self.tree.read(file),
                image_size=self.covered or settings.image_size,
                cut=bool(self.shape),
                channels=settings.channels,
                background=settings.background,
            )
        except Exception as error:  # Damaged files make decoders raise anything.
            raise self._unreadable(file, error) from error
        if self.shape and x.shape != self.shape:
            raise UnreadableError(
                f"{self._named(file)} is {x.shape[:2]} where the first is {self.shape[:2]} "
                "(height, width): image_size brings all to one size"
            )
        return {"x": x, "text": self.texts[file]}

    def size(self, file: str) -> Shape:
        """Height and width of a picture as it is stored."""
        from cfg_jax.data.pixels import size_of

        try:
            with self.tree.open(file) as opened:
                return size_of(opened)
        except Exception as error:  # As above.
            raise self._unreadable(file, error) from error

    def _named(self, file: str) -> str:
        return f"{shown(self.tree.path)}: the picture {shown(file)}"

    def _unreadable(self, file: str, error: Exception) -> UnreadableError:
        return UnreadableError(f"{self._named(file)} cannot be read ({reason(error)})")


def captions(there: Tree) -> Captions:
    """The captions of a tree's pictures: those of tables, else of text files beside them.

    Raises:
      ValueError: A table or text file is damaged, a table is a folder, or names a picture that is
        not there; the line is named.
    """
    pictures = set(there.files)
    folders = sorted({os.path.dirname(file) for file in pictures} | {""})
    found: dict[str, list[str]] = {}
    tables = [
        (folder, f"{folder}/{name}" if folder else name) for folder in folders for name in TABLES
    ]
    for _, table in tables:
        if (there.path / there.prefix / table).is_dir():
            raise ValueError(f"{shown(there.path)}: {table} is a folder, not a file")
    held = [(folder, table) for folder, table in tables if table in there.others]
    for folder, table in held:
        for number, name, texts in _rows(there, table):
            file = os.path.normpath(os.path.join(folder, name)).replace(os.sep, "/")
            if file not in pictures:
                raise ValueError(
                    f"{shown(there.path)}: line {number} of {table} names {name!r}, and there is "
                    "no such picture"
                )
            found.setdefault(file, []).extend(texts)
    if not held:
        beside = {file: str(PurePosixPath(file).with_suffix(".txt")) for file in there.files}
        found = {
            file: [_text(there, text).strip()]
            for file, text in beside.items()
            if text in there.others
        }
    return {file: tuple(texts) for file, texts in found.items()}


def _rows(there: Tree, table: str) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """The lines of a table: their number, the picture's name, its captions."""
    text = _text(there, table)
    read = _json_lines if table.endswith(".jsonl") else _csv_lines
    for number, row in read(text):
        try:
            entry = row() if callable(row) else row
            name, texts = entry["file_name"], fields.captions("text", entry["text"])
            if not isinstance(name, str):
                raise TypeError("file_name must be text")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f'{shown(there.path)}: line {number} of {table} is no {{"file_name": …, "text": '
                f"…}} ({reason(error)})"
            ) from None
        yield number, name, texts


def _json_lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, lambda line=line: json.loads(line, object_pairs_hook=once)


def _csv_lines(text: str) -> Iterator[tuple[int, Any]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    while True:
        wrong, row = "", None
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            wrong = str(error)
        if row is not None and len(set(rows.fieldnames or ())) < len(rows.fieldnames or ()):
            wrong = "two columns have one name"
        elif row is not None and None in row:
            wrong = "it has more fields than the first line; text with a comma needs quotes"
        yield rows.line_num, functools.partial(_refuse, wrong) if wrong else row


def _refuse(why: str) -> None:
    raise ValueError(why)


def _text(there: Tree, file: str) -> str:
    """A text file's content.

    Raises:
      ValueError: It cannot be read as UTF-8.
    """
    try:
        return there.read(file).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{shown(there.path)}: {shown(file)} cannot be read ({reason(error)})"
        ) from None
