"""Pictures in tar files, with captions, labels or both beside them, as webdataset lays them out."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from cfg_jax.data import fields, splits, tars, tree
from cfg_jax.data.dataset import (
    IN_MEMORY,
    LABEL,
    SKIPPING,
    ArraySource,
    Dataset,
    Source,
    UnreadableError,
    check_split,
    load,
    reason,
    warn_of_left_out,
)
from cfg_jax.data.folder import Pictures
from cfg_jax.data.tars import Members, Place
from cfg_jax.data.tree import shown
from cfg_jax.data.windows import Windowed
from cfg_jax.runtime.files import once

IMAGES = ("jpg", "jpeg", "png", "webp")
MOST_CLASSES = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shards(Pictures):
    """Pictures of tar files: NAME.jpg (.jpeg, .png, .webp), with NAME.txt, NAME.json, NAME.cls.

    The caption, "text", is NAME.txt, or a field of NAME.json, a text or a list of them; NAME.cls is
    the number of the class. The first example says which of the two there are, and all others have
    them too; what else lies there is not read. `path` is a tar file, a folder of them, or several
    by braces: train-{000..009}.tar. The tar files are looked through when they are opened, and read
    at the places found, never unpacked.

    Attributes:
      caption: the field of NAME.json.

    The other attributes are those of `folder.Pictures`; `crop` cuts anywhere in the whole picture.
    """

    caption: str = "caption"

    wanted = "a tar file, a folder of them, or several by braces: train-{000..009}.tar"

    def __post_init__(self):
        super().__post_init__()
        fields.text("caption", self.caption)

    def open(self, split: str) -> Dataset:
        """As `Kind.open`; what takes 256 MiB or less in all is read once, unless it is cut."""
        check_split(split)
        found = self._splits()
        examples = found[split]
        unshaped = _Pictures(examples, self)
        square = self.image_size, self.image_size, self.channels
        first = _Pictures(found["train"], self)
        shape = square if self.image_size else self.first_shape(first)
        source: Source
        if self.crop > 1:
            source = Windowed(unshaped, shape)
        else:
            source = dataclasses.replace(unshaped, shape=shape)
            if len(source) * math.prod(shape) <= IN_MEMORY:
                source = load(source, skip_bad=self.skip_bad)
        classes = 1 + max(int(held.labels.max()) for held in found.values())
        return Dataset(
            source=source,
            shape=shape,
            class_names=tuple(map(str, range(classes))),
            name="shards",
            split=split,
            arrays=LABEL if classes else {},
            texts=("text",) if examples.captioned else (),
            fingerprint=tree.digest([found[name].fingerprint() for name in sorted(found)]),
            flip=self.flip,
            skip_bad=self.skip_bad,
            workers=0 if isinstance(source, ArraySource) else self.workers,
        )

    def _splits(self) -> dict[str, "Examples"]:
        """The examples of both splits."""
        train = self._examples(self.path)
        if self.test_path:
            test = self._examples(self.test_path)
            if (train.captioned, train.labelled) != (test.captioned, test.labelled):
                raise ValueError(
                    "train and test should have captions alike, and classes: "
                    f"{shown(self.path)} and {shown(self.test_path)} differ"
                )
            return {"train": train, "test": test}
        names = train.names()
        sizes = np.bincount(train.labels + 1)
        if sizes.max() < 2:
            raise ValueError(
                f"{shown(self.path)} holds one example, or one a class, and none can be held out: "
                "test_path should name others"
            )
        chosen = splits.of_files(names, self.held_out)
        held_out = np.array([name in chosen for name in names])
        return {"train": train.of(~held_out), "test": train.of(held_out)}

    def _examples(self, path: str) -> "Examples":
        """All that a path names, less what lacks something where that may be skipped."""
        files = tars.named(path)
        if len({file.name for file in files}) < len(files):
            raise ValueError(f"{shown(path)} names two tar files of one name")
        rows, keys, bad, first = [], [], [], None
        for number, file in enumerate(files):
            for key, members in tars.index(file).items():
                if not set(members) & {*IMAGES, "txt", "json", "cls"}:
                    continue
                if first is None:
                    first = _kinds(file, members, self.caption)
                try:
                    row = _row(file, key, members, *first)
                except UnreadableError as error:
                    if not self.skip_bad:
                        raise UnreadableError(f"{error}; {SKIPPING}") from error
                    bad.append(error)
                    continue
                rows.append((number, *row))
                keys.append(key)
        if not rows:
            why = f", such as {bad[0]}" if bad else ""
            raise ValueError(f"{shown(path)} holds no pictures{why}")
        if bad:
            warn_of_left_out(bad, len(bad) + len(rows))
        return Examples(files, np.array(rows, np.int64), tuple(keys))


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Where examples lie.

    Attributes:
      files: The tar files.
      rows: Of each example the number of its file, offset and size of its picture, offset and size
        of its caption, whether that is JSON, and its label; -1 for none.
      keys: The examples' names.
    """

    files: tuple[Path, ...]
    rows: Int[np.ndarray, "count 7"]
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Int[np.ndarray, "count"]:
        """The labels; -1 for none."""
        return self.rows[:, 6]

    @property
    def labelled(self) -> bool:
        """Whether the examples have labels."""
        return bool(self.rows[0, 6] >= 0)

    @property
    def captioned(self) -> bool:
        """Whether the examples have captions."""
        return bool(self.rows[0, 3] >= 0)

    def of(self, chosen: Bool[np.ndarray, "count"]) -> "Examples":
        """Some of the examples."""
        keys = [key for key, is_chosen in zip(self.keys, chosen, strict=True) if is_chosen]
        return Examples(self.files, self.rows[chosen], tuple(keys))

    def names(self) -> list[str]:
        """A name for each that no other has, the same wherever the files lie, below its class."""
        found = []
        for row, key in zip(self.rows, self.keys, strict=True):
            name = f"{self.files[row[0]].name}/{key}".replace("/", ":")
            found.append(f"{row[6]}/{name}" if self.labelled else name)
        return found

    def fingerprint(self) -> str:
        """A digest of where the examples lie."""
        files = [file.name for file in self.files]
        return tree.digest((files, hashlib.sha256(self.rows.tobytes()).hexdigest(), self.keys))


@dataclasses.dataclass(frozen=True, eq=False)
class _Pictures:
    """Random access to examples.

    Attributes:
      examples: Where they lie.
      settings: How they are decoded.
      shape: What each picture must have; () allows any, and leaves what lies beyond the square.
    """

    examples: Examples
    settings: Shards
    shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from cfg_jax.data.pixels import decoded

        settings = self.settings
        number, offset, size, of_text, length, is_json, label = self.examples.rows[index].tolist()
        file, key = self.examples.files[number], self.examples.keys[index]
        example: dict[str, Any] = {} if label < 0 else {"label": np.int32(label)}
        try:
            if of_text >= 0:
                content = tars.read(file, Place(of_text, length))
                example["text"] = _texts(content, settings.caption if is_json else None)
            x = decoded(
                tars.read(file, Place(offset, size)),
                image_size=settings.side,
                cut=bool(self.shape),
                channels=settings.channels,
                background=settings.background,
            )
        except Exception as error:  # Damaged files make decoders raise anything.
            raise UnreadableError(
                f"{shown(file)}: the example {shown(key)} cannot be read ({reason(error)})"
            ) from error
        if self.shape and x.shape != self.shape:
            raise UnreadableError(
                f"{shown(file)}: the picture of {shown(key)} is {x.shape[:2]} where the first is "
                f"{self.shape[:2]} (height, width): image_size brings all to one size"
            )
        return {"x": x, **example}


def _kinds(file: Path, members: Members, caption: str) -> tuple[bool, bool]:
    """Whether an example has a caption, and a label."""
    captioned = "txt" in members
    if not captioned and "json" in members:
        try:
            _texts(tars.read(file, members["json"]), caption)
            captioned = True
        except (ValueError, KeyError, TypeError):
            captioned = False
    return captioned, "cls" in members


def _row(
    file: Path, key: str, members: Members, captioned: bool, labelled: bool
) -> tuple[int, ...]:
    """Where an example lies, as a row of `Examples` after the first entry.

    Raises:
      UnreadableError: It lacks something that the first example has, or its label is no number.
    """
    named = f"{shown(file)}: the example {shown(key)}"
    image = next((members[ending] for ending in IMAGES if ending in members), None)
    if image is None:
        raise UnreadableError(f"{named} has no picture, .{', .'.join(IMAGES)}")
    text, label = members.get("txt", members.get("json")), -1
    if captioned and text is None:
        raise UnreadableError(f"{named} has no caption, .txt or .json")
    if labelled:
        try:
            label = int(tars.read(file, members["cls"]))
        except (KeyError, ValueError, OSError):
            raise UnreadableError(f"{named} has no whole number in a .cls") from None
        if not 0 <= label < MOST_CLASSES:
            raise UnreadableError(f"{named} is of class {label}, not from 0 to {MOST_CLASSES - 1}")
    where = text if captioned and text is not None else Place(-1, -1)
    return (*image, *where, int("txt" not in members), label)


def _texts(content: bytes, field: str | None) -> tuple[str, ...]:
    """The captions that a file holds, a text file or the field of a JSON one.

    Raises:
      ValueError: It cannot be read.
      KeyError: There is no such field.
      TypeError: The field holds no text.
    """
    text = content.decode("utf-8-sig")
    if field is None:
        return (text.strip(),)
    return fields.captions(field, json.loads(text, object_pairs_hook=once)[field])
