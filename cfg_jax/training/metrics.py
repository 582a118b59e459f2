"""Metrics of a run as JSON lines, one object a line, and to TensorBoard on request."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cfg_jax.runtime.files import atomic, check_regular


class MetricsWriter:
    """Appends to WORKDIR/metrics.jsonl.

    Args:
      workdir: The run's directory.
      step: The step training goes on from: lines of later steps, left by a run that was cut off
        after its last checkpoint, are dropped, since those steps will be made again.
      tensorboard: Also write events to WORKDIR/tensorboard.

    Attributes:
      kept: The rows that stayed.
      dropped: Those that did not.
      damaged: How many lines could not be read, and are gone.

    Raises:
      ValueError: TensorBoard events were asked for and tensorboardX is not installed.
    """

    def __init__(self, workdir: Path, *, step: int, tensorboard: bool = False):
        path = workdir / "metrics.jsonl"
        rows, self.damaged = _rows(path)
        self.kept = kept = [row for row in rows if row["step"] <= step]
        self.dropped = [row for row in rows if row["step"] > step]
        with atomic(path) as file:
            file.write("".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = path.open("ab", buffering=0)  # closing it has nothing left to write
        self._events = _events(workdir, step) if tensorboard else None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        if self._events:
            self._events.close()

    def write(self, step: int, **values: Any) -> None:
        """Writes one row; lists and dictionaries become one TensorBoard series a number.

        Raises:
          OSError: It cannot be written, as on a full disk; `filename` is the path.
        """
        left = f"{json.dumps({'step': step, **values})}\n".encode()
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            error.filename = str(self._file.name)
            raise
        if self._events:
            for series, number in _series(values):
                self._events.add_scalar(series, number, step)
            self._events.flush()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; lines that a crash cut off or a disk damaged are left out."""
    return _rows(path)[0]


def _rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows, and how many lines are none; a last one that was cut off is not counted."""
    if path.exists():
        check_regular(path)
    *lines, last = (path.read_bytes() if path.exists() else b"").split(b"\n")
    found = [_row(line) for line in lines]
    rows = [row for row in [*found, _row(last)] if row is not None]
    return rows, found.count(None)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and type(row.get("step")) is int
    return row if whole else None


def _series(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number within, with its place as its name: "loss", "loss_by_logsnr/3"."""
    for name, value in values.items():
        if isinstance(value, list):
            value = {str(i): entry for i, entry in enumerate(value)}
        if isinstance(value, dict):
            yield from _series(value, f"{prefix}{name}/")
        elif value is not None:
            yield f"{prefix}{name}", value


def _events(workdir: Path, step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ValueError(
            "train.tensorboard needs tensorboardX: pip install 'cfg-jax[tensorboard]'"
        ) from None
    return SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)
