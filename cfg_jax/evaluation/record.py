"""What evaluations keep: reports, and measurements that serve again until something changes."""

import datetime
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from cfg_jax import __version__
from cfg_jax.runtime.files import DAMAGED_NPZ, atomic


def stamp() -> dict[str, Any]:
    """By what a report was made, and when."""
    return {
        "versions": {"cfg_jax": __version__, **{p: version(p) for p in ("jax", "flax", "numpy")}},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes files by name into a directory, made where missing; each is whole or as it was."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic(directory / name) as file:
            file.write(content)


def keep(path: Path, fingerprint: str, arrays: Mapping[str, Any]) -> None:
    """Writes arrays to an .npz file, under a digest of all that they depend on.

    Where it cannot be written a warning says so: they can be made again.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            np.savez(file, fingerprint=fingerprint, **arrays)
    except OSError as error:
        logging.warning("%s cannot be kept: %s", path, error.strerror or error)


def kept(path: Path, fingerprint: str, *, damaged: str, other: str) -> dict[str, Any] | None:
    """The arrays that `keep` wrote; None, with a warning, when they are damaged or others.

    Args:
      path: The file; None is returned without a word when it is missing.
      fingerprint: Of those wanted.
      damaged: What happens now, where the file cannot be read.
      other: What the file is and what happens now, where its fingerprint is another.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        return None
    except DAMAGED_NPZ as error:
        logging.warning("%s is damaged (%s): %s", path, error, damaged)
        return None
    if str(arrays.pop("fingerprint", "")) != fingerprint:
        logging.warning("%s %s", path, other)
        return None
    return arrays
