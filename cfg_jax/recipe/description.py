"""What a work directory says of its run: config.json, written before the first step."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.core import FrozenDict
from ml_collections import ConfigDict, FrozenConfigDict

from cfg_jax.parts import Facts
from cfg_jax.recipe.checks import check_names
from cfg_jax.recipe.defaults import NAMES, whole
from cfg_jax.recipe.nodes import group
from cfg_jax.recipe.origins import check_origins
from cfg_jax.recipe.signature import told
from cfg_jax.recipe.slots import CHILDREN, SLOTS
from cfg_jax.runtime.files import once

FREE = {
    "train.accumulate",
    "train.checkpoint_every",
    "train.data_timeout",
    "train.keep",
    "train.keep_every",
    "train.log_every",
    "train.max_skipped",
    "train.sample_every",
    "train.spike",
    "train.tensorboard",
}
"""Fields that a run may change when it goes on, as they do not change what is trained."""

FREE_PARTS = ("sample.", "guidance.", "mesh.")
"""Parts of which it may change every field."""


class Description(NamedTuple):
    """A run's recipe, and what it learned of its data.

    Attributes:
      config: The recipe.
      facts: Shape, classes and arrays of its data.
      fingerprint: Of the files of its data, see `data.Dataset`; "" where that is not known.
      devices: How many shared a batch when it was last trained; 0 where that is not known.
    """

    config: ConfigDict
    facts: Facts
    fingerprint: str = ""
    devices: int = 0


LARGEST = 2**25
"""Numbers in one example, an array of it: what is noised has as many, attention their square."""

DEEPEST = 16
"""Levels within a recipe, and within a value of it."""


# Recipes as one level of plain values.


def flatten(config: ConfigDict) -> dict[str, Any]:
    """A recipe as one level of plain values: {"train.steps": 1000, "network.kind": "UNet", ...}.

    An empty group is {}.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict) and value:
            flat.update({f"{name}.{inner}": v for inner, v in flatten(value).items()})
        else:
            flat[name] = {} if isinstance(value, Mapping | ConfigDict) else value
    return flat


def unflatten(flat: Mapping[str, Any]) -> ConfigDict:
    """The recipe that `flatten` made one level of; lists, which JSON has, become tuples.

    Raises:
      ValueError: It is no recipe.
    """
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *outer, name = path.split(".")
        if not path.isprintable() or len(outer) >= DEEPEST:
            raise ValueError(f"{told(path)} is no field of a recipe")
        inside = nested
        for part in outer:
            inside = inside.setdefault(part, {})
            if not isinstance(inside, dict):
                raise ValueError(f"{path} is within {part}, which has a value of its own")
        if isinstance(inside.get(name), dict):
            raise ValueError(f"{path} has a value, and fields within it")
        inside[name] = _tuples(path, value)
    check_names(nested, NAMES)
    return whole(nested)


def copied(config: ConfigDict) -> ConfigDict:
    """A recipe that can be changed without changing this one."""
    return unflatten(flatten(config))


def hashable(config: ConfigDict) -> FrozenConfigDict:
    """A recipe that can be hashed and not changed, dictionaries within its tuples neither."""

    def held(value: Any) -> Any:
        if isinstance(value, ConfigDict):
            return group({name: held(inner) for name, inner in value.items()})
        return _in_tuples(value)

    return FrozenConfigDict(held(config))


def _in_tuples(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_in_tuples, value))
    if isinstance(value, dict):
        return FrozenDict({name: _in_tuples(entry) for name, entry in value.items()})
    return value


_ENTRY = "[]"
"""What stands behind the path of an entry of a tuple: dictionaries elsewhere are levels."""


def _tuples(path: str, value: Any) -> Any:
    if path.count(_ENTRY) > DEEPEST:
        raise ValueError(f"{path.partition(_ENTRY)[0]} has more than {DEEPEST} levels")
    if isinstance(value, (list, tuple)):
        return tuple(_tuples(f"{path}{_ENTRY}", entry) for entry in value)
    if isinstance(value, Mapping) and (path.endswith(_ENTRY) or not value):
        return {name: _tuples(f"{path}{_ENTRY}", entry) for name, entry in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{path} is no value of a recipe")


# Two recipes.


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Where two recipes would train different things, a line a field: `name: old -> new`.

    More steps only go on, unless the learning rate's decay is stretched over them.
    """
    before, after = flatten(old), flatten(new)
    free = FREE | _free(new) | ({"train.steps"} if _is_steady(new.optimiser) else set())
    return [
        f"{name}: {_told(before, name)} -> {_told(after, name)}"
        for name in sorted(before.keys() | after.keys())
        if name not in free
        and not name.startswith(FREE_PARTS)
        and (name in before, before.get(name)) != (name in after, after.get(name))
    ]


def _told(flat: Mapping[str, Any], name: str) -> Any:
    return flat.get(name, "nothing")


def _free(config: ConfigDict) -> set[str]:
    """The fields of nodes that their slots let change."""
    found = {
        f"{name}.{field}"
        for name in NAMES
        if name in SLOTS and name not in CHILDREN
        for field in SLOTS[name].may_change
    }
    for name, slot in CHILDREN.items():
        for entry in config[name]:
            found |= {f"{name}.{entry}.{field}" for field in SLOTS[slot].may_change}
    return found


def _is_steady(optimiser: Any) -> bool:
    """Whether an optimiser's course does not depend on where training ends."""
    return "train_steps" not in optimiser or optimiser.get("decay", "") == "constant"


# Files.


def to_json(description: Description) -> str:
    """A description as text."""
    facts = description.facts
    written = {
        "config": flatten(description.config),
        "shape": _shape(facts.shape),
        "class_names": facts.class_names,
        "rate": facts.rate,
        "dtype": facts.dtype,
        "fingerprint": description.fingerprint,
        "devices": description.devices,
        "texts": facts.texts,
        "arrays": {
            name: {"shape": _shape(spec.shape), "dtype": np.dtype(spec.dtype).name}
            for name, spec in facts.arrays.items()
        },
    }
    return json.dumps(written, indent=2)


def from_json(text: str) -> Description:
    """The description that `to_json` wrote.

    Raises:
      ValueError: It is none.
    """
    try:
        written = json.loads(text, object_pairs_hook=once)
        if not isinstance(written, dict):
            raise ValueError(f"it should be an object with a config, got {told(written)}")
        arrays = {str(name): _spec(spec) for name, spec in written["arrays"].items()}
        if not isinstance(written["config"], dict):
            raise ValueError("its config is no recipe")
        facts = Facts(
            _shape(written["shape"]),
            _names("class_names", written["class_names"]),
            arrays,
            _names("texts", written["texts"]),
            _count("rate", written["rate"]),
            _dtype(written["dtype"]).name,
        )
        devices = _count("devices", written["devices"])
        return Description(
            unflatten(written["config"]), facts, str(written["fingerprint"]), devices
        )
    except KeyError as error:
        raise ValueError(f"it has no {error}") from error
    except RecursionError as error:
        raise ValueError("it has too many levels") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"a part of it is of another type than it should be ({error})") from error


def _spec(written: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(_shape(written["shape"]), _dtype(written["dtype"]))


def _count(name: str, given: Any) -> int:
    if not _is_whole(given) or not 0 <= given < 2**31:
        raise ValueError(f"{name} must be a whole number from 0 to 2³¹ - 1, got {told(given)}")
    return given


def _dtype(given: Any) -> np.dtype:
    """The dtype of a name, of real numbers or truth values."""
    dtype = np.dtype(given) if isinstance(given, str) else np.dtype(object)
    if not any(jax.numpy.issubdtype(dtype, kind) for kind in (np.integer, np.floating, np.bool_)):
        raise ValueError(f"{told(given)} is no dtype of real numbers")
    return dtype


def _shape(given: Any) -> tuple[int, ...]:
    sizes = given if isinstance(given, (tuple, list)) else (None,)
    if not all(_is_whole(size) and size > 0 for size in sizes) or math.prod(sizes) > LARGEST:
        raise ValueError(f"{told(given)} is no shape of at most 2²⁵ numbers")
    return tuple(sizes)


def _is_whole(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def describe(workdir: Path) -> Description:
    """Reads what `claim` wrote.

    Raises:
      ValueError: The directory is missing or holds no run, or its kinds stand in the directory
        itself, from which nothing is ever imported.
    """
    if not os.path.isdir(workdir):
        if os.path.exists(workdir):
            raise ValueError(f"{workdir} is a file, and no work directory")
        raise ValueError(f"there is no work directory {workdir}; `train` makes one")
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} holds no run: it has no config.json, which `train` writes")
    try:
        description = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    check_origins(description.config, workdir)
    return description


def _names(field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{field} are no list of names")
    return tuple(value)
