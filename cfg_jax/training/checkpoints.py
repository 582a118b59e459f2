"""Checkpoints of a run: WORKDIR/checkpoints/STEP, written by Orbax in the background.

Each holds the training state, the moving average apart from it (so that sampling reads that alone),
and the position in the data, which is the step: batch k is a function of the seed and k.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from cfg_jax.training.state import State


class Checkpoints:
    """The checkpoints below one work directory.

    Args:
      workdir: The run's directory.
      keep: How many of the newest stay.
    """

    def __init__(self, workdir: Path, *, keep: int = 3):
        logging.set_verbosity(logging.ERROR)  # Orbax reports every file at INFO
        self._directory = workdir.absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep),
            item_names=("state", "ema", "position"),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self._directory / str(step)

    def save(self, state: State, *, batch_size: int) -> None:
        """Starts writing the state, which may be changed or donated as soon as this returns."""
        step = int(state.step)
        if step == self.latest():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._replace(ema=())),
                ema=ocp.args.StandardSave(state.ema),
                position=ocp.args.JsonSave({"step": step, "examples": step * batch_size}),
            ),
        )

    def wait(self) -> None:
        """Returns when everything that was saved is on disk."""
        self._manager.wait_until_finished()

    def restore(self, step: int, like: State) -> State:
        """The state of a step, laid out on the devices as `like` is.

        Raises:
          ValueError: The checkpoint cannot be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = self._read(
            step,
            state=ocp.args.StandardRestore(abstract._replace(ema=())),
            ema=ocp.args.StandardRestore(abstract.ema),
        )
        return State(*items["state"])._replace(ema=items["ema"])

    def restore_ema(self, step: int, like: Any) -> Any:
        """The moving average of the parameters alone, laid out as `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._read(step, ema=ocp.args.StandardRestore(abstract))["ema"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax raises a bare Exception for a damaged file
            reason = str(error).strip().splitlines()
            raise ValueError(
                f"the checkpoint {self.path(step)} cannot be read: "
                f"{reason[0] if reason else type(error).__name__}"
            ) from error
