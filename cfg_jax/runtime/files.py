"""Files written whole or not at all, their checksums, and where what can be made again is kept."""

import contextlib
import errno
import hashlib
import json
import lzma
import os
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

DAMAGED_NPZ = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    AttributeError,
    MemoryError,  # a header claims more than there is
    OverflowError,  # or than can be counted
    RuntimeError,  # encrypted, or compressed in a way that is not known here
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What reading an .npz file raises where it is damaged, or none."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside `path` that takes its name when all is written.

    No reader ever meets half a file; where writing fails, what was there before stays. A link stays
    one, and the file that it leads to is written.

    Raises:
      OSError: The file cannot be written, as on a full disk; `filename` is the path.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.exists() and not target.is_dir() and not target.is_file():
            raise OSError(errno.EINVAL, "it is a device or a pipe, which would be replaced")
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, target)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):  # its folder may not be there
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Makes a folder, and those that it lies in, where they are not there yet.

    Raises:
      OSError: It cannot be made; `strerror` names a file that stands where a folder should.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        files = (at for at in (path, *path.parents) if os.path.exists(at))
        if not os.path.isdir(file := next(files, path)):
            error.strerror = f"{file} is a file, not a folder"
        raise


def folder(path: Path) -> Path:
    """The path of a folder that is there, or can be made there.

    Raises:
      ValueError: Something else stands there.
    """
    if os.path.lexists(path) and not os.path.isdir(path):
        raise ValueError(f"{path} is no folder, and stands where one should")
    return path


def check_regular(path: str | os.PathLike, what: str = "") -> None:
    """Raises ValueError where a path is no regular file: a pipe keeps its reader waiting."""
    named = f"{what} {path}".lstrip()
    if os.path.isdir(path):
        raise ValueError(f"{named} is a folder, not a file")
    if not os.path.isfile(path):
        there = os.path.exists(path)
        raise ValueError(f"{named} {'is no regular file' if there else 'does not exist'}")


def read_text(path: str | Path) -> str:
    """The text of a file.

    Args:
      path: The file; "~" is the home directory.

    Raises:
      ValueError: It is no regular file, cannot be read, or is no text in UTF-8.
    """
    file = os.path.expanduser(path)
    check_regular(file)
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text in UTF-8: {error}") from None


def read_object(path: str | Path) -> dict[str, Any]:
    """The object that a file of JSON holds.

    Raises:
      ValueError: As `read_text`; or the file is no JSON, or holds something else.
    """
    text = read_text(path)
    try:
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON, or cut short: {error}") from None
    if not isinstance(held, dict):
        raise ValueError(f"{path} holds no JSON object")
    return held


def read_arrays(
    path: str | Path, names: Iterable[str], *, needed: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by their names; nothing in it is executed.

    Args:
      path: The file; "~" is the home directory.
      names: Those that are read, if it holds them.
      needed: Those that it must hold.

    Raises:
      ValueError: The file cannot be read, or lacks one that is needed.
    """
    file = Path(os.path.expanduser(path))
    check_regular(file)
    try:
        with np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files if name in set(names)}
        if any(isinstance(array, bytes) for array in arrays.values()):
            raise ValueError("a member is no array")
    except DAMAGED_NPZ:
        raise ValueError(f"{path} cannot be read as an .npz file") from None
    for name in needed:
        if name not in arrays:
            raise ValueError(f"{path} holds no {name}")
    return arrays


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, as the `object_pairs_hook` of `json.loads`.

    Raises:
      ValueError: One name stands there twice.
    """
    named = dict(pairs)
    if len(named) < len(pairs):
        ((twin, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twin!r} stands there twice")
    return named


def checksum(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/cfg_jax, or ~/.cache/cfg_jax.

    A user without a home, as in a container, has it among the temporary files.
    """
    place = os.environ.get("XDG_CACHE_HOME")
    if place:
        return Path(place) / "cfg_jax"
    try:
        return Path.home() / ".cache" / "cfg_jax"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"cfg_jax-{os.getuid()}"
