"""The command `export`: a trained model as one .safetensors file."""

from absl import flags

from cfg_jax.cli import flagging, say
from cfg_jax.cli.models import average
from cfg_jax.exchange import export
from cfg_jax.run import load_run

PURPOSE = """Writes a trained model's parameters, and the recipe they belong to, to one .safetensors
file, which `cfg_jax.load` reads. `import --from cfg-jax` makes a run of it again."""


def run(argv: list[str]) -> None:
    """Parses the arguments and writes the file."""
    defined = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "the run", flag_values=defined)
    flags.DEFINE_integer(
        "step", None, "its checkpoint; the newest if not given", flag_values=defined
    )
    flags.DEFINE_string(
        "ema", None, "which moving average; the first if not given", flag_values=defined
    )
    flags.DEFINE_string(
        "out", None, "the file to write, ending in .safetensors", flag_values=defined
    )
    values = flagging.parse(defined, "export", PURPOSE, argv)
    out = flagging.written(values, "out", ".safetensors")
    workdir = flagging.path(values, "workdir")
    source = load_run(workdir, step=values["step"], ema=average(values["ema"]))
    flagging.folder_of(out)
    export(source, out)
    say(f"{source.workdir}, step {source.step}: {out}")
