"""Checkpoints of a run: WORKDIR/checkpoints/STEP, written in the background, never silently wrong.

A checkpoint holds the training state, the moving averages apart from it (so that sampling reads
those alone), and the position in the data, which is the step: batch k is a function of the seed and
k. Parameters that are not trained lie beside the checkpoints, once, in WORKDIR/checkpoints/frozen;
each checkpoint's manifest names their checksum, and none is read without the very ones it was
trained beside.

With several processes all call the same methods in the same order, on a file system they share.
"""

import itertools
import re
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from cfg_jax.runtime import manifest, processes, store
from cfg_jax.runtime.files import folder
from cfg_jax.runtime.frozen import Frozen, FrozenError
from cfg_jax.runtime.manifest import Manifest

Report = Callable[[str], object]
T = TypeVar("T")

STEP = "0|[1-9][0-9]*"
HALF = rf"({STEP})\.(saving|saving\.orbax-checkpoint-tmp|orbax-checkpoint-tmp)"
"""Names of complete checkpoints, and of what an interrupted run leaves of one."""


@runtime_checkable
class State(Protocol):
    """What a checkpoint holds: a named tuple, and a pytree of arrays, with these fields."""

    @property
    def step(self) -> Any:
        """The number of steps made, an integer array of shape ()."""

    @property
    def ema(self) -> Any:
        """The moving averages, or whatever else sampling reads."""

    @property
    def _replace(self) -> Callable[..., Any]:
        """Makes the same with other values of some fields, as named tuples have it."""


S = TypeVar("S", bound=State)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the message names the last good one."""


class Checkpoints:
    """The checkpoints below one work directory.

    Who trains calls `save_frozen` and `restore_newest` once, and then `save`. Who reads, maybe
    while another process trains, calls `restore_frozen`, `restore_ema` or `restore_newest_ema`,
    which change nothing on disk.

    Args:
      workdir: The run's directory.
      keep: How many of the newest stay.
      keep_every: Those of steps that it divides stay too; 0 for none.

    Raises:
      ValueError: keep < 1 or keep_every < 0, or WORKDIR/checkpoints is a file.
    """

    def __init__(self, workdir: Path, *, keep: int = 3, keep_every: int = 0):
        if keep < 1 or keep_every < 0:
            raise ValueError(
                f"keep must be at least 1 and keep_every at least 0; got {keep} and {keep_every}"
            )
        self._directory = folder(workdir.absolute() / "checkpoints")
        self._removed = self._directory / ".removed"
        self._keep, self._keep_every = keep, keep_every
        self._store = store.Store()
        self._frozen = Frozen(self._directory / "frozen", self._store)
        self._pending: tuple[int, Future[None]] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        try:
            self._await(lambda written: written.result())  # an error may be this process' alone
        finally:
            self._store.close()

    def steps(self) -> list[int]:
        """The complete checkpoints' steps, ascending; whether they are undamaged, reading tells."""
        names = (path.name for path in self._directory.glob("*"))
        return sorted(int(name) for name in names if re.fullmatch(STEP, name))

    def latest(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return max(self.steps(), default=None)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self._directory / str(step)

    def save(self, state: State, *, batch_size: int) -> None:
        """Starts writing the state, which may be changed or donated as soon as this returns.

        Raises:
          CheckpointError: This one, or the one before, could not be written.
          FrozenError: The frozen parameters beside it are damaged.
        """
        self.wait()
        step = int(state.step)
        if self.path(step).exists():
            return
        beside = self._frozen.checksum()

        def complete(place: Path, arrays: dict[str, manifest.Arrays]) -> None:
            manifest.write(place, step, arrays, frozen=beside)
            place.rename(self.path(step))
            self._remove_old()

        items = {"state": manifest.names(state._replace(ema=())), "ema": manifest.names(state.ema)}
        position = {"step": step, "examples": step * batch_size}
        try:
            self._pending = (
                step,
                self._store.write(
                    self.path(step), items, texts={"position": position}, complete=complete
                ),
            )
        except Exception as error:
            if store.is_elsewhere(error):
                raise
            raise self._failed(step, error) from error

    def save_frozen(self, tree: Any) -> None:
        """Writes what is not trained, once, before the first checkpoint; see `Frozen.save`."""
        self._frozen.save(tree, needed=[self._beside(step) for step in self.steps()])

    def restore_frozen(self, like: Any = None) -> Any:
        """What is not trained; None where nothing is, nor needed; see `Frozen.restore`."""
        found = self._frozen.restore(like)
        if found is None and (step := self.latest()) is not None:
            self._frozen.check(self.path(step), self._beside(step))
        return found

    def wait(self) -> None:
        """Returns when everything that was saved is on disk, its manifest too.

        Raises:
          CheckpointError: It could not be written.
        """
        self._await(lambda written: processes.in_all(written.result))

    def restore(self, step: int, like: S) -> S:
        """The state of a step.

        Args:
          step: The checkpoint's.
          like: Arrays, or their shapes with or without shardings: how they are to lie on the
            devices; without, each comes back on one.

        Raises:
          ValueError: The checkpoint is not there, is damaged, or holds other arrays than `like`.
          FrozenError: So are the frozen parameters beside it.
        """
        found = self._read(step, {"state": like._replace(ema=()), "ema": like.ema}, whole=True)
        return found["state"]._replace(ema=found["ema"])

    def restore_ema(self, step: int, like: Any, *, within: str = "") -> Any:
        """The moving averages of the parameters alone.

        Args:
          step: The checkpoint's.
          like: As in `restore`. It may leave out entries of its top level: of the averages (a, b),
            {"1": b} is the second alone.
          within: The path below which `like` has all arrays, where it leaves out others.

        Raises:
          ValueError: The checkpoint is not there, is damaged, or holds other arrays than `like`.
          FrozenError: So are the frozen parameters beside it.
        """
        return self._read(step, {"ema": like}, whole=False, within=within)["ema"]

    def restore_newest(self, like: S, *, report: Report) -> tuple[int, S] | None:
        """The newest good checkpoint, with nothing left that is newer.

        Newer ones that are damaged or hold other arrays, and what was half written when an earlier
        run ended, are moved to WORKDIR/checkpoints/quarantine.

        Args:
          like: See `restore`.
          report: Takes a line for each that is moved: which, why and where.

        Returns:
          The step and the state; None if no checkpoint was ever completed.

        Raises:
          ValueError: There are checkpoints and none is good; all are named, and stay in place.
          FrozenError: See `restore`; all stay in place.
        """
        reasons: dict[int, str] = {}
        found = self._first_good(lambda step: self.restore(step, like), reasons.__setitem__)
        aside = {self.path(step): reason for step, reason in reasons.items()}
        for path in sorted(self._directory.glob("*")):
            if re.fullmatch(HALF, path.name):
                aside[path] = f"{path} was half written when a run ended"
        for line in processes.in_all(lambda: self._set_aside(aside)):
            report(line)
        return found

    def restore_newest_ema(
        self, like: Any, *, report: Report, within: str = ""
    ) -> tuple[int, Any] | None:
        """The newest good moving averages; nothing changes on disk.

        Args:
          like: See `restore_ema`.
          within: See `restore_ema`.
          report: Takes a line for each newer checkpoint that is not good: which and why.

        Returns:
          The step and the averages; None if there is no checkpoint.

        Raises:
          ValueError: There are checkpoints and none is good; all are named.
          FrozenError: See `restore_ema`.
        """
        return self._first_good(
            lambda step: self.restore_ema(step, like, within=within),
            lambda _, reason: report(reason),
        )

    def _first_good(
        self, read: Callable[[int], T], refused: Callable[[int, str], object]
    ) -> tuple[int, T] | None:
        """Reads from the newest step down until it succeeds."""
        tried: set[int] = set()
        reasons: list[str] = []
        while left := set(self.steps()) - tried:
            step = max(left)
            tried.add(step)
            try:
                return step, read(step)
            except FrozenError:
                raise  # what lies beside all of them
            except ValueError as error:
                if self.path(step).exists():  # else the run that trains has removed it meanwhile
                    reasons.append(str(error))
                    refused(step, reasons[-1])
        if reasons:
            raise ValueError(f"no checkpoint is good: {'; '.join(reasons)}")
        return None

    def _remove_old(self) -> None:
        """Removes what is not kept, moved first: a reader meets all of a checkpoint or none."""
        for step in self.steps()[: -self._keep]:
            if not self._keep_every or step % self._keep_every:
                self._removed.mkdir(exist_ok=True)
                self.path(step).rename(self._removed / str(step))
        store.remove(self._removed)

    def _await(self, end: Callable[[Future[None]], None]) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        step, written = pending
        try:
            end(written)
        except Exception as error:
            if store.is_elsewhere(error):
                raise
            raise self._failed(step, error) from error

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        """The error of a step that was not saved; what there is of it only fills the disk."""
        if processes.is_first():
            store.remove(*store.unfinished(self.path(step)))
        good = self.latest()
        kept = "none is saved yet" if good is None else f"the last good one is {self.path(good)}"
        return CheckpointError(
            f"the checkpoint {self.path(step)} could not be written: {store.reason(error)}; {kept}"
        )

    def _read(
        self, step: int, trees: dict[str, Any], *, whole: bool, within: str = ""
    ) -> dict[str, Any]:
        """Items of a checkpoint; `whole` if they are to be all that it holds, or all `within`."""
        self.wait()
        like = {item: manifest.names(tree) for item, tree in trees.items()}
        path = self.path(step)
        try:
            held = processes.in_all(lambda: _manifest(path, step))
            found = self._store.read(path, held, like, whole=whole, within=within)
        except ValueError as error:
            raise ValueError(f"the checkpoint {path} cannot be used: {error}") from error
        self._frozen.check(path, held.frozen)
        return {item: store.rebuilt(tree, found[item]) for item, tree in trees.items()}

    def _beside(self, step: int) -> str | None:
        """The checksum of the frozen parameters that a checkpoint needs, if it can be read."""
        try:
            return _manifest(self.path(step), step).frozen
        except ValueError:
            return None

    def _set_aside(self, reasons: dict[Path, str]) -> list[str]:
        """Moves paths into quarantine; a line for each."""
        if not processes.is_first():
            return []
        place = self._directory / "quarantine"
        lines = []
        for path, reason in reasons.items():
            place.mkdir(exist_ok=True)
            others = (place / f"{path.name}-{i}" for i in itertools.count(2))
            names = itertools.chain([place / path.name], others)
            target = path.rename(next(name for name in names if not name.exists()))
            lines.append(f"{reason}; moved to {target}")
        return lines


def _manifest(path: Path, step: int) -> Manifest:
    if not path.is_dir():
        raise ValueError("it is not there")
    return manifest.read(path, step)
