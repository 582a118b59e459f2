"""Files written whole or not at all, their checksums, and where what can be made again is kept."""

import contextlib
import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

DAMAGED_NPZ = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading an .npz file raises where it is damaged, or none."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside `path` that takes its name when all is written.

    No reader ever meets half a file; where writing fails, what was there before stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/cfg_jax, or ~/.cache/cfg_jax."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cfg_jax"
