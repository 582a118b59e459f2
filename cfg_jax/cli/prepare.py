"""The command `prepare`: makes a data set ready, once, before a run needs it."""

from absl import flags

from cfg_jax import recipe
from cfg_jax.cli import flagging, say
from cfg_jax.data.media import medium

PURPOSE = """Prepares the data set of a recipe: reads every example once and stores it in
the form that training reads. `train` does the same by itself; this is for doing it beforehand."""


def run(argv: list[str]) -> None:
    """Parses the arguments and prepares both splits."""
    defined = flags.FlagValues()
    flagging.define_config(defined)
    values = flagging.parse(defined, "prepare", PURPOSE, argv)
    config = flagging.config(values)
    recipe.check(config)
    source = recipe.make(config.data, "data", path="config.data")
    lines = []
    for split in ("train", "test"):
        data = source.open(split)
        lines.append(
            f"{split}: {len(data.source)} {medium(data.facts).noun}s of "
            f"{'×'.join(map(str, data.shape))}, {data.num_classes} classes"
        )
    say("\n".join(lines))
