"""The training loop: one story, from a config and a work directory to a trained network."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from cfg_jax.data import batches, open_dataset
from cfg_jax.training import config as recipe
from cfg_jax.training import mesh as meshes
from cfg_jax.training import state as states
from cfg_jax.training.checkpoints import Checkpoints
from cfg_jax.training.grids import GridWriter
from cfg_jax.training.metrics import MetricsWriter
from cfg_jax.training.step import make_step
from cfg_jax.training.window import NonFiniteLossError, Window
from cfg_jax.training.workdir import Description, claim


class StoppedError(RuntimeError):
    """Training was asked to stop, and did so after saving a checkpoint."""


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains in a work directory, or goes on from the newest checkpoint there.

    Writes `config.json`, `checkpoints/STEP`, `metrics.jsonl` and `samples/STEP.png`.

    Args:
      config: A recipe, see `config.default`.
      workdir: The directory; made if needed.

    Raises:
      ValueError: The config, the data or the work directory do not fit, in one sentence.
      NonFiniteLossError: The loss or gradient was not finite; the last good checkpoint is named.
      StoppedError: SIGINT or SIGTERM came; a checkpoint was saved.
    """
    recipe.check(config)
    mesh = meshes.data_mesh()
    meshes.check_batch_size(config.train.batch_size, mesh)
    data = open_dataset(config.data, split="train")
    network = recipe.network(config, data.num_classes)
    optimizer = recipe.optimizer(config)
    step = make_step(
        network,
        optimizer,
        schedule=recipe.schedule(config),
        p_uncond=config.p_uncond,
        ema=config.train.ema,
        seed=config.train.seed,
    )
    state = jax.jit(
        lambda: states.init(network, optimizer, data.shape, config.train.seed),
        out_shardings=meshes.replicated(mesh),
    )()
    claim(workdir, Description(config, data.shape, data.class_names))
    grids = GridWriter(config, workdir, network, data.shape, mesh)
    every, last = config.train, config.train.steps

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir, keep=every.keep))
        start = checkpoints.latest() or 0
        if start >= last:
            tqdm.write(f"{workdir} is trained already, to step {start}")
            return
        if start:
            state = checkpoints.restore(start, state)
        stream = batches(
            data,
            batch_size=every.batch_size,
            seed=every.seed,
            start=start,
            flip=config.data.flip,
            workers=config.data.workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        stack.callback(stream.close)
        writer = MetricsWriter(workdir, step=start, tensorboard=every.tensorboard)
        window = Window(stack.enter_context(writer), step=start, batch_size=every.batch_size)
        progress = tqdm(total=last, initial=start, desc=f"train {workdir}", unit="step")
        stack.enter_context(progress)
        stopped = stack.enter_context(signals())

        for done in range(start + 1, last + 1):
            batch = meshes.global_batch(next(stream), mesh)
            state, metrics = step(state, batch)
            window.add(metrics)
            stopping = bool(stopped)  # looked at once: a signal may come at any line
            saving = done % every.checkpoint_every == 0 or done == last or stopping
            if saving or done % every.log_every == 0:
                progress.set_postfix(loss=f"{_close(window, checkpoints):.4f}", refresh=False)
            progress.update()
            if saving:
                checkpoints.save(state, batch_size=every.batch_size)
            if stopping:
                checkpoints.wait()
                raise StoppedError(
                    f"stopped by {stopped[0].name}; step {done} is saved: {checkpoints.path(done)}"
                )
            if every.sample_every and (done % every.sample_every == 0 or done == last):
                grids.write(done, state.ema)
                window.restart_clock()
        checkpoints.wait()


def _close(window: Window, checkpoints: Checkpoints) -> float:
    """Closes a window of metrics; where a loss was not finite, says which checkpoint is good."""
    try:
        return window.close()
    except NonFiniteLossError as error:
        checkpoints.wait()
        good = checkpoints.latest()
        kept = (
            f"the last good checkpoint is {checkpoints.path(good)}" if good else "none is saved yet"
        )
        raise NonFiniteLossError(f"{error}; {kept}") from None


@contextlib.contextmanager
def signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGINT and SIGTERM instead of dying of them; a second one acts as it always did."""
    received: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

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
