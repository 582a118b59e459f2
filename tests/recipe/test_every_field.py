"""Every field of every registered kind, with values that it cannot have."""

import math

import pytest

from cfg_jax import recipe
from cfg_jax.recipe import slots, values
from cfg_jax.recipe.signature import MISSING, meanings

ODD = (
    *(None, True, 0, -1, 10**30, -(10**6), 1.5, -0.5, math.nan, math.inf, -math.inf),
    *("x", "", "\n", (), (1,), ("x",), (math.nan,), ((1,),), {}, {"kind": 3}, {"kind": "x"}),
)
FIELDS = [
    (slot.name, name, field)
    for slot in slots.SLOTS.values()
    for name, kind in slot.kinds.items()
    for field in slots.fields(kind)
]


@pytest.mark.parametrize(("slot", "name", "field"), FIELDS)
def test_odd_values_are_taken_or_refused_in_one_line(slot, name, field):
    """Those that are of another type are refused."""
    kind = slots.SLOTS[slot].kinds[name]
    known = slots.fields(kind)
    node = dict(recipe.node(kind).items())
    required = [n for n, f in known.items() if f.default is MISSING and n not in slots.FACTS]
    for value in ODD:
        is_wrong = slots.slot_of(known[field]) is None and not values.fits(
            value, values.expected(known[field])
        )
        is_open = value is None and field in slots.FACTS
        try:
            recipe.make(node | {field: value}, slot, "config.here", train_steps=10)
        except ValueError as error:
            message = str(error)
            assert message.startswith("config.here")
            assert "\n" not in message
            assert len(message) < 500
        else:
            assert not is_wrong or is_open, f"{value!r} is taken"
            assert not set(required) - {field}


@pytest.mark.parametrize(("slot", "name", "field"), FIELDS)
def test_every_field_is_explained(slot, name, field):
    assert meanings(slots.SLOTS[slot].kinds[name]).get(field)
