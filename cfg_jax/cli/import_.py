"""The command `import`: a run made of weights that were trained elsewhere."""

from absl import flags

from cfg_jax import exchange
from cfg_jax.cli import FailedError, flagging, say
from cfg_jax.interop.guided_diffusion import ARCHITECTURES
from cfg_jax.runtime.checkpoints import CheckpointError

PURPOSE = """Makes a run of weights that were trained elsewhere, for `sample` and `evaluate`.
Nothing in a file is ever executed; kinds of your own that it names are imported from the Python
path and the current directory."""

SOURCES = ("guided-diffusion", "cfg-jax")


def run(argv: list[str]) -> None:
    """Parses the arguments, reads the weights and writes the run."""
    defined = flags.FlagValues()
    flags.DEFINE_string(
        "from",
        None,
        "whose weights: guided-diffusion, a .pt file; or cfg-jax, a .safetensors file of `export`",
        flag_values=defined,
    )
    flags.DEFINE_string(
        "arch",
        None,
        f"of guided-diffusion: the published network, one of {', '.join(ARCHITECTURES)}",
        flag_values=defined,
    )
    flags.DEFINE_string("workdir", None, "the run to make", flag_values=defined)
    values = flagging.parse(defined, "import", PURPOSE, argv, operand="FILE")
    source, path = flagging.required(values, "from"), flagging.expanded(values["FILE"], "FILE")
    if source not in SOURCES:
        raise ValueError(f"--from must be one of {', '.join(SOURCES)}; got {source!r}")
    workdir = flagging.path(values, "workdir")
    name = values["arch"]
    if source == "cfg-jax" and name is not None:
        raise ValueError("--arch belongs to --from guided-diffusion")
    try:
        if source == "cfg-jax":
            exchange.import_run(path, workdir)
        else:
            name = flagging.required(values, "arch")
            exchange.import_guided_diffusion(path, name, workdir)
    except CheckpointError as error:
        raise FailedError(str(error)) from None
    say(f"{path}{', ' + name if name else ''}: {workdir}")
