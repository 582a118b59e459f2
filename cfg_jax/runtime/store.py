"""Folders of arrays: written in the background, and read back bit for bit or not at all.

Orbax writes the arrays into `NAME.saving`, one subfolder an item; the manifest is written last, and
then the folder takes its name. So a folder called NAME is complete. Of what is read, every file and
every array is compared with the manifest.

With several processes all call the same methods in the same order, on a file system they share.
"""

import contextlib
import functools
import itertools
import os
import re
import shutil
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from logging import LogRecord, getLogger
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import SingleDeviceSharding

from cfg_jax.diffusion.precision import enable_x64
from cfg_jax.runtime import manifest, processes
from cfg_jax.runtime.manifest import Manifest

T = TypeVar("T")

SLICED = 2**20
"""Devices that hold the same array write a slice of it each from so many bytes a slice on: to cut
smaller ones apart, a program for each shape and device is compiled."""

Named = dict[str, Any]
"""Arrays by their paths in a tree."""


def saving(path: Path) -> Path:
    """What a folder is called until it is complete."""
    return path.with_name(f"{path.name}.saving")


def unfinished(path: Path) -> list[Path]:
    """What an interrupted `write` of this folder leaves; it need not exist."""
    return [
        saving(path),
        path.with_name(f"{path.name}.saving.orbax-checkpoint-tmp"),
        path.with_name(f"{path.name}.orbax-checkpoint-tmp"),
    ]


def is_elsewhere(error: Exception) -> bool:
    """Whether an error says nothing of a folder: a device fails, or another process is gone."""
    return isinstance(error, MemoryError | jax.errors.JaxRuntimeError) or processes.is_lost(error)


def _handlers() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
    """What writes and reads items of arrays and of JSON values."""
    of_array = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SLICED)
    kinds = ocp.type_handlers.create_type_handler_registry((jax.Array, of_array))
    arrays = ocp.PyTreeCheckpointHandler(type_handler_registry=kinds)
    texts = ocp.JsonCheckpointHandler()
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add(None, ocp.args.PyTreeSave, arrays)
    registry.add(None, ocp.args.PyTreeRestore, arrays)
    registry.add(None, ocp.args.JsonSave, texts)
    registry.add(None, ocp.args.JsonRestore, texts)
    return registry


class Store:
    """Writes and reads folders of arrays."""

    def __init__(self) -> None:
        logging.set_verbosity(logging.FATAL)  # Orbax logs every file, and whatever it raises
        _hush()
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(handler_registry=_handlers())
        )

    def close(self) -> None:
        """Ends the background work; what went wrong in it, `write` has said."""
        with contextlib.suppress(Exception):
            self._orbax.close()

    def write(
        self,
        path: Path,
        items: dict[str, Named],
        *,
        texts: dict[str, Any],
        complete: Callable[[Path, dict[str, manifest.Arrays]], object],
    ) -> Future[None]:
        """Starts writing a folder; its arrays may be changed or donated once this returns.

        Args:
          path: The folder.
          items: Arrays by item.
          texts: JSON values by item.
          complete: In the first process, takes the folder as it is called meanwhile and the sums of
            its arrays, writes its manifest, and gives it its name.

        Returns:
          What is done when all is on disk, or holds the error that prevented it.
        """
        arrays = {item: manifest.take(named) for item, named in items.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        arguments = ocp.args.Composite(
            **{item: ocp.args.JsonSave(text) for item, text in texts.items()},
            **{item: ocp.args.PyTreeSave(named) for item, named in items.items()},
        )

        def finish() -> None:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                complete(saving(path), arrays)

        _apart(lambda: self._orbax.save(saving(path), args=arguments)).result()
        return _apart(finish)

    def read(
        self,
        path: Path,
        held: Manifest,
        like: dict[str, Named],
        *,
        whole: bool,
        within: str = "",
    ) -> dict[str, Named]:
        """Arrays of a folder, by item.

        Args:
          path: The folder.
          held: Its manifest.
          like: Arrays, or their shapes with or without shardings: how they are to lie on the
            devices; without, each comes back on one.
          whole: Whether these are all that it holds.
          within: The path below which they are all.

        Raises:
          ValueError: It is damaged, or holds other arrays.
        """
        processes.in_all(lambda: _check(path, held, like, whole, within))
        found = processes.in_all(lambda: self._restored(path, like))
        sums = {item: manifest.take(arrays) for item, arrays in found.items()}
        processes.in_all(lambda: manifest.check_sums(sums, held.arrays))
        return found

    def _restored(self, path: Path, like: dict[str, Named]) -> dict[str, Named]:
        arguments = {}
        for item, wanted in like.items():
            shapes = {name: _placed(leaf) for name, leaf in wanted.items()}
            arguments[item] = ocp.args.PyTreeRestore(
                shapes,
                restore_args=ocp.checkpoint_utils.construct_restore_args(shapes),
                partial_restore=True,
            )
        composite = ocp.args.Composite(**arguments)
        wide = jax.dtypes.canonicalize_dtype("float64") == "float64"  # a thread has its own setting

        def restore() -> Any:
            with enable_x64(wide):
                return self._orbax.restore(path, args=composite)

        try:
            restored = _apart(restore).result()
        except Exception as error:  # Orbax raises a bare one for missing data
            if is_elsewhere(error):
                raise
            raise ValueError(reason(error)) from error
        return {item: restored[item] for item in like}


def rebuilt(tree: Any, named: Named) -> Any:
    """A tree of the structure of another one, with the arrays that have its leaves' paths."""
    return jax.tree.unflatten(jax.tree.structure(tree), [named[n] for n in manifest.names(tree)])


def remove(*paths: Path) -> None:
    """Removes folders; what cannot be removed stays."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def reason(error: BaseException) -> str:
    """An error in one line; the operating system's in its own words, wherever they are quoted."""
    quoted = re.search(r"os_error_code='(\d+)'", str(error))
    code = quoted[1] if quoted else getattr(error, "errno", None)
    if code is not None:
        return os.strerror(int(code))
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_files(path: Path, files: dict[str, dict[str, Any]]) -> None:
    """Raises ValueError unless files are those written; several processes share them out."""
    mine = itertools.islice(files.items(), jax.process_index(), None, jax.process_count())
    manifest.check_files(path, dict(mine))


def _check(path: Path, held: Manifest, like: dict[str, Named], whole: bool, within: str) -> None:
    """Whether arrays are those wanted and files those written: nothing is read before."""
    for item, wanted in like.items():
        manifest.check_types(wanted, held.arrays[item], whole=whole, within=within)
    check_files(
        path,
        {
            name: written
            for name, written in held.files.items()
            if whole or "/" not in name or name.split("/")[0] in like
        },
    )


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    """An array's shape and where it is to lie: on this process' first device if nothing says."""
    place = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


@functools.cache
def _hush() -> None:
    """Has Python not tell of writes that go on or fail after one that failed: Orbax leaves them.

    Each would be a traceback, of an event loop that is closed or of a result that nobody fetched;
    `write` has said what failed.
    """
    tell = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            tell(unraisable)

    sys.unraisablehook = hook
    getLogger("asyncio").addFilter(lambda record: not _is_of_orbax(record))


def _is_of_orbax(record: LogRecord) -> bool:
    """Whether a line of asyncio's tells of a task or an error of Orbax."""
    trace = record.exc_info[2] if record.exc_info else None
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(trace))
    return any(name.startswith("orbax.") for name in modules) or "/orbax/" in record.getMessage()


def _apart(action: Callable[[], T]) -> Future[T]:
    """Acts in a thread, where no signal arrives, and for which no exit waits.

    Nor does one wait for the threads that it starts: where Orbax cannot make a folder, some wait
    for that folder for 20 minutes. And Orbax makes an error like any other of Ctrl-C.
    """
    done: Future[T] = Future()

    def act() -> None:
        try:
            result = action()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(result)

    threading.Thread(target=act, daemon=True, name="checkpoint").start()
    return done
