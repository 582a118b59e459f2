"""Checks of the numbers users type: what is refused, and that traced values pass."""

import jax
import jax.numpy as jnp
import pytest

from cfg_jax.diffusion import checks


@pytest.mark.parametrize("value", [float("nan"), float("inf"), jnp.array([0.0, jnp.nan])])
def test_finite_refuses(value):
    with pytest.raises(ValueError, match="w must be finite"):
        checks.finite("w", value)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", None])
def test_steps_refuses(value):
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        checks.steps(value)


def test_traced_values_pass():
    def traced(value):
        checks.finite("w", value)
        checks.within("v", value, 0.0, 1.0)
        return value

    assert jax.jit(traced)(5.0) == 5.0
