"""Which values fit which types."""

import math
from typing import Any, Literal

import numpy as np
import pytest

from cfg_jax.recipe import values
from cfg_jax.recipe.signature import MISSING, Field


@pytest.mark.parametrize(
    ("hint", "allowed", "refused"),
    [
        (int, (0, -3, 2**63 - 1), (True, 1.0, "1", None, 2**63, -(2**63) - 1)),
        (float, (0, 0.5, math.inf), (True, math.nan, "1", None, 10**400)),
        (bool, (True, False), (0, 1, "True", None)),
        (str, ("", "x"), (1, None, ("x",))),
        (float | None, (None, 1.0), ("x", True)),
        (tuple[int, ...], ((), (1, 2), [1]), (1, "12", (1.5,), (True,), None)),
        (tuple[tuple[str, Any], ...], ((("a", 1), ("b", ())),), (True, ((1, "a"),))),
        (tuple[int, str], ((1, "a"),), ((1,), ("a", 1), (1, "a", 2))),
        (tuple[tuple[str, int], ...], ((("a", 1),),), (("a", 1),)),
        (tuple, ((), (1, ("a",))), (1, (object(),))),
        (Literal["a", 1], ("a", 1), ("b", 2)),
        (
            Any,
            (None, 1, "x", (1, ("a",)), {"a": (1,)}),
            (object(), math.nan, {"a": print}, {"kind": "x"}, {1: 2}, (print,)),
        ),
    ],
)
def test_what_fits(hint, allowed, refused):
    assert all(values.fits(value, hint) for value in allowed)
    assert not any(values.fits(value, hint) for value in refused)
    for value in refused:
        with pytest.raises(ValueError, match=r"^there must be "):
            values.check("there", value, hint)


def test_numbers_that_are_too_large_are_called_so():
    for hint, value in ((int, 10**22), (int | None, -(10**22)), (float, 10**400)):
        with pytest.raises(ValueError, match=r"must be a (whole )?number.* that 64 bits can hold"):
            values.check("there", value, hint)


@pytest.mark.parametrize(
    ("default", "hint", "want"),
    [
        (0.5, float, float),
        (0.5, Any, float),
        (0.5, "ArrayLike", float),
        (0.5, float | None, float | None),
        (0.5, complex | object | None, float | None),
        (None, float | None, float | None),
        (None, Any, Any),
        (None, int, int | None),
        (MISSING, int, int),
        (MISSING, Any, Any),
        ((1, 2), Any, tuple[int, ...]),
        ((("a", "b"),), Any, tuple[tuple[str, ...], ...]),
        ((), Any, tuple),
        ((1, "a"), Any, tuple),
        (print, Any, Any),
    ],
)
def test_the_type_is_the_annotations_or_the_defaults(default, hint, want):
    assert values.expected(Field("x", default, hint)) == want


def test_lists_become_tuples():
    assert values.converted([1, [2, 3]], Any) == (1, (2, 3))
    made = values.converted([1, 2], tuple[float, ...])
    assert [type(entry) for entry in made] == [float, float]


@pytest.mark.parametrize(
    ("value", "hint", "plain"),
    [(np.int64(8), int, 8), (np.float32(0.5), float, 0.5), (np.bool_(True), bool, True)],
)
def test_scalars_of_numpy_are_plain_values(value, hint, plain):
    found = values.check("config.x", value, hint)
    assert (type(found), found) == (type(plain), plain)
    with pytest.raises(ValueError, match=r"config\.x must be text, got"):
        values.check("config.x", value, str)
