"""Checkpoints of a run: WORKDIR/checkpoints/STEP, written in the background, never silently wrong.

Orbax writes the training state, the moving averages apart from it (so that sampling reads those
alone), and the position in the data, which is the step: batch k is a function of the seed and k.
All of it goes to `STEP.saving`; the manifest is written last, and then the directory takes its
name. So STEP is complete, and what was cut off on the way is not called so. Of what is read, every
file and every array is compared with the manifest.

With several processes all call the same methods in the same order, on a file system they share.
"""

import itertools
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import SingleDeviceSharding

from cfg_jax.runtime import manifest, processes
from cfg_jax.runtime.manifest import Manifest
from cfg_jax.training.state import State

Report = Callable[[str], object]
T = TypeVar("T")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the message names the last good one."""


class Checkpoints:
    """The checkpoints below one work directory.

    Who trains calls `restore_newest` once, and then `save`. Who reads, maybe while another process
    trains, calls `restore_ema` or `restore_newest_ema`, which change nothing on disk.

    Args:
      workdir: The run's directory.
      keep: How many of the newest stay.
      keep_every: Those of steps that it divides stay too; 0 for none.

    Raises:
      ValueError: keep < 1 or keep_every < 0.
    """

    def __init__(self, workdir: Path, *, keep: int = 3, keep_every: int = 0):
        if keep < 1 or keep_every < 0:
            raise ValueError(
                f"keep must be at least 1 and keep_every at least 0; got {keep} and {keep_every}"
            )
        logging.set_verbosity(logging.FATAL)  # Orbax logs every file, and whatever it raises
        self._directory = workdir.absolute() / "checkpoints"
        self._keep, self._keep_every = keep, keep_every
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[int, Future[None]] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        try:
            self._await(lambda written: written.result())  # an error may be this process' alone
        finally:
            self._thread.shutdown()
            self._orbax.close()

    def steps(self) -> list[int]:
        """The complete checkpoints' steps, ascending; whether they are undamaged, reading tells."""
        names = (path.name for path in self._directory.glob("*"))
        return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))

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
        """
        self.wait()
        step = int(state.step)
        if self.path(step).exists():
            return
        items = {"state": manifest.names(state._replace(ema=())), "ema": manifest.names(state.ema)}
        arrays = {item: manifest.take(named) for item, named in items.items()}
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._orbax.save(
                self._saving(step),
                args=ocp.args.Composite(
                    position=ocp.args.JsonSave({"step": step, "examples": step * batch_size}),
                    **{item: ocp.args.PyTreeSave(named) for item, named in items.items()},
                ),
            )
        except jax.errors.JaxRuntimeError:
            raise  # not the disk: a device or another process is gone
        except Exception as error:
            raise self._failed(step, error) from error
        self._pending = step, self._thread.submit(self._complete, step, arrays)

    def wait(self) -> None:
        """Returns when everything that was saved is on disk, its manifest too.

        Raises:
          CheckpointError: It could not be written.
        """
        self._await(lambda written: processes.in_all(written.result))

    def restore(self, step: int, like: State) -> State:
        """The state of a step.

        Args:
          step: The checkpoint's.
          like: Arrays, or their shapes with or without shardings: how they are to lie on the
            devices; without, each comes back on one.

        Raises:
          ValueError: The checkpoint is not there, is damaged, or holds other arrays than `like`.
        """
        found = self._read(step, {"state": like._replace(ema=()), "ema": like.ema}, whole=True)
        return found["state"]._replace(ema=found["ema"])

    def restore_ema(self, step: int, like: Any) -> Any:
        """The moving averages of the parameters alone.

        Args:
          step: The checkpoint's.
          like: As in `restore`. It may leave out entries of its top level: of the averages (a, b),
            {"1": b} is the second alone.

        Raises:
          ValueError: The checkpoint is not there, is damaged, or holds other arrays than `like`.
        """
        return self._read(step, {"ema": like}, whole=False)["ema"]

    def restore_newest(self, like: State, *, report: Report) -> tuple[int, State] | None:
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
        """
        reasons: dict[int, str] = {}
        found = self._first_good(lambda step: self.restore(step, like), reasons.__setitem__)
        aside = {self.path(step): reason for step, reason in reasons.items()}
        for path in sorted(self._directory.glob("[0-9]*.*")):
            if path.suffix != ".old":
                aside[path] = f"{path} was half written when a run ended"
        for line in processes.in_all(lambda: self._set_aside(aside)):
            report(line)
        return found

    def restore_newest_ema(self, like: Any, *, report: Report) -> tuple[int, Any] | None:
        """The newest good moving averages; nothing changes on disk.

        Args:
          like: See `restore_ema`.
          report: Takes a line for each newer checkpoint that is not good: which and why.

        Returns:
          The step and the averages; None if there is no checkpoint.

        Raises:
          ValueError: There are checkpoints and none is good; all are named.
        """
        return self._first_good(
            lambda step: self.restore_ema(step, like), lambda _, reason: report(reason)
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
            except ValueError as error:
                if self.path(step).exists():  # else the run that trains has removed it meanwhile
                    reasons.append(str(error))
                    refused(step, reasons[-1])
        if reasons:
            raise ValueError(f"no checkpoint is good: {'; '.join(reasons)}")
        return None

    def _saving(self, step: int) -> Path:
        return self._directory / f"{step}.saving"

    def _complete(self, step: int, arrays: dict[str, manifest.Arrays]) -> None:
        """In the background: awaits Orbax, writes the manifest, gives the checkpoint its name."""
        self._orbax.wait_until_finished()
        if jax.process_index() == 0:
            manifest.write(self._saving(step), step, arrays)
            self._saving(step).rename(self.path(step))
            self._remove_old()

    def _remove_old(self) -> None:
        """Removes what is not kept, renamed first: a reader meets all of a checkpoint or none."""
        for step in self.steps()[: -self._keep]:
            if not self._keep_every or step % self._keep_every:
                self.path(step).rename(self._directory / f"{step}.old")
        for path in self._directory.glob("[0-9]*.old"):
            shutil.rmtree(path, ignore_errors=True)

    def _await(self, end: Callable[[Future[None]], None]) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        step, written = pending
        try:
            end(written)
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:
            raise self._failed(step, error) from error

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        """The error of a step that was not saved; what there is of it only fills the disk."""
        if jax.process_index() == 0:
            for path in self._directory.glob(f"{step}.saving*"):
                shutil.rmtree(path, ignore_errors=True)
        good = self.latest()
        kept = "none is saved yet" if good is None else f"the last good one is {self.path(good)}"
        return CheckpointError(
            f"the checkpoint {self.path(step)} could not be written: {_reason(error)}; {kept}"
        )

    def _read(self, step: int, trees: dict[str, Any], *, whole: bool) -> dict[str, Any]:
        """Items of a checkpoint; `whole` if they are to be all that it holds."""
        self.wait()
        like = {item: manifest.names(tree) for item, tree in trees.items()}
        try:
            held = processes.in_all(lambda: self._check(step, like, whole))
            found = processes.in_all(lambda: self._restored(step, like))
            sums = {item: manifest.take(arrays) for item, arrays in found.items()}
            processes.in_all(lambda: manifest.check_sums(sums, held.arrays))
        except ValueError as error:
            raise ValueError(f"the checkpoint {self.path(step)} cannot be used: {error}") from error
        return {
            item: jax.tree.unflatten(jax.tree.structure(tree), [found[item][n] for n in like[item]])
            for item, tree in trees.items()
        }

    def _check(self, step: int, like: dict[str, dict[str, Any]], whole: bool) -> Manifest:
        """The manifest, if arrays are those wanted and files those written: read nothing before."""
        if not self.path(step).is_dir():
            raise ValueError("it is not there")
        held = manifest.read(self.path(step), step)
        for item, wanted in like.items():
            manifest.check_types(wanted, held.arrays[item], whole=whole)
        files = {
            name: written
            for name, written in held.files.items()
            if whole or "/" not in name or name.split("/")[0] in like
        }
        mine = itertools.islice(files.items(), jax.process_index(), None, jax.process_count())
        manifest.check_files(self.path(step), dict(mine))
        return held

    def _restored(self, step: int, like: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        arguments = {}
        for item, wanted in like.items():
            shapes = {name: _placed(leaf) for name, leaf in wanted.items()}
            arguments[item] = ocp.args.PyTreeRestore(
                shapes,
                restore_args=ocp.checkpoint_utils.construct_restore_args(shapes),
                partial_restore=True,
            )
        try:
            restored = self._orbax.restore(self.path(step), args=ocp.args.Composite(**arguments))
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # says nothing of the checkpoint
        except Exception as error:  # Orbax raises a bare one for missing data
            raise ValueError(_reason(error)) from error
        return {item: restored[item] for item in like}

    def _set_aside(self, reasons: dict[Path, str]) -> list[str]:
        """Moves paths into quarantine; a line for each."""
        if jax.process_index() > 0:
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


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    """An array's shape and where it is to lie: on this process' first device if nothing says."""
    place = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _reason(error: Exception) -> str:
    """An error in one line; the operating system's in its own words, wherever they are quoted."""
    quoted = re.search(r"os_error_code='(\d+)'", str(error))
    code = quoted[1] if quoted else getattr(error, "errno", None)
    if code is not None:
        return os.strerror(int(code))
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
