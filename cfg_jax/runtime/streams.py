"""Standard output and error as a command needs them: there, whatever they were started as."""

import os
import sys
from typing import Any, TextIO


class Unfailing:
    """A stream to tell people of work by, which must not fail for it: once it does, it is silent.

    All but writing is the stream's own.

    Args:
      stream: Such as standard error.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or falls silent."""
        try:
            return self._stream.write(text)
        except OSError:
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flushes, or falls silent."""
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)


def silence(stream: TextIO) -> None:
    """Has a stream write to nowhere: Python would write once more as it ends, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def set_up() -> None:
    """Opens those of the three standard streams that are closed; standard error will not fail.

    What a program opens takes the lowest number that is free: else that of a closed standard error
    would be a file's, and what is written to standard error would land in there.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
    sys.stderr = Unfailing(sys.stderr)
