"""Sets of images, or their statistics, as the projects that publish figures lay them out.

A folder or zip holds images; an .npz file either or both of

    arr_0, or x or image          uint8 images of (n, height, width, channels): guided-diffusion's
                                  and this project's
    mu, sigma                     mean and covariance of features: pytorch-fid's, EDM's, and
    mu_s, sigma_s                 guided-diffusion's, which adds those of sFID
"""

import contextlib
import dataclasses
import functools
import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8

from cfg_jax.data import tree
from cfg_jax.data.dataset import reason
from cfg_jax.data.folder import IMAGES
from cfg_jax.data.pixels import decoded
from cfg_jax.evaluation.frechet import Moments
from cfg_jax.runtime.files import DAMAGED_NPZ, check_regular, checksum

MEMBERS = ("arr_0", "x", "image")
"""What an .npz file calls its images; the first that it holds is taken."""

COLOURS = 3
"""Channels of the images of a folder."""

LARGEST = 1e100
"""No entry of statistics is larger: distances are of their squares."""

ROUNDED = 1e-3
"""How far a covariance may be from one, of its largest entry or eigenvalue: float32 rounds it."""

Batches = Iterator[UInt8[np.ndarray, "n height width channels"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Archive:
    """Images, or statistics of them, or both.

    Attributes:
      path: Where they lie, or the model that makes them.
      shape: (n, height, width, channels) of the images; None where there are none.
      pool: Moments of their Inception features (FID); None where there are none.
      spatial: Moments of their spatial features (sFID); None where there are none.
      read: The images, so many at a time.
      identity: A checksum of all that they are made of.
    """

    path: Path
    shape: tuple[int, ...] | None
    pool: Moments | None
    spatial: Moments | None
    read: Callable[[int], Batches]
    identity: Callable[[], str]

    @property
    def count(self) -> int | None:
        """The number of its images; None where there are none."""
        return self.shape[0] if self.shape else None

    def batches(self, size: int) -> Batches:
        """The images, `size` at a time, of which no more are ever in memory.

        Raises:
          ValueError: There are none, or one cannot be read.
        """
        if self.shape is None:
            raise ValueError(f"{self.path} holds no images, {MEMBERS[0]}")
        return self.read(size)


def open_archive(path: Path) -> Archive:
    """Looks into an .npz file, or a folder or zip of images; they are read when asked for.

    Raises:
      ValueError: It is missing, damaged or something else, holds neither images nor statistics, or
        they are of another shape or dtype.
    """
    if path.is_dir():
        return _of_pictures(path)
    check_regular(path, "the file")
    with _readable(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    held = {name.removesuffix(".npy") for name in names}
    member = next((name for name in MEMBERS if name in held), None)
    if member is None and not {"mu", "sigma"} <= held:
        if any(name.lower().endswith(IMAGES.suffixes) for name in names):
            return _of_pictures(path)
        said = ", ".join(sorted(held)) or "nothing"
        raise ValueError(
            f"{path} holds {said}: expected images ({', '.join(MEMBERS)}), or mu and sigma"
        )
    shape = None if member is None else _shape(path, member)
    return Archive(
        path,
        shape,
        _moments(path, "mu", "sigma") if {"mu", "sigma"} <= held else None,
        _moments(path, "mu_s", "sigma_s") if {"mu_s", "sigma_s"} <= held else None,
        functools.partial(_stored, path, member or "", shape or ()),
        functools.partial(checksum, path),
    )


# Folders and zips of images.


def _of_pictures(path: Path) -> Archive:
    """All images of a folder or zip, in class folders or not."""
    files = [(held, file) for held in tree.find(path, IMAGES).values() for file in held.files]
    shape = (len(files), *_picture(*files[0]).shape)
    read = functools.partial(_pictures, files, shape[1:])
    return Archive(path, shape, None, None, read, functools.partial(_sum, files))


def _pictures(files: Sequence[tuple[tree.Tree, str]], shape: tuple[int, ...], size: int) -> Batches:
    for start in range(0, len(files), size):
        batch = []
        for held, file in files[start : start + size]:
            batch.append(_picture(held, file))
            if batch[-1].shape != shape:
                raise ValueError(
                    f"{tree.shown(held.path)}: the image {tree.shown(file)} is "
                    f"{batch[-1].shape[:2]} where the first is {shape[:2]} (height, width): bring "
                    "all to one size first"
                )
        yield np.stack(batch)


def _picture(held: tree.Tree, file: str) -> UInt8[np.ndarray, "height width channels"]:
    with _named(held, file):
        return decoded(held.read(file), image_size=0, channels=COLOURS)


def _sum(files: Sequence[tuple[tree.Tree, str]]) -> str:
    """A checksum of the files, one after another."""
    digest = hashlib.sha256()
    for held, file in files:
        with _named(held, file):
            digest.update(hashlib.sha256(held.read(file)).digest())
    return digest.hexdigest()


@contextlib.contextmanager
def _named(held: tree.Tree, file: str) -> Iterator[None]:
    """Says in one line which image cannot be read."""
    try:
        yield
    except Exception as error:  # Damaged files make decoders raise anything.
        raise ValueError(
            f"{tree.shown(held.path)}: the image {tree.shown(file)} cannot be read "
            f"({reason(error)})"
        ) from error


# .npz files.


def _stored(path: Path, member: str, shape: tuple[int, ...], size: int) -> Batches:
    count, *one = shape
    with _member(path, member) as file:
        _header(file)
        for start in range(0, count, size):
            here = min(size, count - start)
            data = file.read(here * int(np.prod(one)))
            yield np.frombuffer(data, np.uint8).reshape(here, *one)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Says in one line that a file is not what it should be."""
    try:
        yield
    except DAMAGED_NPZ as error:
        raise ValueError(f"{path} is damaged, or no .npz file: {error}") from error


@contextlib.contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with _readable(path), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        yield file


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype of the array that follows."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _shape(path: Path, member: str) -> tuple[int, ...]:
    with _member(path, member) as file:
        shape, fortran, dtype = _header(file)
    if dtype != np.uint8:
        raise ValueError(f"{path}: {member} holds {dtype}; images are uint8, from 0 to 255")
    if len(shape) != 4 or shape[-1] not in (1, 3) or not all(shape) or fortran:
        raise ValueError(
            f"{path}: {member} has shape {shape}; images are (n, height, width, 3 or 1), in C order"
        )
    return shape


def _moments(path: Path, mean: str, covariance: str) -> Moments:
    with _readable(path), np.load(path, allow_pickle=False) as arrays:
        held = {name: np.asarray(arrays[name]) for name in (mean, covariance)}
    for name, array in held.items():
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{path}: {name} holds {array.dtype}; statistics are real numbers")
    mu, sigma = (array.astype(np.float64) for array in held.values())
    if mu.ndim != 1 or not mu.size or sigma.shape != (len(mu), len(mu)):
        raise ValueError(
            f"{path}: {mean} of {mu.shape} and {covariance} of {sigma.shape} do not fit together"
        )
    if not all(np.all(np.abs(array) <= LARGEST) for array in (mu, sigma)):
        raise ValueError(f"{path}: {mean} and {covariance} must be finite, at most {LARGEST:g}")
    if np.abs(sigma - sigma.T).max() > ROUNDED * np.abs(sigma).max():
        raise ValueError(f"{path}: {covariance} must be symmetric, as covariances are")
    values = np.linalg.eigvalsh(sigma)
    if values[0] < -ROUNDED * max(values[-1], 0.0):
        raise ValueError(
            f"{path}: {covariance} has the eigenvalue {values[0]:.3g}, and covariances have none "
            "below 0"
        )
    return Moments(mu, sigma, None)
