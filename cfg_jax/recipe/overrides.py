"""Fields of a recipe changed by text, as flags give it."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from cfg_jax.recipe import values
from cfg_jax.recipe.nodes import KIND, group, is_node, node
from cfg_jax.recipe.places import Place, locate
from cfg_jax.recipe.slots import CHILDREN, SLOTS

_NONE = ("None", "none")


def override(config: ConfigDict, path: str, text: str) -> None:
    """Changes one field of a recipe.

    Where a kind stands, the text names one, which begins with its own defaults: "Heun", or
    "my.module:Name". Elsewhere it is a Python literal; text stands for itself. `condition.NAME` and
    `averages.NAME` may be new; None removes them. None also unsets a field whose default it is.

    Args:
      config: The recipe, changed in place.
      path: The field: "sample.solver", "sample.solver.gamma", "condition.label".
      text: Its new value.

    Raises:
      ValueError: There is no such field or kind, or the value is none that the field may have.

    >>> from cfg_jax import recipe
    >>> config = recipe.default()
    >>> recipe.override(config, "sample.solver", "Heun")
    >>> recipe.override(config, "sample.solver.gamma", "0.1")
    >>> config.sample.solver.kind, config.sample.solver.gamma
    ('Heun', 0.1)
    """
    place = locate(config, path.removesuffix(f".{KIND}"))
    if place.slot is not None:
        _set_kind(place, text)
    elif place.field is not None:
        hint = values.expected(place.field)
        value = values.parse(f"config.{place.path}", text, hint)
        _set(place, group(value) if isinstance(value, dict) else value)
    else:
        inside = ", ".join(each.path for each in place.inside().values())
        raise ValueError(
            f"config.{path} is a group of fields{f': {inside}' if inside else ''}; set one of them"
        )


def override_all(config: ConfigDict, given: Iterable[tuple[str, str]]) -> None:
    """Changes fields of a recipe, (path, text) each; kinds before fields, whatever their order.

    Raises:
      ValueError: As of `override`.
    """
    for path, text in sorted(given, key=lambda pair: _turn(pair[0])):
        override(config, path, text)


def _turn(path: str) -> tuple[bool, int]:
    """What sorts kinds before fields, and outer kinds before inner ones."""
    parts = path.removesuffix(f".{KIND}").split(".")
    names_kind = parts[-1] in SLOTS or (len(parts) == 2 and parts[0] in CHILDREN)
    return not names_kind, len(parts)


def _set_kind(place: Place, text: str) -> None:
    assert place.slot is not None
    path = f"config.{place.path}"
    if text not in _NONE:
        _set(place, node(place.slot.find(text, path)))
    elif place.field is None and place.path != place.name:  # an entry of a group
        if place.name not in place.parent:
            raise ValueError(f"{path} cannot be removed: there is none")
        del place.parent[place.name]
    elif place.is_optional:
        _set(place, None)
    else:
        place.slot.find(text, path)


def _set(place: Place, value: object) -> None:
    if place.name in place.parent:
        place.parent[place.name] = value
    else:
        with place.parent.unlocked():
            place.parent[place.name] = value
            if is_node(value):
                place.parent[place.name].lock()
