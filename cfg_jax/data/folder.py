"""A folder or zip of class folders of images, prepared once as a TFDS dataset."""

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from jaxtyping import UInt8
from PIL import Image, ImageOps

_SUFFIXES = (".jpg", ".jpeg", ".png")
_MODES = {1: "L", 3: "RGB"}


def to_pixels(
    image: Image.Image, *, image_size: int, channels: int
) -> UInt8[np.ndarray, "height width {channels}"]:
    """Turns a decoded image into pixels of the wanted size and number of channels.

    The image is turned upright (EXIF), made grey or RGB (transparency is dropped), resized with
    an antialiasing bicubic filter until its short side is `image_size`, and cropped at the centre.

    Args:
      image: of any mode and size.
      image_size: side of the square wanted; 0 leaves the size as it is.
      channels: 1 (grey) or 3 (RGB).

    Returns:
      The pixels, 0..255.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel: convert() clips them where we want to scale.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":  # Pillow warns of transparent colours on the straight way.
        image = image.convert("RGBA")
    image = image.convert(_MODES[channels])
    if image_size and image.size != (image_size, image_size):
        image = ImageOps.cover(image, (image_size, image_size), Image.Resampling.BICUBIC)
        left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
        image = image.crop((left, top, left + image_size, top + image_size))
    return np.asarray(image).reshape(image.height, image.width, channels)


@dataclasses.dataclass(frozen=True)
class ImageTree:
    """The JPEG and PNG images of a folder or zip of class folders.

    Attributes:
      path: the folder or zip.
      prefix: "WRAPPER/", the one folder that holds the class folders, or "".
      files: the sorted names, CLASS/IMAGE, of the images below `prefix`.
    """

    path: Path
    prefix: str
    files: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class folders' names, sorted."""
        return tuple(sorted({_class_of(file) for file in self.files}))

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], bytes]]:
        """Gives a function from an image's name to its bytes that any thread may call."""
        if self.path.is_dir():
            yield lambda file: (self.path / self.prefix / file).read_bytes()
        else:
            with zipfile.ZipFile(self.path) as archive:
                yield lambda file: archive.read(self.prefix + file)

    def stamp(self, files: Sequence[str]) -> tuple:
        """Returns what differs once one of these files was renamed or written to."""
        on_disk = [self.path]
        if self.path.is_dir():
            on_disk = [self.path / self.prefix / file for file in files]
        statuses = [path.stat() for path in on_disk]
        return self.path, files, [(s.st_size, s.st_mtime_ns) for s in statuses]


def _class_of(file: str) -> str:
    return file.partition("/")[0]


def list_images(path: str | os.PathLike) -> ImageTree:
    """Finds the images of a folder or zip of class folders.

    One folder around the class folders is looked through; hidden files are left out, and so, with
    a warning, are files that are neither JPEG nor PNG.

    Args:
      path: the folder or zip.

    Returns:
      The images, one or more.

    Raises:
      ValueError: if the path does not exist, is neither folder nor zip, or is laid out otherwise.
    """
    root = Path(path).expanduser().resolve()
    if root.is_dir():
        names = list(_walk(root))
    elif not root.exists():
        raise ValueError(f"{root} does not exist: path should be a folder or zip of class folders")
    elif zipfile.is_zipfile(root):
        with zipfile.ZipFile(root) as archive:
            names = archive.namelist()
    else:
        raise ValueError(f"{root} is neither a folder nor a zip: path should be one of them")
    names = [name for name in names if not _is_hidden(name)]
    prefix = _wrapper(names)
    names = [name.removeprefix(prefix) for name in names if name != prefix]
    files = tuple(sorted(name for name in names if _is_image(name)))
    _check_layout(root, names, files)
    others = [name for name in names if not name.endswith("/") and not _is_image(name)]
    if others:
        logging.warning(
            "%s: left out %d files that are neither JPEG nor PNG, such as %s",
            root,
            len(others),
            others[0],
        )
    return ImageTree(root, prefix, files)


def _walk(root: Path) -> Iterator[str]:
    """Names all that is below a folder as a zip would: relative, folders ending in "/"."""
    for parent, folders, files in os.walk(root, followlinks=True):
        below = "" if parent == str(root) else Path(parent).relative_to(root).as_posix() + "/"
        yield from (f"{below}{folder}/" for folder in folders)
        yield from (f"{below}{file}" for file in files)


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _wrapper(names: Sequence[str]) -> str:
    """Returns the prefix shared by all folders, if the images lie a folder deeper than usual."""
    tops = {_class_of(name) for name in names if "/" in name}
    depths = {name.count("/") for name in names if _is_image(name)}
    return f"{tops.pop()}/" if len(tops) == 1 and min(depths, default=0) == 2 else ""


def _check_layout(root: Path, names: Sequence[str], files: Sequence[str]) -> None:
    layout = f"lay images out as {root.name}/CLASS/IMAGE.png (or .jpg)"
    for file in files:
        if file.count("/") != 1:
            where = "too deep" if "/" in file else "in no class folder"
            raise ValueError(f"{root}: the image {file} lies {where}; {layout}")
    classes = {_class_of(name) for name in names if "/" in name}
    if not classes:
        raise ValueError(f"{root} holds no class folders; {layout}")
    empty = sorted(classes - {_class_of(file) for file in files})
    if empty:
        raise ValueError(f"{root}: the folder {empty[0]} holds no JPEG or PNG image; {layout}")


def held_out_files(files: Sequence[str], fraction: float) -> frozenset[str]:
    """Chooses the files of the test split by a hash of each name.

    Adding or removing files moves no other file across, save that neither side is left empty.

    Args:
      files: two names or more.
      fraction: the expected share of files chosen, between 0 and 1.

    Returns:
      The names chosen: one at least, and not all.
    """
    rank = {file: hashlib.sha256(os.fsencode(file)).digest() for file in files}
    limit = round(fraction * 2**64)
    chosen = sum(int.from_bytes(digest[:8], "big") < limit for digest in rank.values())
    chosen = min(max(chosen, 1), len(files) - 1)
    return frozenset(sorted(files, key=rank.__getitem__)[:chosen])


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """Reads images of one tree into pixels; None stands for a bad file that may be skipped."""

    tree: ImageTree
    read: Callable[[str], bytes]
    image_size: int
    channels: int
    skip_bad: bool

    def __call__(self, file: str) -> np.ndarray | None:
        try:
            with Image.open(io.BytesIO(self.read(file)), formats=("JPEG", "PNG")) as image:
                return to_pixels(image, image_size=self.image_size, channels=self.channels)
        except Exception as error:  # Damaged files make decoders raise anything.
            if self.skip_bad:
                return None
            raise ValueError(
                f"{self.tree.path}: the image {file} cannot be read "
                f"({type(error).__name__}); skip_bad (the flag --skip-bad) leaves such files out"
            ) from error


@dataclasses.dataclass(frozen=True)
class _Examples:
    """One split's examples in order; their number gives TFDS's progress bar its total."""

    tree: ImageTree
    files: Sequence[str]
    shape: tuple[int, int, int]
    image_size: int
    skip_bad: bool

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        bad = []
        for index, pixels in enumerate(self._pixels()):
            if pixels is None:
                bad.append(self.files[index])
                continue
            self._check_shape(self.files[index], pixels)
            yield index, {"image": pixels, "label": _class_of(self.files[index])}
        if len(bad) == len(self.files):
            raise ValueError(f"{self.tree.path}: none of {len(bad)} images can be read")
        if bad:
            logging.warning(
                "%s: skipped %d of %d images as unreadable, such as %s",
                self.tree.path,
                len(bad),
                len(self.files),
                bad[0],
            )

    def _pixels(self) -> Iterator[np.ndarray | None]:
        # Pillow decodes outside the GIL, so threads help; the short buffer bounds the memory.
        threads = os.cpu_count() or 1
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        with self.tree.reader() as read:
            decode = _Decoder(self.tree, read, self.image_size, self.shape[-1], self.skip_bad)
            images = grain.MapDataset.source(self.files).map(decode)
            yield from images.to_iter_dataset(options, allow_nones=True)

    def _check_shape(self, file: str, pixels: np.ndarray) -> None:
        if pixels.shape != self.shape:
            raise ValueError(
                f"{self.tree.path}: the image {file} is {pixels.shape[:2]} where the first is "
                f"{self.shape[:2]} (height, width); set image_size to bring all to one size"
            )


class ClassFolders(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS builder over the images of one or two trees; needs no TensorFlow.

    The dataset's name, and with it its directory, ends in a fingerprint of the images and the
    settings, so that a changed folder or another size is prepared anew.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # No downloads: TFDS would look for their checksums beside this file.

    def __init__(
        self,
        splits: Mapping[str, tuple[ImageTree, Sequence[str]]],
        *,
        image_size: int,
        channels: int,
        skip_bad: bool,
        data_dir: str | None,
    ):
        self._splits = splits
        self._settings = (image_size, channels, skip_bad)
        self.name = self._fingerprinted_name()
        super().__init__(data_dir=data_dir)

    def _fingerprinted_name(self) -> str:
        stamps = [(split, tree.stamp(files)) for split, (tree, files) in self._splits.items()]
        fingerprint = hashlib.sha256(repr((stamps, self._settings)).encode()).hexdigest()[:16]
        stem = re.sub(r"\W+", "_", self._splits["train"][0].path.stem, flags=re.ASCII)
        return f"folder_{stem}_{fingerprint}"

    def _info(self) -> tfds.core.DatasetInfo:
        # features.Image would ask for TensorFlow to encode; bytes are also the fastest to read.
        image = tfds.features.Tensor(shape=self._shape(), dtype=np.uint8, encoding="bytes")
        label = tfds.features.ClassLabel(names=list(self._splits["train"][0].classes))
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Images of {self._splits['train'][0].path}.",
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            disable_shuffling=True,
        )

    def _shape(self) -> tuple[int, int, int]:
        image_size, channels, skip_bad = self._settings
        if image_size:
            return image_size, image_size, channels
        tree, files = self._splits["train"]
        with tree.reader() as read:
            decoded = map(_Decoder(tree, read, image_size, channels, skip_bad), files)
            first = next((pixels for pixels in decoded if pixels is not None), None)
        if first is None:
            raise ValueError(f"{tree.path}: none of {len(files)} images can be read")
        return first.shape

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        shape = self.info.features["image"].shape
        image_size, _, skip_bad = self._settings
        return {
            split: _Examples(tree, files, shape, image_size, skip_bad)
            for split, (tree, files) in self._splits.items()
        }

    def _generate_examples(self):
        raise NotImplementedError("the splits are iterables already")


def class_folders(
    path: str,
    *,
    test_path: str = "",
    image_size: int = 0,
    channels: int = 3,
    held_out: float = 0.1,
    skip_bad: bool = False,
    data_dir: str | None = None,
) -> ClassFolders:
    """Returns the TFDS builder for a folder or zip of class folders of JPEG or PNG images.

    Args:
      path: the folder or zip: CLASS/IMAGE, perhaps within one wrapping folder.
      test_path: folder or zip of the test split, with the same class folders; if empty, part of
        `path` is held out.
      image_size: side of the square every image is resized and cropped to; 0 if all images
        already have one size.
      channels: 1 (grey) or 3 (RGB).
      held_out: share of the images held out as the test split, between 0 and 1; unused with
        `test_path`.
      skip_bad: leave out images that cannot be read, with a warning, rather than raise.
      data_dir: where TFDS keeps prepared datasets; None means its own default.

    Returns:
      The builder, its splits named `train` and `test`.

    Raises:
      ValueError: if a setting is out of range, or the folder or zip is not laid out as said.
    """
    if image_size < 0:
        raise ValueError(f"image_size should be 0 (as stored) or more, got {image_size}")
    if channels not in _MODES:
        raise ValueError(f"channels should be 1 (grey) or 3 (RGB), got {channels}")
    tree = list_images(path)
    if test_path:
        splits = {"train": (tree, tree.files), "test": _test_split(tree, test_path)}
    else:
        splits = _hold_out(tree, held_out)
    return ClassFolders(
        splits, image_size=image_size, channels=channels, skip_bad=skip_bad, data_dir=data_dir
    )


def _test_split(train: ImageTree, test_path: str) -> tuple[ImageTree, tuple[str, ...]]:
    test = list_images(test_path)
    differing = sorted({*train.classes} ^ {*test.classes})
    if differing:
        raise ValueError(
            f"path and test_path should have the same class folders: "
            f"only one of {train.path} and {test.path} has {differing[0]}"
        )
    return test, test.files


def _hold_out(tree: ImageTree, fraction: float) -> dict[str, tuple[ImageTree, tuple[str, ...]]]:
    if not 0 < fraction < 1:
        raise ValueError(f"held_out should be between 0 and 1, got {fraction}")
    if len(tree.files) < 2:
        raise ValueError(f"{tree.path} holds one image: train and test need one each")
    chosen = held_out_files(tree.files, fraction)
    return {
        "train": (tree, tuple(file for file in tree.files if file not in chosen)),
        "test": (tree, tuple(file for file in tree.files if file in chosen)),
    }
