"""The command `train`: from a recipe to checkpoints."""

import shlex
import signal
import sys

from absl import flags

from cfg_jax import recipe
from cfg_jax.cli import FailedError, flagging, say
from cfg_jax.data.pipeline import LostWorkerError
from cfg_jax.runtime import processes
from cfg_jax.runtime.checkpoints import CheckpointError
from cfg_jax.training.feed import StalledDataError
from cfg_jax.training.loop import StoppedError, train
from cfg_jax.training.replay import replay, table
from cfg_jax.training.window import NonFiniteLossError

PURPOSE = """Trains a guided diffusion model, or a noisy classifier to guide one with, by a recipe.
The same command goes on with a run that was stopped. Writes checkpoints, metrics.jsonl and grids of
samples into the work directory."""


def run(argv: list[str]) -> None:
    """Parses the arguments and trains."""
    defined = flags.FlagValues()
    flagging.define_config(defined)
    flags.DEFINE_string("workdir", None, "where the run is kept", flag_values=defined)
    flags.DEFINE_string(
        "init",
        None,
        "begin with the network of this run, DIRECTORY or DIRECTORY:STEP; short for "
        "--config.train.init",
        flag_values=defined,
    )
    flags.DEFINE_integer(
        "replay-step", None, "look into this step's batch instead of training", flag_values=defined
    )
    flagging.define_processes(defined)
    values = flagging.parse(defined, "train", PURPOSE, argv)
    config = flagging.config(values)
    if values["init"] is not None:
        recipe.override(config, "train.init", values["init"])
    workdir = flagging.path(values, "workdir")
    flagging.start_processes(values, "train")
    try:
        if values["replay-step"] is not None:
            say(table(replay(config, workdir, values["replay-step"])))
        else:
            train(config, workdir)
    except StoppedError as stopped:
        told = f"{stopped}; go on with: python -m cfg_jax train {shlex.join(argv)}"
        if stopped.signal != signal.SIGTERM:
            raise FailedError(told, 128 + stopped.signal) from None
        if processes.is_first():
            say(told)
        sys.exit(0)
    except (NonFiniteLossError, StalledDataError, LostWorkerError, CheckpointError) as error:
        raise FailedError(str(error)) from None
