"""A folder or zip of class folders of images."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cfg_jax.data import fields, splits, tree
from cfg_jax.data.dataset import (
    Dataset,
    Kind,
    Source,
    check_split,
    first_readable,
    warn_of_empty,
)
from cfg_jax.data.tree import Tree, What
from cfg_jax.data.windows import Windowed

IMAGES = What(
    one="image",
    suffixes=(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    example="IMAGE.png (or .jpg, .webp, .gif, .bmp, .tif)",
    named="image",
)

Split = tuple[Tree, Sequence[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures(Kind):
    """Images of a folder or zip; a base for what lies beside them.

    Attributes:
      path: the folder or zip.
      test_path: another of held-out images, laid out alike; "" takes the folder test of `path`, or
        holds out a part of it.
      held_out: that part of every class, between 0 and 1, the same images every time.
      image_size: side of the square that images are resized and cropped to, at most 16,384; 0 if
        all have one size.
      crop: how many times `image_size` the short side of images is, from 1 to 4; where it is more
        than 1, training is shown a square at a random place of each, else the one in the middle.
      channels: 1 (grey) or 3 (RGB).
      background: red, green and blue, 0 to 255, of what shows through transparent images.
      flip: mirror half of the examples left to right.
      skip_bad: leave out images that cannot be read, with a warning, rather than raise.
    """

    wanted: ClassVar[str]
    """What the path should be, in messages."""

    path: str = ""
    test_path: str = ""
    held_out: float = 0.1
    image_size: int = 0
    crop: float = 1.0
    channels: int = 3
    background: tuple[int, int, int] = (255, 255, 255)
    flip: bool = False
    skip_bad: bool = False

    def __post_init__(self):
        super().__post_init__()
        fields.needed("path", self.path, self.wanted)
        fields.path("test_path", self.test_path)
        fields.share("held_out", self.held_out)
        fields.whole("image_size", self.image_size, 0, fields.SIDE, why=" (as stored)")
        fields.within("crop", self.crop, 1, 4)
        if self.crop > 1 and not self.image_size:
            raise ValueError(f"crop should be 1 where image_size is 0 (as stored), got {self.crop}")
        fields.one_of("channels", self.channels, (1, 3), "1 (grey) or 3 (RGB)")
        fields.colour("background", self.background)
        fields.flag("flip", self.flip)
        fields.flag("skip_bad", self.skip_bad)

    def first_shape(self, pictures: Source) -> tuple[int, ...]:
        """The shape of the first picture that can be read."""
        return first_readable(
            range(len(pictures)),
            lambda index: pictures[index]["x"].shape,
            skip_bad=self.skip_bad,
            named="pictures",
        )

    @property
    def side(self) -> int:
        """The short side of images as they are read; 0 as stored."""
        return round(self.image_size * self.crop)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder(Pictures):
    """A folder or zip of class folders of images, read once and stored as training reads them.

    The layouts are CLASS/IMAGE, CLASS/…/IMAGE and, for images without classes, IMAGE alone; folders
    train and test with either of them; and any of these within other folders. Of an animation the
    first frame is taken. Images are stored as squares, within which `crop` cuts.

    Attributes:
      dir: where prepared datasets are kept, "" for TFDS's default (`TFDS_DATA_DIR`).

    The other attributes are those of `Pictures`.
    """

    dir: str = ""

    wanted = "a folder or zip of class folders of images"

    def __post_init__(self):
        super().__post_init__()
        fields.path("dir", self.dir)

    def open(self, split: str) -> Dataset:
        """As `Kind.open`; needs no TensorFlow."""
        check_split(split)
        from cfg_jax.data import records
        from cfg_jax.data.folder_builder import ClassFolders, Decoding

        place = records.place(self.dir)
        for path in filter(None, (self.path, self.test_path)):
            if _within(place, path):
                raise ValueError(f"dir, {place}, should lie elsewhere than within {path}")
        found = both(self.path, self.test_path, self.held_out, IMAGES)
        builder = ClassFolders(
            found,
            Decoding(self.side, self.channels, tuple(self.background), self.skip_bad),
            data_dir=place,
        )
        records.prepare(builder, "folder")
        dataset = records.read(
            builder,
            split,
            name="folder",
            class_names=found["train"][0].class_names,
            skip_bad=self.skip_bad,
        )
        warn_of_empty(tree.shown(self.path), split, dataset.class_names, dataset.source)
        if self.crop > 1:
            shape = (self.image_size, self.image_size, self.channels)
            dataset = dataclasses.replace(
                dataset, source=Windowed(dataset.source, shape), shape=shape
            )
        return dataclasses.replace(
            dataset, flip=self.flip, workers=self.workers, fingerprint=fingerprint(found)
        )


def _within(place: str, path: str) -> bool:
    """Whether a place is a folder, or lies in it, wherever links lead."""
    inner, outer = map(os.path.realpath, (place, os.path.expanduser(path)))
    return Path(inner).is_relative_to(outer)


def both(
    path: str | os.PathLike, test_path: str | os.PathLike, held_out: float, what: What
) -> dict[str, Split]:
    """The files of both splits, `train` and `test`, of a folder or zip.

    Args:
      path: the folder or zip.
      test_path: another, of the test split; "" if `path` holds that too.
      held_out: the share that is held out where neither says what the test split is.
      what: the kind of file.

    Raises:
      ValueError: a path is laid out otherwise, or the two splits' classes differ.
    """
    trees = tree.find(path, what)
    if not os.fspath(test_path):
        if "" in trees:
            return {
                split: (trees[""], files)
                for split, files in splits.of_tree(trees[""], held_out).items()
            }
        train, test = trees["train"], trees["test"]
    else:
        train, test = _whole(trees, "path"), _whole(tree.find(test_path, what), "test_path")
    differing = sorted({*train.folders} ^ {*test.folders})
    if differing:
        raise ValueError(
            "train and test should have the same class folders: only one of "
            f"{tree.shown(train.path / train.prefix)} and {tree.shown(test.path / test.prefix)} "
            f"has {tree.shown(differing[0])}"
        )
    return {"train": (train, train.files), "test": (test, test.files)}


def _whole(trees: Mapping[str, Tree], field: str) -> Tree:
    """The tree of a path that is one split alone."""
    if "" in trees:
        return trees[""]
    root = tree.shown(trees["train"].path)
    raise ValueError(
        f"{field} should hold class folders alone where test_path is given, but "
        f"{root} holds train and test"
    )


def fingerprint(found: Mapping[str, Split]) -> str:
    """A digest of the names and sizes of both splits' files."""
    return tree.digest([(split, held.fingerprint(files)) for split, (held, files) in found.items()])
