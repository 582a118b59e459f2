"""The files of a folder or zip of class folders, however they are nested."""

import dataclasses
import functools
import hashlib
import os
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from absl import logging

_STANDING = {
    "train": ("train", "training"),
    "test": ("test", "testing", "validation", "valid", "val"),
}
"""Names of the folders that hold a split, in lower case."""


@dataclasses.dataclass(frozen=True)
class What:
    """What is looked for.

    Attributes:
      one: a file of it, in messages: "image".
      suffixes: how its files' names end.
      example: such a file's name.
      named: the files in messages: "JPEG or PNG image".
      beside: how names of files end that may lie beside those, and are no surprise.
    """

    one: str
    suffixes: tuple[str, ...]
    example: str
    named: str
    beside: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Tree:
    """Some files of a folder or zip of class folders.

    Attributes:
      path: the folder or zip.
      prefix: the folders around the class folders, ending in "/", or "".
      files: the sorted names, CLASS/FILE, CLASS/…/FILE or, without classes, FILE, below `prefix`.
      what: the kind of file.
      others: the names of those that may lie beside them.
    """

    path: Path
    prefix: str
    files: tuple[str, ...]
    what: What
    others: frozenset[str] = frozenset()

    @property
    def folders(self) -> tuple[str, ...]:
        """The class folders in the order of their labels: by number if all are, else by name."""
        names = {class_of(file) for file in self.files if "/" in file}
        numeric = all(name.isascii() and name.isdigit() for name in names)
        return tuple(sorted(names, key=lambda name: (int(name) if numeric else 0, name)))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class folders' names as text.

        Raises:
          ValueError: two folders' names are the same text.
        """
        names = tuple(map(readable, self.folders))
        if found := twin(names):
            raise ValueError(f"{shown(self.path)}: two class folders have the name {found!r}")
        return names

    def read(self, file: str) -> bytes:
        """A file's bytes; any thread may ask.

        Raises:
          OSError: it cannot be read, such as a link to nowhere, or is no regular file.
        """
        with self.open(file) as opened:
            return opened.read()

    def open(self, file: str) -> Any:
        """A file, opened to be read in part; else as `read`."""
        if self.path.is_dir():
            path = self.path / self.prefix / file
            if not stat.S_ISREG(path.stat().st_mode):
                raise OSError("it is not a regular file")
            return path.open("rb")
        archive, members = self._opened()
        return archive.open(members[self.prefix + file])

    def _opened(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        """The zip and its members."""
        status = self.path.stat()
        return _archive(self.path, status.st_size, status.st_mtime_ns)

    def stamp(self, files: Sequence[str]) -> tuple:
        """Returns what differs once one of these files was renamed or written to."""
        on_disk = [self.path]
        if self.path.is_dir():
            on_disk = [self.path / self.prefix / file for file in files]
        return self.path, self.prefix, tuple(files), [_status(path) for path in on_disk]

    def fingerprint(self, files: Sequence[str]) -> str:
        """A digest of these files' names and sizes: the same wherever they lie, and when."""
        if self.path.is_dir():
            status = [_status(self.path / self.prefix / file) for file in files]
            sizes = [found and found[0] for found in status]
        else:
            _, members = self._opened()
            sizes = [members[self.prefix + file].file_size for file in files]
        return digest(list(zip(files, sizes, strict=True)))


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that tell such values apart by their `repr`."""
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@functools.lru_cache(maxsize=4)
def _archive(
    path: Path, size: int, changed: int
) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """An open zip and its members; another one once the file was written to."""
    archive = zipfile.ZipFile(path)
    return archive, _members(archive)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """A zip's members by their names below it, with "/" between folders whoever packed it.

    Raises:
      ValueError: One is named as if it lay outside.
    """
    found = {}
    for member in archive.infolist():
        name = member.filename.replace("\\", "/")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            zipped = shown(archive.filename or "the zip")
            raise ValueError(f"{zipped}: {shown(name)} would lie outside it")
        if parts:
            found["/".join(parts) + "/" * name.endswith("/")] = member
    return found


def _status(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def class_of(file: str) -> str:
    """The folder that a file's class has; of a file in none, its own name."""
    return file.partition("/")[0]


def readable(name: str) -> str:
    r"""A file's name as text: UTF-8 or, where it is not, Latin-1.

    >>> import os
    >>> readable(os.fsdecode(b"caf\xe9"))
    'café'
    """
    raw = os.fsencode(name)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def twin(names: Sequence[str]) -> str | None:
    """The first name that stands twice, composed or decomposed (Unicode); None if all differ."""
    counts = Counter(unicodedata.normalize("NFC", name) for name in names)
    return next((name for name, count in counts.items() if count > 1), None)


def shown(path: str | os.PathLike) -> str:
    """A path as one line of printable text."""
    text = readable(os.fspath(path))
    return text if text.isprintable() else repr(text)[1:-1]


def find(path: str | os.PathLike, what: What) -> dict[str, Tree]:
    """Finds the files of a folder or zip of class folders.

    Folders around the class folders are looked through. A class folder may hold folders. Files that
    lie in no folder at all have no class. Hidden files are left out, and so, with a warning, are
    files that are not `what`.

    Args:
      path: the folder or zip.
      what: the kind of file.

    Returns:
      The trees by split: {"train": …, "test": …} if it holds folders of such names, else {"": …}.

    Raises:
      ValueError: if the path does not exist, is neither folder nor zip, or is laid out otherwise.
    """
    root, names = _names(path, what)
    names = [name for name in names if not _is_hidden(name)]
    prefix = _wrapper(names, what)
    names = [name.removeprefix(prefix) for name in names if not prefix.startswith(name)]
    known = (*what.suffixes, *what.beside)
    others = [n for n in names if not n.endswith("/") and not n.lower().endswith(known)]
    if others:
        logging.warning(
            "%s: left out %d files that are no %s, such as %s",
            shown(root),
            len(others),
            what.named,
            shown(others[0]),
        )
    splits = _splits(root, names, what)
    if not splits:
        return {"": _tree(root, prefix, names, what)}
    logging.info("%s: %s are taken as splits", shown(root), " and ".join(splits.values()))
    return {
        split: _tree(root, f"{prefix}{folder}/", _below(names, f"{folder}/"), what)
        for split, folder in splits.items()
    }


def _below(names: Sequence[str], folder: str) -> list[str]:
    return [n.removeprefix(folder) for n in names if n.startswith(folder) and n != folder]


def _tree(root: Path, prefix: str, names: Sequence[str], what: What) -> Tree:
    files = tuple(sorted({name for name in names if _is(name, what)}))
    below = f"{shown(root.name)}/{shown(prefix)}" if prefix else f"{shown(root.name)}/"
    layout = f"lay {what.one}s out as {below}CLASS/{what.example}"
    if not files:
        raise ValueError(f"{shown(root / prefix)} holds no {what.named}; {layout}")
    classes = {class_of(name) for name in names if "/" in name}
    loose = [file for file in files if "/" not in file]
    if loose and len(loose) < len(files):
        raise ValueError(
            f"{shown(root)}: the {what.one} {shown(loose[0])} lies in no class folder; {layout}"
        )
    empty = sorted(classes - {class_of(file) for file in files})
    if empty and not loose:
        raise ValueError(
            f"{shown(root)}: the folder {shown(empty[0])} holds no {what.named}; {layout}"
        )
    others = frozenset(name for name in names if what.beside and name.endswith(what.beside))
    return Tree(root, prefix, files, what, others)


def _names(path: str | os.PathLike, what: What) -> tuple[Path, list[str]]:
    """The names of all that lies in a folder or zip, folders ending in "/"."""
    kinds = f"path should be a folder or zip of class folders of {what.one}s"
    try:
        root = Path(path).expanduser().resolve()
        mode = root.stat().st_mode
    except FileNotFoundError:
        raise ValueError(f"{shown(path)} does not exist: {kinds}") from None
    except (OSError, RuntimeError) as error:  # Loops of links, names too long, no such user.
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{shown(path)} cannot be opened ({why}): {kinds}") from None
    if stat.S_ISDIR(mode):
        return root, list(_walk(root, "", ()))
    try:
        if stat.S_ISREG(mode) and zipfile.is_zipfile(root):
            with zipfile.ZipFile(root) as archive:
                return root, list(_members(archive))
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{shown(root)} cannot be read as a zip ({error})") from None
    raise ValueError(f"{shown(root)} is neither a folder nor a zip: path should be one of them")


def _walk(folder: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Names all that is below a folder as a zip would: relative, folders ending in "/".

    Links are followed, but not into a folder that the link lies in, which would never end.
    """
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{shown(folder)} cannot be listed ({error.strerror})") from None
    if here in above:
        raise ValueError(f"{shown(folder)} is a link to a folder that it lies in")
    for entry in entries:
        if os.path.isdir(entry.path):
            yield f"{below}{entry.name}/"
            yield from _walk(Path(entry.path), f"{below}{entry.name}/", (*above, here))
        else:
            yield below + entry.name


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _is(name: str, what: What) -> bool:
    return name.lower().endswith(what.suffixes)


def _wrapper(names: Sequence[str], what: What) -> str:
    """Returns the folders around the class folders, as long as each holds one folder alone."""
    prefix = ""
    while True:
        files = [name for name in names if _is(name, what)]
        tops = {class_of(name) for name in names if "/" in name}
        if len(tops) != 1 or min((file.count("/") for file in files), default=0) < 2:
            return prefix
        (top,) = tops
        prefix, names = f"{prefix}{top}/", _below(names, f"{top}/")


def _splits(root: Path, names: Sequence[str], what: What) -> Mapping[str, str]:
    """The folders train and test, or names that stand for them; {} where there are none.

    Raises:
      ValueError: There are more of such names, or others beside the two.
    """
    if any("/" not in name and _is(name, what) for name in names):
        return {}
    tops = sorted({class_of(name) for name in names if "/" in name})
    standing = {word: split for split, words in _STANDING.items() for word in words}
    found = {top: standing[top.lower()] for top in tops if top.lower() in standing}
    splits = {split: top for top, split in found.items()}
    if len(found) == len(splits) == len(tops) == 2:
        return splits
    if len(found) > 1 and ("train" in splits or len(found) == len(tops)):
        raise ValueError(
            f"{shown(root)}: the folders {', '.join(map(shown, found))} look like splits, and a "
            "train and a test alone are taken for such: give path and test_path one each"
        )
    return {}
