"""The command `prepare`: makes a data set ready, once, before a run needs it."""

from absl import flags

from cfg_jax.cli import flagging
from cfg_jax.data import open_dataset

PURPOSE = """Prepares the data set of a recipe: reads every image once and stores it, resized, in
the form that training reads. `train` does the same by itself; this is for doing it beforehand."""


def run(argv: list[str]) -> None:
    """Parses the arguments and prepares both splits."""
    defined = flags.FlagValues()
    flagging.define_config(defined, argv)
    values = flagging.parse(defined, "prepare", PURPOSE, argv)
    config = flagging.config(values)
    for split in ("train", "test"):
        data = open_dataset(config.data, split=split)
        height, width, channels = data.shape
        print(
            f"{split}: {len(data.source)} images of {height}×{width}×{channels}, "
            f"{data.num_classes} classes"
        )
