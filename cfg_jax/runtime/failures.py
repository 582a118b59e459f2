"""One process of several fails: it tells the others, and none waits for one that is gone.

It tells them through JAX's coordination service, where a thread of every process listens. The
service is the first process' own; where that is killed, `noticing` has the others notice. What all
processes raise alike, because they agreed on it (`agreed`), ends each as if it were alone.
"""

import atexit
import contextlib
import ctypes
import functools
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax._src import distributed
from jax._src.distributed import global_state

E = TypeVar("E", bound=BaseException)
Hint = Callable[[], str]

FAILED, GONE, DONE = "cfg_jax/failed", "cfg_jax/gone", "done"

GRACE = 1.0
"""Seconds that a process has to end by itself when another one failed."""

LINGER = 5.0
"""Seconds that the first process, which answers the others, waits for them at its end."""

HANGING = 12.0
"""Seconds that the clean-up of a process that failed may take."""

_ending: int | None = None
"""The exit code, once this process has failed."""

_hint: Hint = str
"""How to go on, if another process ends now."""


def _client() -> Any:
    """What the processes tell each other through."""
    return global_state.client


def agreed(error: E) -> E:
    """An error that every process raises at the same point, marked so: none tells the others."""
    error.agreed = True  # type: ignore[attr-defined]
    return error


def cause(error: BaseException) -> BaseException | None:
    """What ends a process; None if it is no failure, or ends all alike."""
    if isinstance(error, SystemExit) and not error.code:
        return None
    found = error.__context__ or error if isinstance(error, SystemExit) else error
    link: BaseException | None = found
    while link is not None:
        if getattr(link, "agreed", False):
            return None
        link = link.__cause__ or link.__context__
    return found


def tell(error: BaseException, reason: BaseException, hint: Hint) -> None:
    """Tells the others, once; and makes sure that this process ends, should its clean-up hang."""
    global _ending
    told, _ending = _ending is not None, _code(error)
    if told:
        return
    line = "interrupted" if isinstance(reason, KeyboardInterrupt) else _line(reason)
    watch = threading.Timer(HANGING, leave, [line, _ending])
    watch.daemon = True
    watch.start()
    message = {"process": jax.process_index(), "reason": line, "hint": hint()}
    for other in range(jax.process_count()):
        with contextlib.suppress(Exception):  # another one failed before, or all are gone
            _client().key_value_set(f"{FAILED}/{other}", json.dumps(message))


def lose(error: Exception, hint: Hint) -> None:
    """Ends this process, which has lost the others; one that failed may say why meanwhile."""
    time.sleep(2 * GRACE)
    tell(error, error, hint)
    _say(f"{_who(jax.process_index())} lost the others: {_line(error)}", hint())
    _part(1)


def leave(message: str, code: int = 1) -> None:
    """Says why, and ends this process at once: a tidy end would wait for one that is gone."""
    print(f"cfg_jax: {message}", file=sys.stderr, flush=True)
    _exit(code)


def alone() -> bool:
    """Whether no other process was ever met."""
    return (global_state.num_processes or 1) == 1


def end(code: int) -> None:
    """Ends this process at once, and what it started; one of several ends as `listen` has it."""
    if alone():
        _exit(code)


@contextlib.contextmanager
def hinting(hint: Hint) -> Iterator[None]:
    """Says meanwhile how to go on, should the first process be gone."""
    global _hint
    before, _hint = _hint, hint
    try:
        yield
    finally:
        _hint = before


@contextlib.contextmanager
def noticing() -> Iterator[None]:
    """Has the client of the coordination service that is made meanwhile notice the service's end.

    JAX would end the process with a stack trace. It has a callback for that, which
    `jax.distributed.initialize` does not hand on, and which jaxlib 0.10 cannot call: it raises a
    C++ error in the attempt, in a thread where nothing catches it. So the handler of such errors is
    the callback as well.
    """
    module, name = distributed._jax, "get_distributed_runtime_client"
    make = getattr(module, name)
    with contextlib.suppress(OSError, AttributeError):  # another library of C++ than Linux has
        set_terminate = ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE
        set_terminate.restype = ctypes.c_void_p
        set_terminate(_terminate)
        setattr(module, name, functools.partial(make, missed_heartbeat_callback=_abandoned))
    try:
        yield
    finally:
        setattr(module, name, make)


def _abandoned(*_: Any) -> None:
    """Ends this process, to which the coordination service does not answer any more."""
    if _ending is None:
        who = f"process {global_state.process_id} of {global_state.num_processes}"
        _say(f"{who} lost the others: the first one is gone, or another does not answer", _hint())
    _exit(1 if _ending is None else _ending)


_terminate = ctypes.CFUNCTYPE(None)(_abandoned)


def listen() -> None:
    """Has this process end when another one fails, and not wait for the others when it fails."""
    thread = threading.Thread(target=_hear, daemon=True, name="others")
    thread.start()
    atexit.register(_end, thread)  # comes before JAX's own, which waits


def _hear() -> None:
    client, told = _client(), None
    while told is None:
        try:
            told = client.blocking_key_value_get(f"{FAILED}/{jax.process_index()}", 3_600_000)
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                return  # the first process is gone
    if _ending is not None or told == DONE:
        return
    time.sleep(GRACE)
    if _ending is None:
        message = json.loads(told)
        _say(f"{_who(message['process'])} ended: {message['reason']}", message["hint"])
        _part(1)


def _end(thread: threading.Thread) -> None:
    uncaught = getattr(sys, "last_value", None)
    if uncaught is not None and (reason := cause(uncaught)) is not None:
        tell(uncaught, reason, lambda: "")
    if _ending is not None:
        _part(_ending)
    with contextlib.suppress(Exception):  # the thread must not outlive Python
        _client().key_value_set(f"{FAILED}/{jax.process_index()}", DONE)
    thread.join(2 * GRACE)


def _part(code: int) -> None:
    """Ends this process; the first one after the others, which it answers."""
    with contextlib.suppress(Exception):
        client, until = _client(), time.monotonic() + LINGER
        client.key_value_set(f"{GONE}/{jax.process_index()}", "gone")
        if jax.process_index() == 0:
            for other in range(1, jax.process_count()):
                left = max(until - time.monotonic(), 0.1)
                client.blocking_key_value_get(f"{GONE}/{other}", int(1000 * left))
            time.sleep(0.5)  # they are to have their answers
    _exit(code)


def _exit(code: int) -> None:
    """Ends this process at once, and what it started."""
    for child in multiprocessing.active_children():
        child.kill()  # it may be stopped, or waiting for storage
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _who(process: int) -> str:
    return f"process {process} of {jax.process_count()}"


def _say(what: str, hint: str) -> None:
    again = f"Start all of them again: {hint}" if hint else "Start all of them again"
    print(f"cfg_jax: {what}. {again}", file=sys.stderr, flush=True)
