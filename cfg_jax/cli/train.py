"""The command `train`: from a recipe to checkpoints."""

from pathlib import Path

from absl import flags

from cfg_jax.cli import INTERRUPTED, FailedError, flagging
from cfg_jax.training.loop import StoppedError, train
from cfg_jax.training.window import NonFiniteLossError

PURPOSE = """Trains a guided diffusion model by a recipe. The same command goes on with a run that
was stopped. Writes checkpoints, metrics.jsonl and grids of samples into the work directory."""


def run(argv: list[str]) -> None:
    """Parses the arguments and trains."""
    defined = flags.FlagValues()
    flagging.define_config(defined, argv)
    flags.DEFINE_string("workdir", None, "where the run is kept", flag_values=defined)
    values = flagging.parse(defined, "train", PURPOSE, argv)
    config = flagging.config(values)
    try:
        train(config, Path(flagging.required(values, "workdir")))
    except StoppedError as stopped:
        raise FailedError(f"{stopped}; the same command goes on from there", INTERRUPTED) from None
    except NonFiniteLossError as error:
        raise FailedError(str(error)) from None
