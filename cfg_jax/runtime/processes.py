"""Several processes as one run: starting together, agreeing, and failing together.

What ends one process, an error of its own or Ctrl-C, ends all of them within seconds: `together`.

On a TPU pod or under Slurm JAX finds the others by itself; elsewhere every process is told where
the first one listens, how many there are, and which one it is.
"""

import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from cfg_jax.runtime import failures
from cfg_jax.runtime.failures import agreed

T = TypeVar("T")

HEARTBEAT = 60
"""Seconds without a sign of life after which a process counts as dead."""


def start(
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    timeout: int = 300,
) -> None:
    """Joins the other processes; must come before anything else asks JAX for its devices.

    Args:
      coordinator: HOST:PORT of process 0; None where JAX finds it out (TPU pods, Slurm, MPI).
      processes: How many there are.
      process: Which one this is, from 0.
      timeout: Seconds to wait for the others.

    Raises:
      ValueError: An argument is missing or out of range, or nobody answers in time.
    """
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"--coordinator must be HOST:PORT; got {coordinator!r}")
        if processes is None or process is None:
            raise ValueError("--coordinator needs --processes and --process beside it")
        if not 0 <= process < processes:
            raise ValueError(
                f"--process must lie in [0, {processes - 1}] for --processes {processes}; "
                f"got {process}"
            )
        if process:
            _await(host.strip("[]"), int(port), timeout)
    missing = f"the other processes did not come within {timeout} s to "
    missing += coordinator or "the first one"
    # JAX would abort with a stack trace when its own time is up.
    watch = threading.Timer(timeout, failures.leave, [missing])
    watch.daemon = True
    watch.start()
    try:
        with failures.noticing():
            jax.distributed.initialize(
                coordinator_address=coordinator,
                num_processes=processes,
                process_id=process,
                initialization_timeout=timeout + 60,
                heartbeat_timeout_seconds=HEARTBEAT,
            )
        failures.listen()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the processes cannot start together: {str(error).splitlines()[0]} Where JAX does not "
            "find them by itself, give --coordinator, --processes and --process"
        ) from error
    finally:
        watch.cancel()


def _await(host: str, port: int, timeout: int) -> None:
    """Waits until something listens there: JAX would end the process instead of saying so."""
    until = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise ValueError(
                    f"the coordinator {host}:{port} cannot be reached, after {timeout} s: {error}"
                ) from None
            time.sleep(0.2)


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def by_first(action: Callable[[], Any]) -> None:
    """Lets the first process act; the others go on when it is done, and only if it succeeded."""
    failure: Exception | None = None
    if is_first():
        try:
            action()
        except Exception as error:
            failure = error
    if jax.process_count() > 1:
        failed = multihost_utils.broadcast_one_to_all(np.int32(failure is not None))
        if failed and failure is None:
            failure = ValueError("process 0 refused to go on; its message says why")
    if failure is not None:
        raise agreed(failure)


def in_all(action: Callable[[], T]) -> T:
    """Acts in every process; where it fails in one it fails in all, with that one's reason.

    Its type is ValueError in all of them, or else in the others RuntimeError.
    """
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    if jax.process_count() > 1:
        kind = "" if failure is None else "V" if isinstance(failure, ValueError) else "R"
        text = f"{kind}{failure or ''}".encode()[:1000].ljust(1000)
        rows = np.asarray(multihost_utils.process_allgather(np.frombuffer(text, np.uint8)))
        for process, row in enumerate(rows):
            told = bytes(row).decode(errors="ignore").strip()
            if told and failure is None:
                raised = ValueError if told[0] == "V" else RuntimeError
                failure = raised(f"{told[1:]} (in process {process})")
    if failure is not None:
        raise agreed(failure)
    return result


def agree(what: str, value: Any) -> None:
    """Raises ValueError, naming the processes, unless all were given the same JSON value.

    Of dictionaries, the entries that differ are named too.
    """
    if jax.process_count() == 1:
        return
    entries = value if isinstance(value, dict) else {}
    whole, *each = (_digest(part) for part in (sorted(entries), *map(entries.get, sorted(entries))))
    differ = _others([_digest(value)])[:, 0]
    if not differ.any():
        return
    named = ""
    if entries and not _others([whole]).any():
        apart = np.atleast_1d(_others(each).any(axis=0)).tolist()
        names = [name for name, found in zip(sorted(entries), apart, strict=True) if found]
        named = f" in {', '.join(map(str, names))}"
    others = np.flatnonzero(differ).tolist()
    text = ", ".join(map(str, others))
    raise agreed(
        ValueError(
            f"the processes were started with different {what}: "
            f"{'those of processes' if len(others) > 1 else 'that of process'} {text} "
            f"{'differ' if len(others) > 1 else 'differs'} from process 0's{named}"
        )
    )


def _digest(value: Any) -> np.ndarray:
    text = json.dumps(value, sort_keys=True, default=str)
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)


def _others(digests: list[np.ndarray]) -> np.ndarray:
    """Which of a process' digests, of (processes, digests), are not those of the first one."""
    found = np.asarray(multihost_utils.process_allgather(np.stack(digests)))
    return (found != found[:1]).any(axis=-1)


def fetch(x: jax.Array) -> np.ndarray:
    """An array on the host, wherever its parts lie; every process has to ask."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def preempted(step: int) -> bool:
    """Whether all processes, one of which was told to end, are to save after this step.

    Every process has to ask after every step.
    """
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def is_lost(error: Exception) -> bool:
    """Whether another process is gone, as JAX says it; for lack of memory it has the same words."""
    if jax.process_count() == 1:
        return False
    said = re.match("(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|DEADLINE_EXCEEDED)", str(error))
    return bool(said) and "Out of memory" not in str(error)


@contextlib.contextmanager
def together(hint: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Ends all processes where one ends by an error of its own, or is interrupted, or gone.

    The error goes on its way, and then this process ends without waiting for the others. Around a
    whole command, exit codes are kept; around a part of it, the hint tells how to go on.

    Args:
      hint: Says from where the processes would go on.
    """
    with failures.hinting(hint):
        try:
            yield
        except BaseException as error:
            cause = failures.cause(error)
            if not failures.alone() and cause is not None:
                if isinstance(cause, Exception) and is_lost(cause):
                    failures.lose(cause, hint)
                failures.tell(error, cause, hint)
            raise
