"""The default recipe: digits with labels, a U-Net, the denoising error on ε, Adam."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cfg_jax.recipe.blocks import plain_block
from cfg_jax.recipe.nodes import group, node
from cfg_jax.recipe.slots import CHILDREN, SLOTS

NAMES = (
    "data",
    "network",
    "codec",
    "condition",
    "schedule",
    "objective",
    "optimiser",
    "averages",
    "guidance",
    "sample",
    "train",
    "mesh",
)
"""What a recipe consists of, in the order in which it is told."""


def default() -> ConfigDict:
    """A whole recipe; a recipe changes what it needs to.

    Returns:
      A locked config: setting a field that does not exist raises AttributeError, but entries may be
      added to `condition` and `averages`, and removed.

    >>> from cfg_jax import recipe
    >>> config = recipe.default()
    >>> config.network.channels = 32
    >>> config.sample.solver = recipe.node("Heun")
    """
    label = _node("conditioner", "Label", p_uncond=0.1)
    average = _node("average", "Constant", decay=0.9999)
    return whole(
        {
            "data": _node("data", "Digits"),
            "network": _node("network", "UNet"),
            "codec": _node("codec", "Pixels"),
            "condition": group({"label": label}),
            "schedule": _node("schedule", "Cosine", logsnr_min=-20.0, logsnr_max=20.0),
            "objective": _node("objective", "Denoising", target="eps"),
            "optimiser": _node("optimiser", "Adam", learning_rate=1e-4),
            "averages": group({"ema": average}),
            "guidance": _node("guidance", "ClassifierFree"),
            "sample": plain_block("sample", clip=_node("clip", "Static")),
            "train": plain_block("train"),
            "mesh": plain_block("mesh"),
        }
    )


def whole(entries: Mapping[str, Any]) -> ConfigDict:
    """A recipe of all its parts, locked but for the groups whose entries have any names."""
    config = group({name: entries[name] for name in NAMES})
    for name in CHILDREN:
        config[name].unlock()
        for entry in config[name].values():
            if isinstance(entry, ConfigDict):
                entry.lock()
    return config


def _node(slot: str, name: str, **fields: Any) -> ConfigDict:
    return node(SLOTS[slot].find(name, slot), **fields)
