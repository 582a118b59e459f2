"""Whether a recipe is whole: every field checked, before any data are opened."""

import keyword
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from cfg_jax.recipe import nodes, slots
from cfg_jax.recipe.blocks import BLOCKS, block
from cfg_jax.recipe.nodes import KIND
from cfg_jax.recipe.places import Place, top
from cfg_jax.recipe.signature import MISSING, told
from cfg_jax.recipe.slots import FACTS
from cfg_jax.sampling.defaults import default_solver


def check(config: ConfigDict) -> None:
    """Makes what a recipe names, but for what only the data can tell.

    Raises:
      ValueError: A field is unknown, missing, out of range or of another type, or a kind does not
        exist or fit its slot: one line that begins with the field's path.
    """
    if not isinstance(config, ConfigDict):
        raise ValueError(f"config must be a recipe, such as recipe.default(), got {told(config)}")
    parts = top(config)
    check_names(config, parts)
    blocks = {name: block(config, name) for name in BLOCKS}
    facts = {"train_steps": blocks["train"].steps}
    facts["schedule"] = nodes.make(config.schedule, "schedule", "config.schedule", **facts)
    made = {}
    for name, place in parts.items():
        if place.children is not None:
            _check_entries(place, facts)
        elif place.slot is not None:
            made[name] = _try(place, facts)
    check_reading(made["guidance"], config.guidance[KIND], blocks["sample"])


def check_reading(guidance: Any, name: str, sample: Any) -> None:
    """Raises ValueError where guidance says in ε̂ what the solver does not read.

    Args:
      guidance: The method.
      name: What the recipe calls it.
      sample: The recipe's block of this name.
    """
    solver = sample.solver or default_solver(sample.steps)
    if getattr(guidance, "needs_eps", False) and not getattr(solver, "reads_eps", True):
        kinds = slots.SLOTS["solver"].kinds.items()
        readers = [reader for reader, kind in kinds if getattr(kind, "reads_eps", True)]
        raise ValueError(
            f"config.sample.solver must read ε̂ for {name} guidance, as {', '.join(readers)} do; "
            f"got {type(solver).__name__}"
        )


def check_names(config: ConfigDict | dict[str, Any], known: Collection[str]) -> None:
    """Raises ValueError unless a recipe consists of the known parts."""
    for name in config:
        if name not in known:
            raise ValueError(f"config.{name} is no part of a recipe{slots.near(name, known)}")
    for name in known:
        if name not in config:
            raise ValueError(f"config.{name} is missing")


def _check_entries(place: Place, facts: dict[str, Any]) -> None:
    path = f"config.{place.path}"
    if not isinstance(place.value, ConfigDict):
        raise ValueError(f"{path} must be a group of nodes, got {told(place.value)}")
    if place.name == "averages" and not place.value:
        raise ValueError(f"{path} must name one average at least, such as ema=Constant")
    for name, entry in place.inside().items():
        if entry.value is None:
            continue  # taken out
        if not name.isidentifier() or keyword.iskeyword(name) or name == KIND:
            raise ValueError(f"{path}: {told(name)} cannot be the name of an entry")
        _try(entry, facts)


def _try(place: Place, facts: dict[str, Any]) -> Any:
    """The object; None where it needs what only the data can tell."""
    path = f"config.{place.path}"
    assert place.slot is not None
    kind = nodes.kind_of(place.value, place.slot, path)
    known = slots.fields(kind)
    unknown = [n for n in FACTS if n in known and n not in facts and place.value.get(n) is None]
    waiting = [name for name in unknown if known[name].default is MISSING]
    fields = {name: value for name, value in place.value.items() if name != KIND}
    given = nodes.arguments(kind, fields, path, **(dict.fromkeys(waiting) | facts))
    if waiting or place.slot.foreign(kind):
        return None
    return nodes.built(place.slot, kind, given, path)
