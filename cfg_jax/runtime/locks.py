"""A lock on a directory that ends with its process, however that ends."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cfg_jax.runtime import processes
from cfg_jax.runtime.files import make_folder
from cfg_jax.runtime.notes import note

NAME = ".lock"

_held: set[BinaryIO] = set()


def _forget() -> None:
    """In a forked child: a lock belongs to the file as it was opened, which the child shares."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Holds a directory, made if needed, against every other process that asks for it.

    The operating system drops the lock when the process ends, `kill -9` included. Programs that the
    process starts do not inherit it. Of several processes that make one run, the first holds it.
    Where the file system has no locks, a note says so.

    Raises:
      ValueError: Another process holds the directory, or it cannot be made or written.
    """
    with contextlib.ExitStack() as stack:
        processes.by_first(lambda: _take(directory, stack))
        yield


def _take(directory: Path, stack: contextlib.ExitStack) -> None:
    try:
        make_folder(directory)
        file = stack.enter_context((directory / NAME).open("a+b", buffering=0))
    except OSError as error:
        raise ValueError(f"{directory} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(200).decode(errors="replace").strip() or "another process"
        raise ValueError(f"{directory} is in use by {holder}; wait for it, or stop it") from None
    except OSError as error:
        note(f"{directory} cannot be locked ({error.strerror}): start no second run in it")
        return
    _held.add(file)
    stack.callback(_held.discard, file)
    with contextlib.suppress(OSError):  # only says who; a full disk shows where it matters
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
