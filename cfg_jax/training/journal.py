"""What a run tells while it trains: rows of metrics, notes, a progress bar, where its time went."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ml_collections import ConfigDict

from cfg_jax.runtime import processes
from cfg_jax.runtime.notes import Bar, note
from cfg_jax.training.ledger import Ledger
from cfg_jax.training.metrics import MetricsWriter
from cfg_jax.training.step import Metrics
from cfg_jax.training.window import Window

SAID = {"sample": "drawing samples", "checkpoint": "saving"}
"""What the bar says while it stands."""


class Journal:
    """Takes in a run's steps and tells of them; of several processes, the first alone speaks.

    Args:
      config: The recipe.
      workdir: The run's directory.
      ledger: Where time is booked.
      step: The step training goes on from.
    """

    def __init__(self, config: ConfigDict, workdir: Path, ledger: Ledger, *, step: int):
        train = config.train
        self.ledger = ledger
        self._window = Window(
            step=step,
            batch_size=train.batch_size,
            max_skipped=train.max_skipped,
            spike=train.spike,
        )
        self._stack = contextlib.ExitStack()
        self._writer: MetricsWriter | None = None
        if processes.is_first():
            writer = MetricsWriter(workdir, step=step, tensorboard=train.tensorboard)
            self._writer = self._stack.enter_context(writer)
            if writer.damaged:
                note(f"{writer.damaged} damaged lines of metrics.jsonl are left out")
            kept = writer.kept[-1].get("seconds") if writer.kept else None
            ledger.take_over(kept, writer.dropped[-1].get("seconds") if writer.dropped else kept)
        self._progress = Bar(total=train.steps, initial=step, desc=f"train {workdir}", unit="step")
        self._stack.enter_context(self._progress)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Books what its block takes, see `Ledger.on`, and says what it is if that takes long."""
        with self.ledger.on(kind):
            if kind not in SAID:
                yield
                return
            with self._progress.during(SAID[kind]):
                yield

    def add(self, metrics: Metrics) -> None:
        """Takes in one step's metrics, still on the devices."""
        self._window.add(metrics)
        self._progress.update()

    def write_row(self) -> None:
        """Fetches the steps since the last row, and writes theirs.

        Raises:
          NonFiniteLossError: Too many steps were not finite.
        """
        row = self._window.close()
        for line in row.notes:
            note(line)
        seconds = self.ledger.read()
        total = sum(seconds.values())
        if self._writer:
            goodput = seconds["step"] / total if total else None
            self._writer.write(row.step, **row.values, seconds=seconds, goodput=goodput)
        if row.values["loss"] is not None:
            self._progress.set_postfix(loss=f"{row.values['loss']:.4f}", refresh=False)

    def restart_clock(self) -> None:
        """Leaves the time since the last row out of the images a second."""
        self._window.restart_clock()
