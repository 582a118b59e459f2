"""Several processes as one run: starting together, agreeing, and failing together.

On a TPU pod or under Slurm JAX finds the others by itself; elsewhere every process is told where
the first one listens, how many there are, and which one it is.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

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
    missing = f"the other processes did not come within {timeout} s"
    # JAX would abort with a stack trace when its own time is up.
    watch = threading.Timer(timeout, leave, [f"{missing} to {coordinator or 'the first one'}"])
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=processes,
            process_id=process,
            initialization_timeout=timeout + 60,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
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
            raise ValueError("process 0 refused to go on; its message says why")
    if failure is not None:
        raise failure


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
        raise failure
    return result


def agree(what: str, value: Any) -> None:
    """Raises ValueError, naming the processes, unless all were given the same JSON value."""
    text = json.dumps(value, sort_keys=True, default=str)
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    if jax.process_count() == 1:
        return
    found = np.asarray(multihost_utils.process_allgather(digest))
    others = [i for i, row in enumerate(found) if not np.array_equal(row, found[0])]
    if others:
        names = ", ".join(map(str, others))
        raise ValueError(
            f"the processes were started with different {what}: "
            f"{'those of processes' if len(others) > 1 else 'that of process'} {names} "
            "differ from process 0's"
        )


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


@contextlib.contextmanager
def together(hint: Callable[[], str]) -> Iterator[None]:
    """Ends this process when another one is gone, or the network between: says so, and a hint."""
    try:
        yield
    except Exception as error:
        told = str(error)
        lost = re.match("(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|DEADLINE_EXCEEDED)", told)
        if jax.process_count() == 1 or not lost:
            raise
        leave(
            f"process {jax.process_index()} of {jax.process_count()} lost the others: "
            f"{told.splitlines()[0]}. Start all of them again: {hint()}"
        )


def leave(message: str) -> None:
    """Says why, and ends this process at once: a tidy end would wait for one that is gone."""
    print(f"cfg_jax: {message}", file=sys.stderr, flush=True)
    os._exit(1)
