"""Tar files as they lie: which members they hold and where, read at their places, never unpacked.

The members of one name up to its first dot belong together, as in webdataset: a/01.jpg and a/01.txt
are the "jpg" and the "txt" of a/01.
"""

import itertools
import os
import re
import tarfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cfg_jax.data.dataset import reason
from cfg_jax.data.tree import shown

MOST = 1_000_000
"""So many tar files may a path name."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class Place(NamedTuple):
    """Where a member's bytes lie in its tar file."""

    offset: int
    size: int


Members = dict[str, Place]
"""The members of an example by what follows the first dot of their names, in lower case."""


def named(path: str | os.PathLike) -> tuple[Path, ...]:
    """The tar files that a path names: a folder's, or those that its braces stand for.

    Braces hold a range, whose numbers are as wide as the first, or words between commas.

    Raises:
      ValueError: One of them is not there, or they are none or too many.
    """
    whole = os.path.expanduser(os.fspath(path))
    if os.path.isdir(whole):
        found = sorted(Path(whole).glob("*.tar"))
        if not found:
            raise ValueError(f"{shown(whole)} holds no tar files")
        return tuple(found)
    found = [Path(whole)] if os.path.exists(whole) else _expanded(whole)
    for file in found:
        if not file.is_file():
            raise ValueError(
                f"{shown(file)} does not exist, or is no file: path should be a tar file, a folder "
                "of them, or several by braces, as in train-{000..009}.tar"
            )
    return tuple(found)


def _expanded(path: str) -> list[Path]:
    """All paths that braces stand for.

    >>> [str(path) for path in _expanded("{a,b}-{08..10}.tar")][1:4]
    ['a-09.tar', 'a-10.tar', 'b-08.tar']
    """
    pieces: list[list[str]] = []
    count = 1
    for number, piece in enumerate(_BRACES.split(path)):
        options = _options(piece) if number % 2 else [piece]
        count *= len(options)
        if count > MOST:
            raise ValueError(f"{shown(path)} names more than {MOST:,} tar files")
        pieces.append(options)
    return [Path("".join(chosen)) for chosen in itertools.product(*pieces)]


def _options(inside: str) -> list[str]:
    """What braces stand for, one by one."""
    ends = _RANGE.fullmatch(inside)
    if not ends:
        return inside.split(",")
    first, last = int(ends[1]), int(ends[2])
    if abs(last - first) >= MOST:
        raise ValueError(f"{{{inside}}} names more than {MOST:,} tar files")
    step = 1 if last >= first else -1
    return [f"{n:0{len(ends[1])}d}" for n in range(first, last + step, step)]


def index(path: Path) -> dict[str, Members]:
    """Every example of a tar file by its name, in order.

    Hidden files and folders are passed over.

    Raises:
      ValueError: The file is damaged or compressed, holds a member that is no regular file, or two
        of one name.
    """
    found: dict[str, Members] = {}
    last = "its beginning"
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                last = f"the member {shown(member.name)}"
                key, dot, ending = _parts(member.name)
                if member.isdir() or not dot or key.rpartition("/")[2] == "":
                    continue
                if not member.isreg() or member.issparse():
                    raise ValueError(f"{shown(path)}: {last} is no regular file")
                members = found.setdefault(key, {})
                if ending in members:
                    raise ValueError(f"{shown(path)}: {last} is there twice")
                members[ending] = Place(member.offset_data, member.size)
            end = tar.offset
    except (tarfile.TarError, OSError, EOFError, OverflowError) as error:
        raise ValueError(
            f"{shown(path)} is damaged, compressed or no tar file, after {last} ({reason(error)})"
        ) from None
    # tarfile takes a damaged header behind the first for the end.
    if any(read(path, Place(end, min(512, path.stat().st_size - end)))):
        raise ValueError(f"{shown(path)} is damaged after {last}, at byte {end}")
    return found


def _parts(name: str) -> tuple[str, str, str]:
    """A member's name up to its first dot, the dot, and what follows it."""
    folder, slash, file = str(PurePosixPath(name)).rpartition("/")
    stem, dot, ending = file.partition(".")
    return f"{folder}{slash}{stem}", dot, ending.lower()


def read(path: Path, place: Place) -> bytes:
    """The bytes at a place.

    Raises:
      OSError: The file cannot be read, or is shorter.
    """
    with path.open("rb") as file:
        file.seek(place.offset)
        content = file.read(place.size)
    if len(content) != place.size:
        raise OSError("the tar file is shorter than it was")
    return content
