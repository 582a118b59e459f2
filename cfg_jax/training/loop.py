"""The training loop: one story, from a config and a work directory to a trained network."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cfg_jax.data import Dataset, batches, open_dataset
from cfg_jax.networks import UNet
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime import processes
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.training import config as recipe
from cfg_jax.training.feed import Feed
from cfg_jax.training.grids import GridWriter
from cfg_jax.training.journal import Journal, note
from cfg_jax.training.ledger import Ledger
from cfg_jax.training.program import build
from cfg_jax.training.window import NonFiniteLossError
from cfg_jax.training.workdir import Description, claim


class StoppedError(RuntimeError):
    """Training was asked to stop, and did so after saving a checkpoint.

    Attributes:
      signal: What asked it to.
    """

    def __init__(self, message: str, received: signal.Signals):
        super().__init__(message)
        self.signal = received


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains in a work directory, or goes on from the newest good checkpoint there.

    Writes `config.json`, `checkpoints/STEP`, `metrics.jsonl` and `samples/STEP.png`. With several
    processes, each calls this with the same arguments, the directory being one they share.

    Args:
      config: A recipe, see `config.default`.
      workdir: The directory; made if needed.

    Raises:
      ValueError: The config, the data or the work directory do not fit, in one sentence.
      NonFiniteLossError: Loss or gradient was not finite more often than the recipe allows; the
        last good checkpoint is named.
      StalledDataError: No batch came for too long.
      StoppedError: SIGINT or SIGTERM came; a checkpoint was saved.
    """
    ledger = Ledger()
    recipe.check(config)
    mesh = meshes.device_mesh(config.mesh.fsdp)
    data = open_dataset(config.data, split="train")
    recipe.check_data(config, data.vector)
    program = build(config, data.shape, data.num_classes, mesh)
    description = Description(config, data.shape, data.class_names)
    processes.agree("recipes or data", _identity(description, data))
    processes.by_first(lambda: claim(workdir, description))
    every, last = config.train, config.train.steps

    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(workdir, keep=every.keep, keep_every=every.keep_every)
        stack.enter_context(checkpoints)
        start, state = checkpoints.restore_newest(program.state, report=note) or (0, None)
        if start >= last:
            note(f"{workdir} is trained already, to step {start}")
            return
        state = program.start() if state is None else state
        feed = Feed(stream(config, data, start), timeout=every.data_timeout, report=note)
        stack.callback(feed.close)
        journal = stack.enter_context(Journal(config, workdir, ledger, step=start))
        grids = None
        if isinstance(program.network, UNet):
            grids = GridWriter(config, workdir, program.network, data, mesh)
        stopped = stack.enter_context(signals())
        stack.enter_context(processes.together(lambda: f"they go on from {_good(checkpoints)}"))
        ledger.book("start")

        for done in range(start + 1, last + 1):
            with ledger.on("data"):
                batch = meshes.global_batch(next(feed), mesh)
            with ledger.on("compile" if done == start + 1 else "step"):
                state, metrics = program.step(state, batch)
            journal.add(metrics)
            # Looked at once a step: a signal may come at any line.
            stopping = stopped[0] if stopped else processes.preempted(done) and signal.SIGTERM
            saving = done % every.checkpoint_every == 0 or done == last or stopping
            if saving or done % every.log_every == 0:
                _write_row(journal, checkpoints)
            if saving:
                with ledger.on("checkpoint"):
                    checkpoints.save(state, batch_size=every.batch_size)
            if stopping:
                checkpoints.wait()
                raise StoppedError(
                    f"stopped by {stopping.name}; step {done} is saved: {checkpoints.path(done)}",
                    stopping,
                )
            if grids and every.sample_every and (done % every.sample_every == 0 or done == last):
                with ledger.on("sample"):
                    grids.write(done, state.ema[0])
                journal.restart_clock()
        checkpoints.wait()


def stream(config: ConfigDict, data: Dataset, start: int) -> Any:
    """This process' part of the batches from the given step on."""
    return batches(
        data,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        start=start,
        flip=config.data.flip,
        skip_bad=config.data.skip_bad,
        workers=config.data.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _identity(description: Description, data: Dataset) -> list[Any]:
    """What all processes must have in common."""
    flat = recipe.flatten(description.config)
    own = {"data.dir", "data.workers"}
    return [{k: v for k, v in flat.items() if k not in own}, *description[1:], len(data.source)]


def _write_row(journal: Journal, checkpoints: Checkpoints) -> None:
    """Closes a window of metrics; where a loss was not finite, says which checkpoint is good."""
    try:
        journal.write_row()
    except NonFiniteLossError as error:
        checkpoints.wait()
        raise NonFiniteLossError(
            f"{error}; the last good checkpoint is {_good(checkpoints)}"
        ) from None


def _good(checkpoints: Checkpoints) -> str:
    latest = checkpoints.latest()
    return "none, the beginning" if latest is None else str(checkpoints.path(latest))


@contextlib.contextmanager
def signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGINT and SIGTERM instead of dying of them; a second one acts as it always did.

    Of several processes none may stop alone: there SIGTERM is left to JAX, which has all of them
    agree on a step (`processes.preempted`), and SIGINT ends the process.
    """
    received: list[signal.Signals] = []
    caught = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
    before = {number: signal.getsignal(number) for number in caught}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def collect(number, _frame):
        received.append(signal.Signals(number))
        restore()

    for number in before:
        signal.signal(number, collect)
    try:
        yield received
    finally:
        restore()
