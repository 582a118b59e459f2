"""The forward process and its posteriors against float64 and against Bayes' rule."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from oracle import assert_relative

from cfg_jax import process


def exact(low, high):
    """(α, σ², α', σ'², 1 - e^(λ-λ'), e^(λ-λ')) in float64, for λ < λ'."""
    low, high = low.astype(np.float64), high.astype(np.float64)
    return (
        np.sqrt(1 / (1 + np.exp(-low))),
        1 / (1 + np.exp(low)),
        np.sqrt(1 / (1 + np.exp(-high))),
        1 / (1 + np.exp(high)),
        -np.expm1(low - high),
        np.exp(low - high),
    )


def test_forward_agrees_with_float64(levels):
    one, zero = jnp.ones((len(levels), 1)), jnp.zeros((len(levels), 1))
    lam = levels.astype(np.float64)
    signal = process.forward(one, zero, logsnr=levels)[:, 0]
    noise = process.forward(zero, one, logsnr=levels)[:, 0]
    assert_relative(signal, np.sqrt(1 / (1 + np.exp(-lam))))
    assert_relative(noise, np.sqrt(1 / (1 + np.exp(lam))))


def test_transition_agrees_with_float64(pairs):
    low, high = pairs
    alpha, var, alpha_next, _, fresh, _ = exact(low, high)
    scale, variance = process.transition(logsnr_from=high, logsnr_to=low)
    assert_relative(scale, alpha / alpha_next)
    assert_relative(variance, fresh * var)


def test_posterior_agrees_with_float64(pairs):
    low, high = pairs
    alpha, _, alpha_next, var_next, fresh, ratio = exact(low, high)
    one, zero = jnp.ones((len(low), 1)), jnp.zeros((len(low), 1))
    of_z, variance = process.posterior(one, zero, logsnr=low, logsnr_next=high)
    of_x, _ = process.posterior(zero, one, logsnr=low, logsnr_next=high)
    assert_relative(of_z[:, 0], ratio * alpha_next / alpha)
    assert_relative(of_x[:, 0], fresh * alpha_next)
    assert_relative(variance, fresh * var_next)


@pytest.mark.parametrize(("low", "high"), [(-20.0, 20.0), (-3.0, 1.0), (0.5, 0.6), (10.0, 20.0)])
def test_posterior_is_bayes_rule(low, high):
    """q(z'|z, x) ∝ q(z|z') q(z'|x): precisions add, and means weighted by them (40 digits)."""
    x, z = 0.7, -1.3
    with mpmath.workdps(40):
        a, s = (mpmath.sqrt(1 / (1 + mpmath.exp(-t))) for t in (mpmath.mpf(low), -mpmath.mpf(low)))
        a2, s2 = (
            mpmath.sqrt(1 / (1 + mpmath.exp(-t))) for t in (mpmath.mpf(high), -mpmath.mpf(high))
        )
        scale = a / a2
        step = s**2 - scale**2 * s2**2  # what the transition must add to the variance
        precision = 1 / s2**2 + scale**2 / step
        mean = (a2 * mpmath.mpf(x) / s2**2 + scale * mpmath.mpf(z) / step) / precision
        mean, variance = float(mean), float(1 / precision)
    got = process.posterior(jnp.full((1,), z), jnp.full((1,), x), logsnr=low, logsnr_next=high)
    np.testing.assert_allclose(got.mean[0], mean, rtol=5e-6)
    np.testing.assert_allclose(got.variance, variance, rtol=5e-6)


@pytest.mark.parametrize("v", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_reverse_variance_agrees_with_float64(pairs, v):
    low, high = pairs
    _, var, _, var_next, fresh, _ = exact(low, high)
    got = process.reverse_variance(logsnr=low, logsnr_next=high, v=v)
    assert_relative(got, (fresh * var_next) ** (1 - v) * (fresh * var) ** v)


@pytest.mark.parametrize("v", [0.0, 0.3, 1.0])
def test_the_step_to_clean_data_is_certain(v):
    x = jnp.array([[0.25, -0.5]])
    got = process.posterior(jnp.ones((1, 2)), x, logsnr=8.0, logsnr_next=jnp.inf)
    np.testing.assert_array_equal(got.mean, x)
    assert got.variance == 0.0
    assert process.reverse_variance(logsnr=8.0, logsnr_next=jnp.inf, v=v) == 0.0


def test_gradients_through_the_last_step_are_finite():
    gradient = jax.grad(lambda v: process.reverse_variance(logsnr=8.0, logsnr_next=jnp.inf, v=v))
    assert gradient(0.3) == 0.0


def test_a_vector_of_levels_is_one_level_an_example():
    x, eps = jnp.ones((2, 3)), jnp.zeros((2, 3))
    both = process.forward(x, eps, logsnr=jnp.array([-1.0, 2.0]))
    for i, level in enumerate([-1.0, 2.0]):
        np.testing.assert_array_equal(both[i], process.forward(x[i], eps[i], logsnr=level))


@pytest.mark.parametrize("v", [-0.1, 1.1, float("nan")])
def test_v_outside_its_range_is_refused(v):
    with pytest.raises(ValueError, match=r"v must lie in \[0, 1\]"):
        process.reverse_variance(logsnr=0.0, logsnr_next=1.0, v=v)
