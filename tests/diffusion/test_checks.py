"""Checks of the numbers users type: what is refused, and that traced values pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.precision import enable_x64


@pytest.mark.parametrize("value", [float("nan"), float("inf"), jnp.array([0.0, jnp.nan])])
def test_finite_refuses(value):
    with pytest.raises(ValueError, match="w must be finite"):
        checks.finite("w", value)


@pytest.mark.parametrize("value", [1e39, -1e39, [0.0, 1e39], np.float64(1e300)])
def test_what_float32_does_not_hold_is_not_finite(value):
    with pytest.raises(ValueError, match="w must be finite in float32, got"):
        checks.finite("w", value)
    with enable_x64(True):
        checks.finite("w", value)


@pytest.mark.parametrize(
    "value",
    [
        *("x", b"x", None, True, 1j, {}, [[1.0], [2.0, 3.0]], 10**400, np.array(["x"])),
        *(np.array([True]), np.array([1j]), jax.random.key(0), jnp.zeros(2, bool)),
    ],
)
def test_what_is_no_number_or_array_of_numbers_is_refused_in_one_line(value):
    for check in (checks.finite, lambda name, value: checks.within(name, value, 0.0, 1.0)):
        with pytest.raises(ValueError, match="w must be a number or an array of num") as refusal:
            check("w", value)
        assert "\n" not in str(refusal.value)
        assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), jnp.bfloat16(0.5), [0.1, 1.0], ()])
def test_any_real_number_or_array_of_them_passes(value):
    checks.finite("w", value)
    checks.within("w", value, 0.0, 1.0)


def test_the_first_entry_out_of_range_is_told():
    with pytest.raises(ValueError, match=r"v must lie in \[0, 1\], got 2.0$"):
        checks.within("v", np.array([0.5, 2.0, 3.0]), 0.0, 1.0)


def test_what_is_out_of_order_is_refused_and_traced_numbers_are_not_compared():
    checks.ordered("low", 1.0, "high", np.inf)
    with pytest.raises(ValueError, match="low must be at most high, 1; got 2"):
        checks.ordered("low", 2, "high", 1)
    jax.jit(lambda low: checks.ordered("low", low, "high", 1))(2)


@pytest.mark.parametrize("ends", ["[]", "[)", "(]", "()"])
def test_the_ends_of_a_range_are_in_it_as_it_says(ends):
    for value, end, allowed in ((1.0, ends[0], "["), (3.0, ends[1], "]")):
        if end == allowed:
            checks.number("rate", value, 1.0, 3.0, ends)
            continue
        with pytest.raises(ValueError, match="rate must lie in"):
            checks.number("rate", value, 1.0, 3.0, ends)


def test_a_whole_number_has_a_largest_and_a_truth_value_is_none():
    assert checks.whole("order", np.int8(3), 1, 3) == 3
    with pytest.raises(ValueError, match="order must be a whole number from 1 to 3, got 4"):
        checks.whole("order", 4, 1, 3)
    checks.truth("guided", np.bool_(1))
    with pytest.raises(ValueError, match="guided must be True or False, got 1"):
        checks.truth("guided", 1)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), jnp.int32(3)])
def test_steps_takes_any_whole_number(value):
    assert checks.steps(value) == 3
    assert type(checks.steps(value)) is int


def test_steps_that_are_traced_are_refused():
    with pytest.raises(ValueError, match="steps decides what is compiled"):
        jax.jit(checks.steps)(3)


@pytest.mark.parametrize("value", [0.5, 2, np.float32(1.0)])
def test_a_number_within_its_range_passes(value):
    checks.number("phi", value, 0.0, 2.0)


@pytest.mark.parametrize("value", ["1", None, True, float("nan"), float("inf"), (1,), -0.1, 2.1])
def test_what_is_no_such_number_is_refused(value):
    with pytest.raises(ValueError, match="phi must"):
        checks.number("phi", value, 0.0, 2.0)


def test_steps_have_a_largest_number():
    assert checks.steps(1_000_000) == 1_000_000
    with pytest.raises(ValueError, match="steps must be at most 1000000, got 1000001"):
        checks.steps(1_000_001)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", None, jnp.array([1, 2]), jnp.bool_(1)])
def test_steps_refuses(value):
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        checks.steps(value)


def test_traced_values_pass():
    def traced(value):
        checks.finite("w", value)
        checks.within("v", value, 0.0, 1.0)
        return value

    assert jax.jit(traced)(5.0) == 5.0
