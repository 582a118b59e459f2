"""Files of images or of their statistics, as the projects that publish figures lay them out.

An .npz file holds either or both of

    arr_0                         uint8 images of (n, height, width, channels): guided-diffusion's
    mu, sigma                     mean and covariance of features: pytorch-fid's, EDM's, and
    mu_s, sigma_s                 guided-diffusion's, which adds those of sFID
"""

import contextlib
import dataclasses
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8

from cfg_jax.evaluation.frechet import Moments
from cfg_jax.runtime.files import DAMAGED_NPZ

IMAGES = "arr_0"


@dataclasses.dataclass(frozen=True, eq=False)
class Archive:
    """What an .npz file of images or statistics holds.

    Attributes:
      path: The file.
      shape: (n, height, width, channels) of its images; None where there are none.
      pool: Moments of its images' Inception features (FID); None where there are none.
      spatial: Moments of their spatial features (sFID); None where there are none.
    """

    path: Path
    shape: tuple[int, ...] | None
    pool: Moments | None
    spatial: Moments | None

    @property
    def count(self) -> int | None:
        """The number of its images; None where there are none."""
        return self.shape[0] if self.shape else None

    def batches(self, size: int) -> Iterator[UInt8[np.ndarray, "n height width channels"]]:
        """The images, `size` at a time, of which no more are ever in memory.

        Raises:
          ValueError: The file holds no images, or is damaged.
        """
        if self.shape is None:
            raise ValueError(f"{self.path} holds no images, {IMAGES}")
        count, *one = self.shape
        with _images(self.path) as file:
            _header(file)
            for start in range(0, count, size):
                here = min(size, count - start)
                data = file.read(here * int(np.prod(one)))
                yield np.frombuffer(data, np.uint8).reshape(here, *one)


def open_archive(path: Path) -> Archive:
    """Looks into an .npz file; its images are read when they are asked for.

    Raises:
      ValueError: It is missing, damaged or no .npz file, holds neither images nor statistics, or
        they are of another shape or dtype.
    """
    if not path.is_file():
        raise ValueError(f"the file {path} does not exist")
    with _readable(path), zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    if not {IMAGES} <= names and not {"mu", "sigma"} <= names:
        held = ", ".join(sorted(names)) or "nothing"
        raise ValueError(f"{path} holds {held}: expected {IMAGES} (images), or mu and sigma")
    return Archive(
        path,
        _shape(path) if IMAGES in names else None,
        _moments(path, "mu", "sigma") if {"mu", "sigma"} <= names else None,
        _moments(path, "mu_s", "sigma_s") if {"mu_s", "sigma_s"} <= names else None,
    )


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Says in one line that a file is not what it should be."""
    try:
        yield
    except DAMAGED_NPZ as error:
        raise ValueError(f"{path} is damaged, or no .npz file: {error}") from error


@contextlib.contextmanager
def _images(path: Path) -> Iterator[IO[bytes]]:
    with _readable(path), zipfile.ZipFile(path) as archive, archive.open(f"{IMAGES}.npy") as file:
        yield file


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype of the array that follows."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _shape(path: Path) -> tuple[int, ...]:
    with _images(path) as file:
        shape, fortran, dtype = _header(file)
    if dtype != np.uint8:
        raise ValueError(f"{path}: {IMAGES} holds {dtype}; images are uint8, from 0 to 255")
    if len(shape) != 4 or shape[-1] not in (1, 3) or not all(shape) or fortran:
        raise ValueError(
            f"{path}: {IMAGES} has shape {shape}; images are (n, height, width, 3 or 1), in C order"
        )
    return shape


def _moments(path: Path, mean: str, covariance: str) -> Moments:
    with _readable(path), np.load(path, allow_pickle=False) as arrays:
        mu, sigma = (np.asarray(arrays[name], np.float64) for name in (mean, covariance))
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(
            f"{path}: {mean} of {mu.shape} and {covariance} of {sigma.shape} do not fit together"
        )
    if not (np.all(np.isfinite(mu)) and np.all(np.isfinite(sigma))):
        raise ValueError(f"{path}: {mean} and {covariance} must be finite")
    return Moments(mu, sigma, None)
