"""Frozen parameters: what lies beside a run's checkpoints once, since no step changes it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cfg_jax.runtime import manifest, processes, store
from cfg_jax.runtime.manifest import Manifest

ITEM = "frozen"


class FrozenError(ValueError):
    """Frozen parameters are missing, damaged, not those given, or could not be written."""


class Frozen:
    """A folder of frozen parameters.

    Args:
      path: The folder, WORKDIR/checkpoints/frozen.
      files: What writes and reads it.
    """

    def __init__(self, path: Path, files: store.Store):
        self._path, self._store = path, files
        self._known: tuple[Any] | None = None

    def checksum(self) -> str | None:
        """The checksum of the parameters that lie there, undamaged; None if there are none.

        The files are compared with the manifest once.

        Raises:
          FrozenError: They are damaged.
        """
        if self._known is None:
            held = self._manifest()
            if held is not None:
                self._verified(lambda: store.check_files(self._path, held.files))
            self._known = (None if held is None else manifest.total(held.arrays[ITEM]),)
        return self._known[0]

    def check(self, checkpoint: Path, needed: str | None) -> None:
        """Raises FrozenError unless the parameters are those that a checkpoint names."""
        if needed is None:
            return
        if (found := self.checksum()) is None:
            raise FrozenError(
                f"the frozen parameters {self._path} are missing; the checkpoint {checkpoint} "
                "cannot be used without them"
            )
        if found != needed:
            raise FrozenError(
                f"the frozen parameters {self._path} are not those that the checkpoint "
                f"{checkpoint} was made with"
            )

    def save(self, tree: Any, *, needed: Iterable[str | None]) -> None:
        """Writes parameters; compares them with those that checkpoints there need.

        Args:
          tree: A pytree of arrays; one without leaves is not written.
          needed: The checksums that the checkpoints there name.

        Raises:
          FrozenError: Others lie there or are needed, those there are damaged, or these cannot be
            written.
        """
        named = manifest.names(jax.tree.map(jnp.asarray, tree))
        sums = manifest.take(named)
        needed = list(needed)
        if not needed:
            processes.by_first(self._forget)
            self._known = None
        held = self._manifest()
        if held is not None:
            self._compare(sums, held.arrays[ITEM])
            self.checksum()
        elif named:
            if any(checksum not in (None, manifest.total(sums)) for checksum in needed):
                raise FrozenError(
                    f"the frozen parameters {self._path} are missing, and those given are not "
                    "those that the checkpoints beside it were made with"
                )
            self._write(named)
            self._known = None

    def restore(self, like: Any = None) -> Any:
        """Reads the parameters.

        Args:
          like: Arrays, or their shapes with or without shardings, as in `Checkpoints.restore`; None
            for all that lies there, on one device, as dictionaries.

        Returns:
          A pytree like `like`; None if nothing lies there and no `like` was given.

        Raises:
          FrozenError: They are missing or damaged, or other arrays than `like`.
        """
        held = self._manifest()
        if like is not None and not jax.tree.leaves(like) and held is None:
            return like
        if held is None:
            if like is None:
                return None
            raise FrozenError(f"the frozen parameters {self._path} are missing")
        wanted = manifest.shapes(held.arrays[ITEM]) if like is None else manifest.names(like)
        found = self._verified(
            lambda: self._store.read(self._path, held, {ITEM: wanted}, whole=True)
        )[ITEM]
        return _nested(found) if like is None else store.rebuilt(like, found)

    def _manifest(self) -> Manifest | None:
        if not self._path.exists():
            return None
        return self._verified(lambda: manifest.read(self._path, 0))

    def _verified(self, action: Any) -> Any:
        try:
            return processes.in_all(action)
        except ValueError as error:
            raise FrozenError(
                f"the frozen parameters {self._path} cannot be used: {error}"
            ) from error

    def _compare(self, given: manifest.Arrays, held: manifest.Arrays) -> None:
        different = manifest.different(given, held)
        if different:
            raise FrozenError(
                f"the frozen parameters given are not those in {self._path}: {different}"
            )

    def _write(self, named: store.Named) -> None:
        def complete(place: Path, arrays: dict[str, manifest.Arrays]) -> None:
            manifest.write(place, 0, arrays)
            place.rename(self._path)

        self._clear()
        try:
            written = self._store.write(self._path, {ITEM: named}, texts={}, complete=complete)
            processes.in_all(written.result)
        except Exception as error:
            if store.is_elsewhere(error):
                raise
            self._clear()
            raise FrozenError(
                f"the frozen parameters {self._path} could not be written: {store.reason(error)}"
            ) from error

    def _forget(self) -> None:
        """Removes what no checkpoint needs, whatever it is."""
        if self._path.is_dir() and not self._path.is_symlink():
            store.remove(self._path)
        else:
            self._path.unlink(missing_ok=True)

    def _clear(self) -> None:
        """Removes what is not complete."""
        if processes.is_first():
            store.remove(*store.unfinished(self._path))


def _nested(named: dict[str, Any]) -> dict[str, Any]:
    """Arrays by path as dictionaries within dictionaries."""
    tree: dict[str, Any] = {}
    for name, array in named.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = array
    return tree
