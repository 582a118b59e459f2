"""The steps since the last row of metrics, fetched from the devices together and checked."""

import collections
import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from cfg_jax.training.step import Metrics


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient became NaN or infinite more often than the recipe allows."""


class Row(NamedTuple):
    """What a window saw.

    Attributes:
      step: The number of steps made.
      values: The row of metrics, by name.
      notes: What a person should hear of: a line for every spike of the loss and skipped step.
    """

    step: int
    values: dict[str, Any]
    notes: list[str]


class Window:
    """Collects steps and closes them into one row.

    Fetching each step's metrics as it is made would make the host wait for the devices every time.

    Args:
      step: The number of steps made so far.
      batch_size: Images a step.
      max_skipped: Steps that may be skipped, their loss or gradient not being finite.
      spike: A loss of more than so many standard deviations above the mean of the `HISTORY` losses
        before it is a spike; 0 for none.
    """

    HISTORY = 200

    def __init__(self, *, step: int, batch_size: int, max_skipped: int = 0, spike: float = 0.0):
        self._first, self._batch_size = step, batch_size
        self._max_skipped, self._spike = max_skipped, spike
        self._history: collections.deque[float] = collections.deque(maxlen=self.HISTORY)
        self._steps: list[Metrics] = []
        self.restart_clock()

    def add(self, metrics: Metrics) -> None:
        """Takes in one step's metrics, still on the devices."""
        self._steps.append(metrics)

    def restart_clock(self) -> None:
        """Leaves the time since the last row out of the images a second."""
        self._started = time.perf_counter()

    def close(self) -> Row:
        """The row of the collected steps.

        Raises:
          NonFiniteLossError: More of the run's steps were skipped than may be.
        """
        fetched = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(self._steps))
        seconds = time.perf_counter() - self._started
        finite = np.isfinite(fetched.loss) & np.isfinite(fetched.grad_norm)
        notes = self._skips(fetched, finite)
        spikes = [
            i for i in np.flatnonzero(finite).tolist() if self._is_spike(float(fetched.loss[i]))
        ]
        notes += [f"at {self._where(i)} the loss jumped to {fetched.loss[i]:.4g}" for i in spikes]
        values: dict[str, Any] = {
            "loss": float(fetched.loss[finite].mean()) if finite.any() else None,
            "grad_norm": float(fetched.grad_norm[finite].mean()) if finite.any() else None,
            "images_per_second": len(self._steps) * self._batch_size / seconds,
            "loss_by_logsnr": [
                float(total / count) if count else None
                for total, count in zip(
                    fetched.bin_loss[finite].sum(0), fetched.bin_count[finite].sum(0), strict=True
                )
            ],
            "skipped": int(fetched.skipped[-1]),
            "replaced": int(fetched.replaced.sum()),
        }
        if fetched.measured:
            values["measured"] = {
                name: float(each[finite].mean()) if finite.any() else None
                for name, each in fetched.measured.items()
            }
        if spikes:
            values["spikes"] = [self._span(i) for i in spikes]
        self._first += len(self._steps)
        self._steps = []
        self.restart_clock()
        return Row(self._first, values, notes)

    def _skips(self, fetched: Metrics, finite: np.ndarray) -> list[str]:
        """A note for every skipped step; the one too many raises."""
        notes = []
        for i in np.flatnonzero(~finite).tolist():
            note = (
                f"at {self._where(i)} the loss is {fetched.loss[i]} and the norm of its gradient "
                f"{fetched.grad_norm[i]}"
            )
            if fetched.skipped[i] > self._max_skipped:
                raise NonFiniteLossError(
                    f"{note}; train.max_skipped allows {self._max_skipped} such steps"
                )
            notes.append(f"{note}: skipped, {fetched.skipped[i]} of {self._max_skipped}")
        return notes

    def _is_spike(self, loss: float) -> bool:
        """Whether a loss stands out from those before it, which it then is one of."""
        history = self._history
        outlier = False
        if self._spike and len(history) >= self.HISTORY // 4:
            mean = statistics.fmean(history)
            outlier = loss > mean + self._spike * statistics.pstdev(history, mean)
        history.append(loss)
        return outlier

    def _span(self, i: int) -> dict[str, int]:
        """A step's number and its examples' places on the line of all batches, both ends in it."""
        step = self._first + i + 1
        return {
            "step": step,
            "first_example": (step - 1) * self._batch_size,
            "last_example": step * self._batch_size - 1,
        }

    def _where(self, i: int) -> str:
        span = self._span(i)
        return f"step {span['step']} (examples {span['first_example']} to {span['last_example']})"
