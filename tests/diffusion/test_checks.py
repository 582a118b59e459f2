"""Checks of the numbers users type: what is refused, and that traced values pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.diffusion import checks


@pytest.mark.parametrize("value", [float("nan"), float("inf"), jnp.array([0.0, jnp.nan])])
def test_finite_refuses(value):
    with pytest.raises(ValueError, match="w must be finite"):
        checks.finite("w", value)


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
