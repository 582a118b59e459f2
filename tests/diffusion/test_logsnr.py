"""α, σ and their logs against float64, over the whole range of λ."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from oracle import assert_relative

from cfg_jax.diffusion import logsnr


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def test_alpha_and_sigma_agree_with_float64(levels):
    exact = levels.astype(np.float64)
    assert_relative(logsnr.alpha(levels), np.sqrt(sigmoid(exact)))
    assert_relative(logsnr.sigma(levels), np.sqrt(sigmoid(-exact)))


def test_logs_agree_with_float64(levels):
    exact = levels.astype(np.float64)
    assert_relative(logsnr.log_alpha(levels), -0.5 * np.log1p(np.exp(-exact)))
    assert_relative(logsnr.log_sigma(levels), -0.5 * np.log1p(np.exp(exact)))


def test_differences_agree_with_mpmath(pairs):
    low, high = (p[::7] for p in pairs)
    with mpmath.workdps(40):
        exact = [
            1 - mpmath.exp(mpmath.mpf(float(a)) - float(b)) for a, b in zip(low, high, strict=True)
        ]
        logs = np.array([float(mpmath.log(e)) for e in exact])
        exact = np.array([float(e) for e in exact])
    assert_relative(logsnr.one_minus_exp(low, high), exact)
    # The smallest normal number is the floor: beyond it float32 flushes to zero.
    assert_relative(logsnr.log_one_minus_exp(low, high), logs, absolute=1.2e-38)


def test_infinity_is_clean_data():
    assert logsnr.alpha(jnp.inf) == 1.0
    assert logsnr.sigma(jnp.inf) == 0.0
    assert logsnr.one_minus_exp(20.0, jnp.inf) == 1.0
    assert logsnr.log_one_minus_exp(20.0, jnp.inf) == 0.0


@pytest.mark.parametrize("gap", [1e-3, 0.5, 0.7, 30.0])
def test_gradient_of_the_log_difference_is_finite_and_right(gap):
    gradient = jax.grad(lambda b: logsnr.log_one_minus_exp(0.0, b))(gap)
    np.testing.assert_allclose(gradient, 1.0 / np.expm1(gap), rtol=2e-4, atol=1e-30)


def test_a_lower_precision_or_an_integer_does_not_decide_the_precision():
    assert logsnr.alpha(jnp.bfloat16(3.0)).dtype == jnp.float32
    assert logsnr.sigma(3).dtype == jnp.float32


def test_expand_aligns_a_batch_of_levels():
    z = jnp.ones((3, 4, 5))
    assert logsnr.expand(jnp.arange(3.0), z).shape == (3, 1, 1)
    assert logsnr.expand(2.0, z).shape == ()
