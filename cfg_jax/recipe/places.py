"""The places of a recipe: where each of its fields stands, and what may stand there."""

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from cfg_jax.recipe import signature, slots
from cfg_jax.recipe.blocks import BLOCKS
from cfg_jax.recipe.defaults import NAMES
from cfg_jax.recipe.nodes import KIND, is_node
from cfg_jax.recipe.signature import Field
from cfg_jax.recipe.slots import CHILDREN, SLOTS, Slot


@dataclasses.dataclass(frozen=True)
class Place:
    """One place of a recipe.

    Attributes:
      parent: The group or node that it is in.
      name: Its name there.
      path: Where it stands, "sample.solver.gamma".
      slot: The slot, where a node stands there.
      field: The field of a kind or block that it is; None for the recipe's own parts.
      owner: The kind or block whose field it is.
      children: The slot of its entries, where they have any names.
    """

    parent: ConfigDict
    name: str
    path: str
    slot: Slot | None = None
    field: Field | None = None
    owner: Any = None
    children: Slot | None = None

    @property
    def value(self) -> Any:
        """What stands there; None where it is left out."""
        return self.parent.get(self.name)

    @property
    def is_optional(self) -> bool:
        """Whether None may stand there."""
        return self.field is not None and self.field.default is None

    @property
    def meaning(self) -> str:
        """What its kind's docstring says of it, or what the kind in it is."""
        if self.field is not None and not is_node(self.value):
            return signature.meanings(self.owner).get(self.name, "")
        return signature.summary(self.kind) if self.slot and is_node(self.value) else ""

    @property
    def kind(self) -> Any:
        """The kind of the node that stands there."""
        assert self.slot is not None
        return self.slot.find(self.value[KIND], f"config.{self.path}")

    def inside(self) -> dict[str, "Place"]:
        """The places within it, those left out of a node among them."""
        value = self.value
        if self.children is not None:
            return {name: self.child(name) for name in value}
        if self.slot is not None and is_node(value):
            return self._fields(self.kind)
        return self._fields(BLOCKS[self.path]) if self.path in BLOCKS else {}

    def child(self, name: str) -> "Place":
        """The place of an entry, there or not."""
        return Place(self.value, name, f"{self.path}.{name}", slot=self.children)

    def _fields(self, owner: Any) -> dict[str, "Place"]:
        return {
            name: Place(self.value, name, f"{self.path}.{name}", slots.slot_of(field), field, owner)
            for name, field in slots.fields(owner).items()
        }


def top(config: ConfigDict) -> dict[str, Place]:
    """The parts of a recipe."""
    return {
        name: Place(
            config,
            name,
            name,
            slot=SLOTS.get(name) if name not in CHILDREN else None,
            children=SLOTS[CHILDREN[name]] if name in CHILDREN else None,
        )
        for name in NAMES
    }


def walk(config: ConfigDict) -> Iterator[Place]:
    """Every place of a recipe, each before those within it."""
    waiting = list(top(config).values())
    while waiting:
        place = waiting.pop(0)
        yield place
        waiting[:0] = place.inside().values()


def locate(config: ConfigDict, path: str) -> Place:
    """The place at a path, "sample.solver.gamma"; a new entry of `condition` or `averages`, too.

    Raises:
      ValueError: There is none; what may have been meant is named.
    """
    places, last = top(config), None
    for name in path.split("."):
        place = places.get(name)
        if place is None and last is not None and last.children is not None and name.isidentifier():
            place = last.child(name)
        if place is None:
            raise ValueError(_unknown(config, path, last))
        places, last = place.inside(), place
    assert last is not None
    return last


def _unknown(config: ConfigDict, path: str, last: Place | None) -> str:
    if last is not None and last.slot is not None and last.value is None:
        return (
            f"there is no config field {path!r}: config.{last.path} is None; name "
            f"{last.slot.what} first, such as config.{last.path}={next(iter(last.slot.kinds))}"
        )
    close = difflib.get_close_matches(path, [place.path for place in walk(config)], n=1)
    meant = f"did you mean {close[0]}?" if close else "--help lists them"
    return f"there is no config field {path!r}; {meant}"
