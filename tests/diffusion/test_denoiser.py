"""Adapters of denoisers: what they return against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import denoiser, prediction

RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
P = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
LAM = np.array([-2.0, -0.5, 1.0, 3.0], np.float32)
ALPHA = np.sqrt(1 / (1 + np.exp(-LAM)))[:, None]
SIGMA = np.sqrt(1 / (1 + np.exp(LAM)))[:, None]


def constant(z, logsnr, cond):
    return P


def test_read_makes_the_pair_of_eps():
    x, eps = denoiser.read(constant, Z, LAM, None)
    np.testing.assert_allclose(eps, P, rtol=1e-6)
    np.testing.assert_allclose(x, (Z - SIGMA * P) / ALPHA, rtol=1e-5, atol=1e-6)


def test_from_prediction_reads_v():
    x, eps = denoiser.from_prediction(constant, prediction.V)(Z, LAM, None)
    np.testing.assert_allclose(x, ALPHA * Z - SIGMA * P, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(eps, SIGMA * Z + ALPHA * P, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bound", [1.0, 0.3])
def test_clipped_bounds_x_and_keeps_z(bound):
    x, eps = denoiser.clipped(constant, bound)(Z, LAM, None)
    want = np.clip((Z - SIGMA * P) / ALPHA, -bound, bound)
    assert np.any(np.abs(want) == bound)
    np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ALPHA * x + SIGMA * eps, Z, atol=1e-5)


def test_clipping_that_clips_nothing_changes_nothing():
    free, held = (
        denoiser.read(constant, Z, LAM, None),
        denoiser.clipped(constant, 1e6)(Z, LAM, None),
    )
    np.testing.assert_array_equal(free.x, held.x)
    np.testing.assert_array_equal(free.eps, held.eps)


def test_adapters_travel_through_jit_with_their_parameters():
    network = jax.tree_util.Partial(lambda p, z, logsnr, cond: p * z, 2.0)
    adapted = denoiser.clipped(denoiser.from_prediction(network, prediction.X), 0.5)
    assert len(jax.tree.leaves(adapted)) == 2
    out = jax.jit(lambda d, z: d(z, 0.0, None))(adapted, jnp.array([[0.1, 1.0]]))
    np.testing.assert_allclose(out.x, [[0.2, 0.5]])
