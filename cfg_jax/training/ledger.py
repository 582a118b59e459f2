"""Where a run's time went, added up over every time it was started: its goodput.

    start       opening the data, restoring a checkpoint
    compile     the first step, which compiles
    data        waiting for a batch
    step        everything else: the devices at work
    checkpoint  handing a state over to be saved, and waiting for the one before
    sample      drawing grids of samples
    lost        steps made after the last checkpoint of a run that was cut off, made again

The time between an end and the next start is in none of them.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

KINDS = ("start", "compile", "data", "step", "checkpoint", "sample", "lost")


class Ledger:
    """Adds up seconds by kind; what is spent on nothing in particular is spent on steps."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(KINDS, 0.0)
        self._since = time.perf_counter()

    def take_over(self, kept: Any, reached: Any) -> None:
        """Adds what earlier starts spent, and how much of it was in vain.

        Args:
          kept: What the last row that stays says of the seconds spent, see `read`; anything that is
            not such a table counts as nothing.
          reached: What the last row of all says.
        """
        before = _seconds(kept)
        for kind, seconds in before.items():
            self._spent[kind] += seconds
        self._spent["lost"] += max(sum(_seconds(reached).values()) - sum(before.values()), 0.0)

    @contextlib.contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Books what its block takes; blocks do not nest."""
        self.book("step")
        try:
            yield
        finally:
            self.book(kind)

    def book(self, kind: str) -> None:
        """Books the time since the last entry."""
        now = time.perf_counter()
        self._spent[kind] += now - self._since
        self._since = now

    def read(self) -> dict[str, float]:
        """Seconds by kind, up to now."""
        self.book("step")
        return {kind: round(seconds, 3) for kind, seconds in self._spent.items()}


def _seconds(written: Any) -> dict[str, float]:
    """Seconds by kind, as far as they can be understood."""
    table = written if isinstance(written, Mapping) else {}
    return {
        kind: float(table[kind])
        for kind in KINDS
        if type(table.get(kind)) in (int, float) and math.isfinite(table[kind]) and table[kind] >= 0
    }
