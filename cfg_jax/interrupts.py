"""Ctrl-C in the second that a command takes to import this package, before it has begun anything.

Raised there, an interrupt may be lost, or become another error, in a module written in C.
"""

import contextlib
import os
import signal
import sys

CODE = 130
"""The exit code of what was interrupted."""


def leave(*_: object) -> None:
    """Ends the process at once; a signal handler."""
    with contextlib.suppress(OSError):
        os.write(2, f"{command()}: interrupted\n".encode(errors="replace"))
    os._exit(CODE)


def command() -> str:
    """What lines about this command begin with."""
    return " ".join(["cfg_jax", *sys.argv[1:2]])


def at_once() -> bool:
    """Has Ctrl-C end the process, where it would raise KeyboardInterrupt; whether it does now."""
    if signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, leave):
        return False
    signal.signal(signal.SIGINT, leave)
    return True


def is_command() -> bool:
    """Whether this process is `python -m cfg_jax` or `cfg-jax`, and still imports the package."""
    before = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    return before[-2:] == ["-m", "cfg_jax"] or os.path.basename(sys.argv[0]) == "cfg-jax"
