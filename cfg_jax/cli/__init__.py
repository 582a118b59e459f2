"""The commands, one module each; a user's mistake is answered in one line, with exit code 2."""

import _thread
import contextlib
import dis
import errno
import importlib
import keyword
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from cfg_jax import interrupts, surroundings

COMMANDS = {
    "train": "train a guided diffusion model, or go on training it",
    "sample": "sample images from a trained model",
    "evaluate": "score samples over a sweep of guidance strengths",
    "score": "score samples against a reference, as published figures are",
    "prepare": "prepare a data set once, before training",
    "encode": "encode the data of a recipe once, before training in latents",
    "import": "make a run of weights that were trained elsewhere",
    "export": "write a trained model to one .safetensors file",
    "plan": "see whether a recipe fits a TPU slice, and how fast it can be there",
}

USAGE = "usage: python -m cfg_jax COMMAND [--help] [flags]\n\n" + "\n".join(
    f"  {name:10}{what}" for name, what in COMMANDS.items()
)

ON_DEVICES = ("train", "sample", "evaluate", "score", "encode")
"""Commands that compute over all devices."""

MISTAKE, FAILURE, INTERRUPTED = surroundings.MISTAKE, 1, interrupts.CODE
"""Exit codes: a user's mistake, a run that went wrong, and one that was asked to stop."""


FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, or of a user's share of one, without room."""


class FailedError(Exception):
    """A run that did not reach its end, through no mistake in the command; told in one line."""

    def __init__(self, message: str, code: int = FAILURE):
        super().__init__(message)
        self.code = code


def main(argv: list[str] | None = None) -> None:
    """Runs the command that the arguments name, and exits."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h", "help"):
        with _answered(name):
            say(USAGE)
        sys.exit(0)
    if name not in COMMANDS:
        _say(f"there is no command {name!r}; there are {', '.join(COMMANDS)}")
        sys.exit(MISTAKE)
    with _answered(name), _interrupted_at_once():
        from cfg_jax.runtime import processes

        module = f"{name}_" if keyword.iskeyword(name) else name
        command = importlib.import_module(f"cfg_jax.cli.{module}")
    with processes.together(), _answered(name):
        if name in ON_DEVICES:
            _set_up()
        command.run(rest)


def entry() -> None:
    """Runs the command of this process' arguments.

    Interrupted, the process ends at once: compiling goes on in threads of XLA's own, and a tidy end
    of Python under them is a segmentation fault. So it does where the run went wrong: a tidy end
    waits for workers that may not answer.
    """
    from cfg_jax.runtime import streams

    streams.set_up()
    _insist()
    try:
        main()
    except SystemExit as stop:
        from cfg_jax.runtime import failures

        if stop.code in (INTERRUPTED, FAILURE):
            failures.end(stop.code)
        raise
    finally:
        _finish()


def _finish() -> None:
    """Has signals that come once all is done change nothing: Python, as it ends, would die of them.

    One of several processes still waits for the others, and may be told not to.
    """
    from cfg_jax.runtime import failures

    if failures.alone():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _insist() -> None:
    """Has Ctrl-C interrupt again where Python drops the interrupt, as when it frees memory."""
    tell = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            threading.Timer(0.05, _thread.interrupt_main).start()
        else:
            tell(unraisable)

    sys.unraisablehook = hook


@contextlib.contextmanager
def _interrupted_at_once() -> Iterator[None]:
    """Has Ctrl-C end the process while modules are imported, before anything is begun."""
    changed = interrupts.at_once()
    try:
        yield
    finally:
        if changed:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _answered(name: str) -> Iterator[None]:
    """Makes one line and an exit code of an error in a command that is not a bug."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        answer = _answer(error)
        if answer is None:
            raise
        message, code = answer
        _say(f"{name}: {message}")
        sys.exit(code)


def _answer(error: BaseException) -> tuple[str, int] | None:
    """What is said of an error, and the exit code; None for a bug."""
    if isinstance(error, FailedError):
        return str(error), error.code
    if _is_an_interrupt(error):
        return "interrupted", INTERRUPTED
    if isinstance(error, ValueError | TypeError) and _is_ours(error):
        return str(error), MISTAKE
    if isinstance(error, OSError) and (error.filename or error.errno in FULL):
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return f"{where}{error.strerror}", MISTAKE
    if isinstance(error, RuntimeError | AssertionError) and _is_of_devices(error):
        asked = os.environ.get("JAX_PLATFORMS", "")
        return f"JAX_PLATFORMS={asked}: JAX starts on none of these here", MISTAKE
    if isinstance(error, MemoryError | RuntimeError | ImportError):
        wanted = _memory(error)
        if wanted is not None:
            return f"there is not enough memory{wanted and f' ({wanted})'}", MISTAKE
    return None


def say(text: str) -> None:
    """Prints; ends quietly where nobody reads on, as behind `| head`.

    Raises:
      OSError: It cannot be written, as into a file on a full disk.
    """
    from cfg_jax.runtime import streams

    try:
        print(text, flush=True)
    except OSError as error:
        streams.silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        error.filename = "standard output"
        raise


def _set_up() -> None:
    """Has JAX use all cores, unless it has started already, and keep what it compiles."""
    from cfg_jax.runtime import compiled, cores

    with contextlib.suppress(ValueError):
        cores.use_cores()
    compiled.keep()


def _say(message: str) -> None:
    print(f"cfg_jax {message}", file=sys.stderr)


def _memory(error: MemoryError | RuntimeError | ImportError) -> str | None:
    """What an error for lack of memory says was wanted, maybe nothing; None for any other error."""
    told = next(iter(str(error).splitlines()), "")
    found = re.search("RESOURCE_EXHAUSTED: (.*)|(Out of memory.*)", told)  # as JAX says it
    if found:
        return (found[1] or found[2]).rstrip(".")
    if isinstance(error, ImportError):  # a library that the system had no room for
        return "" if "failed to map segment" in told else None
    return told if isinstance(error, MemoryError) else None


def _is_an_interrupt(error: BaseException | None) -> bool:
    """Whether an error is a KeyboardInterrupt, or came of one.

    A module written in C makes another error of it, and code that was interrupted may fail as it
    cleans up.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _is_of_devices(error: BaseException) -> bool:
    """Whether JAX raised the error as it looked for devices."""
    return _file(_last(error)).name == "xla_bridge.py"


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised the error: any other is a bug, and keeps its traceback.

    Python itself raises a TypeError where code is wrong: only one that a statement raised is ours.
    """
    last = _last(error)
    if Path(__file__).parents[1] not in _file(last).parents:
        return False
    code = last.tb_frame.f_code.co_code[last.tb_lasti]
    return isinstance(error, ValueError) or dis.opname[code] == "RAISE_VARARGS"


def _last(error: BaseException) -> TracebackType:
    """Where an error that was caught had been raised."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _file(trace: TracebackType) -> Path:
    return Path(trace.tb_frame.f_code.co_filename)
