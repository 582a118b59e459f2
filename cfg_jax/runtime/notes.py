"""What a person is told of long work: progress bars, and lines beside them."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from cfg_jax.runtime import processes, streams


class Bar(tqdm):
    """A progress bar that says what takes long without moving it: at first, compiling.

    Of several processes the first alone shows it.
    """

    def __init__(self, *arguments: Any, disable: bool = False, **named: Any):
        super().__init__(*arguments, disable=disable or not processes.is_first(), **named)
        self._moved = False
        self.set_postfix_str("compiling")

    def update(self, n: float | None = 1) -> bool | None:
        """Moves on by n."""
        if not self._moved:
            self._moved = True
            self.set_postfix_str("", refresh=False)
        return super().update(n)

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Says what goes on in its block."""
        before = self.postfix
        self.set_postfix_str(what)
        try:
            yield
        finally:
            self.set_postfix_str(before or "", refresh=False)


def note(line: str) -> None:
    """Prints one line beside the progress bar, if it can; of several processes, the first does."""
    if processes.is_first():
        try:
            tqdm.write(line)
            sys.stdout.flush()
        except OSError:
            streams.silence(sys.stdout)
