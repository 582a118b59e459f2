"""The command `export`: a trained model as one .safetensors file."""

from pathlib import Path

from absl import flags

from cfg_jax.cli import flagging
from cfg_jax.exchange import export
from cfg_jax.run import load, load_noisy_classifier
from cfg_jax.training.workdir import describe

PURPOSE = """Writes a trained model's parameters, and the recipe they belong to, to one .safetensors
file. `import --from cfg-jax` makes a run of it again."""


def run(argv: list[str]) -> None:
    """Parses the arguments and writes the file."""
    defined = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "the run", flag_values=defined)
    flags.DEFINE_integer(
        "step", None, "its checkpoint; the newest if not given", flag_values=defined
    )
    flags.DEFINE_float(
        "ema", None, "which moving average; the first if not given", flag_values=defined
    )
    flags.DEFINE_string(
        "out", None, "the file to write, ending in .safetensors", flag_values=defined
    )
    values = flagging.parse(defined, "export", PURPOSE, argv)
    out = Path(flagging.required(values, "out"))
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got {out}")
    workdir = Path(flagging.required(values, "workdir"))
    kinds = {"diffusion": load, "classifier": load_noisy_classifier}
    source = kinds[describe(workdir).config.objective](
        workdir, step=values["step"], ema=values["ema"]
    )
    export(source, out)
    print(f"{source.workdir}, step {source.step}: {out}")
