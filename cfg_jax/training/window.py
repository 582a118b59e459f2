"""The steps since the last row of metrics, fetched from the devices together and checked."""

import time

import jax
import numpy as np

from cfg_jax.training.metrics import MetricsWriter
from cfg_jax.training.step import Metrics


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient became NaN or infinite."""


class Window:
    """Collects steps and closes them into one row.

    Fetching each step's metrics as it is made would make the host wait for the devices every time.

    Args:
      writer: Takes the rows.
      step: The number of steps made so far.
      batch_size: Images a step.
    """

    def __init__(self, writer: MetricsWriter, *, step: int, batch_size: int):
        self._writer, self._first, self._batch_size = writer, step, batch_size
        self._steps: list[Metrics] = []
        self.restart_clock()

    def add(self, metrics: Metrics) -> None:
        """Takes in one step's metrics, still on the devices."""
        self._steps.append(metrics)

    def restart_clock(self) -> None:
        """Leaves the time since the last row out of the images a second."""
        self._started = time.perf_counter()

    def close(self) -> float:
        """Writes the row of the collected steps, and returns their mean loss.

        Raises:
          NonFiniteLossError: One of them had a loss or gradient that is not finite.
        """
        fetched = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(self._steps))
        seconds = time.perf_counter() - self._started
        self._check(fetched)
        loss = float(fetched.loss.mean())
        bins = zip(fetched.bin_loss.sum(0), fetched.bin_count.sum(0), strict=True)
        self._first += len(self._steps)
        self._writer.write(
            self._first,
            loss=loss,
            grad_norm=float(fetched.grad_norm.mean()),
            images_per_second=len(self._steps) * self._batch_size / seconds,
            loss_by_logsnr=[float(total / count) if count else None for total, count in bins],
        )
        self._steps = []
        self.restart_clock()
        return loss

    def _check(self, fetched: Metrics) -> None:
        finite = np.isfinite(fetched.loss) & np.isfinite(fetched.grad_norm)
        if not finite.all():
            bad = int(np.argmin(finite))
            raise NonFiniteLossError(
                f"at step {self._first + bad + 1} the loss is {fetched.loss[bad]} and the norm of "
                f"its gradient {fetched.grad_norm[bad]}"
            )
