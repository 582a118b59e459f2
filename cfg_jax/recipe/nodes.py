"""Nodes: a kind and its fields as plain values, and the object that they stand for."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cfg_jax.diffusion import checks
from cfg_jax.recipe import slots, values
from cfg_jax.recipe.signature import KIND, MISSING, Field, plain, told
from cfg_jax.recipe.slots import FACTS, SLOTS, Slot, imported, lookup, near, registered, slot_of


def group(entries: Mapping[str, Any]) -> ConfigDict:
    """A part of a recipe, locked: other fields than these cannot be set.

    Values are checked when objects are made of it, not when they are set.
    """
    made = ConfigDict(type_safe=False, sort_keys=False)
    for name, value in entries.items():
        made[name] = group(value) if isinstance(value, dict) else value
    return made.lock()


def is_node(value: Any) -> bool:
    """Whether a value is a node."""
    return isinstance(value, Mapping | ConfigDict) and isinstance(value.get(KIND), str)


def node(kind: Any, /, **fields: Any) -> ConfigDict:
    """A kind and every field of its signature, as a recipe holds them.

    A field that is not given has its default; one that has none is None until it is set, and so is
    one that is filled in from the data, see `slots.FACTS`. Fields that are no plain values are left
    out: callables, and the None of a function's parameter.

    Args:
      kind: A class, a function, an import path "module:Name", or the name of a registered kind.
      **fields: Its fields: plain values, dtypes, nodes; a kind or its name where a node stands.

    Returns:
      {"kind": NAME, ...}, locked: a field that does not exist cannot be set.

    Raises:
      ValueError: There is no such kind or field, or a value is none that a recipe can hold.

    >>> from cfg_jax import recipe
    >>> from cfg_jax.sampling.grids import Karras
    >>> node = recipe.node(Karras, rho=5.0)
    >>> node.kind, node.rho
    ('Karras', 5.0)
    """
    if isinstance(kind, str):
        kind = _found(kind)
    if not callable(kind):
        raise ValueError(f"kind must be a class, a function or the name of one, got {told(kind)}")
    known = slots.fields(kind)
    for name in fields:
        _check_name(name, kind, known, "")
    written = {KIND: name_of(kind)}
    for name, field in known.items():
        value = _given(field, fields[name], kind) if name in fields else _default(field, kind)
        if value is not MISSING:
            written[name] = value
    return group(written)


def name_of(kind: Any) -> str:
    """How a recipe names a kind: as its registry does, or by the shortest path to import it.

    Raises:
      ValueError: It cannot be imported.

    >>> import optax
    >>> name_of(optax.adam)
    'optax:adam'
    """
    if held := registered(kind):
        return held[0][1]
    name = getattr(kind, "__qualname__", "<none>")
    if "<" in name or not callable(kind):
        raise ValueError(f"{kind!r} cannot be named in a recipe: a kind stands at a module's top")
    parts = kind.__module__.split(".")
    outer = (".".join(parts[:count]) for count in range(1, len(parts)))
    public = (module for module in outer if getattr(sys.modules.get(module), name, None) is kind)
    return f"{next(public, kind.__module__)}:{name}"


def _found(name: str) -> Any:
    """The kind of a name, wherever it is registered, or of an import path."""
    if ":" in name:
        return imported(name, "kind")
    held = {slot.name: lookup(slot.kinds, name) for slot in SLOTS.values()}
    held = {slot: kind for slot, kind in held.items() if kind is not None}
    if not held:
        known = [known for slot in SLOTS.values() for known in slot.kinds]
        raise ValueError(f"there is no kind {name!r}{near(name, known)}")
    if len(set(map(id, held.values()))) > 1:
        raise ValueError(f"{name!r} is {' and '.join(held)} alike: give the class")
    return next(iter(held.values()))


def _check_name(name: str, kind: Any, known: Mapping[str, Any], path: str) -> None:
    if name not in known:
        where = f"{path}.{name}: " if path else ""
        held = registered(kind)
        title = held[0][1] if held else kind.__name__
        raise ValueError(f"{where}{title} has no field {told(name)}{near(name, known)}")


def _default(field: Field, kind: Any) -> Any:
    """A field's default as a recipe holds it; MISSING where it is left out."""
    if field.default is MISSING or (field.name in FACTS and not field.default):
        return None
    if field.default is None and not isinstance(kind, type):
        return MISSING
    return _written(field.default)


def _written(value: Any) -> Any:
    """A value as a recipe holds it: plain, or an object of a registered kind as a node."""
    if (held := plain(value)) is not MISSING:
        return held
    if is_node(value):
        return value if isinstance(value, ConfigDict) else group(value)
    if dataclasses.is_dataclass(value) and registered(type(value)):
        names = slots.fields(type(value))
        return node(type(value), **{name: getattr(value, name) for name in names})
    return MISSING


def _given(field: Field, value: Any, kind: Any) -> Any:
    """A given value as a recipe holds it."""
    slot = slot_of(field)
    if slot is not None and isinstance(value, str):
        return node(slot.find(value, f"{kind.__name__}.{field.name}"))
    if slot is not None and isinstance(value, type):
        return node(value)
    written = _written(value)
    if written is MISSING:
        raise ValueError(
            f"{kind.__name__}.{field.name}: a recipe holds numbers, text, tuples and nodes, "
            f"got {told(value)}"
        )
    return written


def make(node: Any, slot: str | Slot, path: str = "config", **facts: Any) -> Any:
    """The object that a node stands for, its nested nodes first.

    Args:
      node: The node.
      slot: The slot that it is in, or its name.
      path: Where it stands, for messages: "config.sample.solver".
      **facts: What is known beside the recipe. A field that is None and has the name of a fact
        gets it.

    Raises:
      ValueError: There is no such kind or field, it does not fit the slot, or a value is not
        allowed; in one line that begins with the field's path.
    """
    slot = SLOTS[slot] if isinstance(slot, str) else slot
    kind = kind_of(node, slot, path)
    fields = {name: value for name, value in node.items() if name != KIND}
    return built(slot, kind, arguments(kind, fields, path, **facts), path)


def kind_of(node: Any, slot: Slot, path: str) -> Any:
    """The kind that a node names.

    Raises:
      ValueError: It is no node, or the kind does not exist or fit.
    """
    names = list(slot.kinds)[:2]
    if not isinstance(node, Mapping | ConfigDict) or KIND not in node:
        nodes = " or ".join(f"node({name})" for name in names)
        raise ValueError(f"{path} must be {slot.what}, such as {nodes}; got {told(node)}")
    if not isinstance(node[KIND], str):
        raise ValueError(
            f"{path}.{KIND} must name {slot.what}, such as {' or '.join(names)}; "
            f"got {told(node[KIND])}"
        )
    return slot.find(node[KIND], path)


def arguments(kind: Any, fields: Mapping[str, Any], path: str, **facts: Any) -> dict[str, Any]:
    """What a kind is called with: its fields checked, nested nodes made, facts filled in.

    Args:
      kind: The kind.
      fields: Its fields, as a recipe holds them.
      path: Where they stand.
      **facts: As of `make`.

    Raises:
      ValueError: A field does not exist, has to be given, or has a value of another type.
    """
    known = slots.fields(kind)
    for name in fields:
        _check_name(name, kind, known, path)
    found = {}
    for name, field in known.items():
        value, here = fields.get(name, MISSING), f"{path}.{name}"
        if (value is MISSING or value is None) and name in facts:
            found[name] = facts[name]
        elif value is None and name in FACTS and field.default is not MISSING:
            continue
        elif value is not MISSING:
            found[name] = _argument(field, value, here, facts)
        elif field.default is MISSING:
            raise ValueError(f"{here} must be given")
    return found


def _argument(field: Field, value: Any, path: str, facts: dict[str, Any]) -> Any:
    slot = slot_of(field)
    if slot is not None and not (value is None and field.default is None):
        return make(value, slot, path, **facts)
    expected = values.expected(field)
    if value is None and field.default is MISSING and not values.fits(None, expected):
        raise ValueError(f"{path} must be given")
    if value is None and field.default is MISSING and expected is Any:
        raise ValueError(f"{path} must be given")
    return values.check(path, value, expected)


def built(slot: Slot, kind: Any, arguments: dict[str, Any], path: str) -> Any:
    """The object of a kind.

    Raises:
      ValueError: The kind raises an error, which gets the path before it; or what it makes does
        not fit the slot.
    """
    try:
        made = slot.make(kind, arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(located(path, error, arguments)) from error
    except (Exception, SystemExit) as error:  # whatever a kind of the user's raises
        if registered(kind):
            raise
        raised = checks.line(f"{type(error).__name__}: {error}")
        raise ValueError(f"{path}: {name_of(kind)} cannot be made: {raised}") from error
    if not slot.fits(made):
        raise ValueError(f"{path} is {slots.article(type(made).__name__)}, not {slot.what}")
    return made


def located(path: str, error: Exception, fields: Mapping[str, Any]) -> str:
    """An error's message behind the path of the field that it is about.

    >>> located("config.sample.grid", ValueError("rho must be positive, got -1"), {"rho": -1})
    'config.sample.grid.rho must be positive, got -1'
    """
    message = " ".join(str(error).split()) or type(error).__name__
    first = message.split(" ", 1)[0]
    return f"{path}.{message}" if first.rstrip(":") in fields else f"{path}: {message}"
