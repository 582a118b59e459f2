"""The training loop: one story, from a config and a work directory to a trained network."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cfg_jax import conditions, recipe
from cfg_jax.blueprint import Blueprint
from cfg_jax.data import Dataset, batches
from cfg_jax.recipe.claims import claim
from cfg_jax.recipe.description import Description, flatten
from cfg_jax.runtime import failures, locks, processes
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.runtime.notes import note
from cfg_jax.training.beginning import beginning, kept, origin
from cfg_jax.training.feed import Feed
from cfg_jax.training.grids import GridWriter
from cfg_jax.training.journal import Journal
from cfg_jax.training.ledger import Ledger
from cfg_jax.training.program import Program, build
from cfg_jax.training.state import State
from cfg_jax.training.window import NonFiniteLossError


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
      NonFiniteLossError: Loss or gradient was not finite more often than the recipe allows.
      StalledDataError: No batch came for too long.
      StoppedError: SIGINT or SIGTERM came; a checkpoint was saved.
    """
    ledger = Ledger()
    data, program = _opened(config, workdir)
    every, last = config.train, config.train.steps
    # Mistakes show before the directory is made.
    named = origin(config, workdir)
    grids = GridWriter(config, workdir, program, data) if every.sample_every else None

    with contextlib.ExitStack() as stack:
        stack.enter_context(locks.alone(workdir))
        processes.by_first(lambda: claim(workdir, described(config, data, program)))
        checkpoints = Checkpoints(workdir, keep=every.keep, keep_every=every.keep_every)
        stack.enter_context(checkpoints)
        stopped = stack.enter_context(signals())
        checkpoints.save_frozen(program.frozen._asdict())
        start, state = _resumed(program, checkpoints, grids, config)
        if start >= last:
            note(f"{workdir} is trained already, to step {start}")
            return
        _announce(program)
        state = beginning(config, program, named) if state is None else state
        feed = stack.enter_context(
            contextlib.closing(_feed(config, data, program.blueprint, start))
        )
        journal = stack.enter_context(Journal(config, workdir, ledger, step=start))
        frozen = jax.device_put(program.frozen, meshes.replicated(program.mesh))
        stack.enter_context(processes.together(lambda: f"they go on from {_good(checkpoints)}"))
        ledger.book("start")
        if stopped:
            _stop(stopped[0], checkpoints, start)
        for done in range(start + 1, last + 1):
            with journal.on("data"):
                batch = meshes.global_batch(next(feed), program.mesh)
            with journal.on("compile" if done == start + 1 else "step"):
                state, metrics = program.step(state, frozen, batch)
            journal.add(metrics)
            stopping = stopped[0] if stopped else processes.preempted(done) and signal.SIGTERM
            saving = done % every.checkpoint_every == 0 or done == last or stopping
            if saving or done % every.log_every == 0:
                _write_row(journal, checkpoints)
            if saving:
                with journal.on("checkpoint"):
                    checkpoints.save(state, batch_size=every.batch_size)
            if stopping:
                _stop(stopping, checkpoints, done)
            if grids and (done % every.sample_every == 0 or done == last):
                with journal.on("sample"):
                    grids.write(done, state.ema[0])
                journal.restart_clock()
        checkpoints.wait()


def _opened(config: ConfigDict, workdir: Path) -> tuple[Dataset, Program]:
    """The data of a recipe and what it compiles to, alike in all processes."""
    recipe.check(config)
    data = recipe.make(config.data, "data", path="config.data").open("train")
    program = build(config, data.facts, frozen=kept(config, workdir), data=data)
    processes.agree("recipes or data", _identity(config, data))
    return data, program


def _announce(program: Program) -> None:
    """Says how large that is which training begins with."""
    trained, frozen = (
        sum(leaf.size for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact))
        for tree in (program.state.params, program.frozen)
    )
    beside = f" beside {frozen:,} frozen ones" if frozen else ""
    devices = f"{program.mesh.size} device{'s' if program.mesh.size > 1 else ''}"
    note(f"training {trained:,} parameters{beside} on {devices}")


def _feed(config: ConfigDict, data: Dataset, plan: Blueprint, start: int) -> Feed:
    return Feed(stream(config, data, plan, start), timeout=config.train.data_timeout, report=note)


def _resumed(
    program: Program, checkpoints: Checkpoints, grids: GridWriter | None, config: ConfigDict
) -> tuple[int, State | None]:
    """The newest good step and its state; a page that the run ended before is drawn."""
    start, state = checkpoints.restore_newest(program.state, report=note) or (0, None)
    every, last = config.train.sample_every, config.train.steps
    if grids and state is not None and (start % every == 0 or start >= last):
        grids.complete(start, state.ema[0])
    return start, state


def _stop(received: signal.Signals, checkpoints: Checkpoints, step: int) -> None:
    """Raises StoppedError, with the step on disk."""
    checkpoints.wait()
    saved = f"step {step} is saved: {checkpoints.path(step)}" if step else "no step was made yet"
    raise failures.agreed(StoppedError(f"stopped by {received.name}; {saved}", received))


def stream(config: ConfigDict, data: Dataset, plan: Blueprint, start: int) -> Any:
    """This process' part of the batches from the given step on, texts as conditioners take them."""
    if hasattr(plan.codec, "attached"):
        data = plan.codec.attached(plan.frozen.codec, data)
    read = batches(
        data,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        start=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    if not data.texts:
        return read
    return conditions.tokenised(plan.conditioners, plan.frozen.condition, read, data.texts)


def described(config: ConfigDict, data: Dataset, program: Program) -> Description:
    """What a work directory is told of its run."""
    return Description(config, data.facts, data.fingerprint, program.mesh.size)


def _identity(config: ConfigDict, data: Dataset) -> list[Any]:
    """What all processes must have in common."""
    flat = flatten(config)
    own = {"data.dir", "data.workers"}
    shared = {name: value for name, value in flat.items() if name not in own}
    return [shared, data.shape, data.class_names, len(data.source)]


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
    """Collects SIGINT, SIGTERM and SIGHUP instead of dying of them; a second Ctrl-C ends at once.

    An exception in the middle of compiling, as Ctrl-C raises one, would break XLA's threads; a
    signal may come at any line, and is looked at once a step. SIGHUP, which comes when a terminal
    is closed, stays ignored where `nohup` has it ignored.

    Of several processes none may stop alone: there SIGTERM is left to JAX, which has all of them
    agree on a step (`processes.preempted`), and the others end the process.
    """
    received: list[signal.Signals] = []
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if jax.process_count() == 1 else ()
    before = {number: signal.getsignal(number) for number in caught}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

    def collect(number, _frame):
        received.append(signal.Signals(number))
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in before:
        signal.signal(number, collect)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
