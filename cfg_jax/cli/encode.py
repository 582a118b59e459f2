"""The command `encode`: has a recipe's codec encode its data, once, before a run needs them."""

from absl import flags

from cfg_jax import recipe
from cfg_jax.blueprint import blueprint
from cfg_jax.cli import flagging, say

PURPOSE = """Encodes the training data of a recipe by its codec, and keeps what the codec says of
every example in the user's cache, with checksums. `train` does the same by itself; this is for
doing it beforehand. Another codec or other data are encoded anew."""


def run(argv: list[str]) -> None:
    """Parses the arguments and encodes."""
    defined = flags.FlagValues()
    flagging.define_config(defined)
    values = flagging.parse(defined, "encode", PURPOSE, argv)
    config = flagging.config(values)
    recipe.check(config)
    data = recipe.make(config.data, "data", path="config.data").open("train")
    plan = blueprint(config, data.facts, data=data)
    if not hasattr(plan.codec, "kept"):
        kind = type(plan.codec).__name__
        raise ValueError(f"config.codec is {kind}, which has nothing to encode beforehand")
    found = plan.codec.kept(plan.frozen.codec, data)
    sides = "×".join(map(str, plan.shape))
    say(
        f"{len(data.source)} latents of {sides} in {found.folder}\n"
        f"scales from {min(found.scale):.3g} to {max(found.scale):.3g}, "
        f"shifts from {min(found.shift):.3g} to {max(found.shift):.3g}"
    )
