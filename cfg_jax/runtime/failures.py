"""One process of several fails: it tells the others, and none waits for one that is gone.

It tells them through JAX's coordination service, where a thread of every process listens. What all
processes raise alike, because they agreed on it (`agreed`), ends each as if it were alone.
"""

import atexit
import contextlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
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
    os._exit(code)


def end(code: int) -> None:
    """Ends this process at once, and what it started; one of several ends as `listen` has it."""
    if jax.process_count() > 1:
        return
    for child in multiprocessing.active_children():
        child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):
        client, until = _client(), time.monotonic() + LINGER
        client.key_value_set(f"{GONE}/{jax.process_index()}", "gone")
        if jax.process_index() == 0:
            for other in range(1, jax.process_count()):
                left = max(until - time.monotonic(), 0.1)
                client.blocking_key_value_get(f"{GONE}/{other}", int(1000 * left))
            time.sleep(0.5)  # they are to have their answers
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
