"""Every conversion between ε, x, v and score, coefficient by coefficient, against float64."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_relative

from cfg_jax import prediction

KINDS = ["eps", "x", "v", "score"]


def truth(kind, x, eps, alpha, sigma):
    return {"eps": eps, "x": x, "v": alpha * eps - sigma * x, "score": -eps / sigma}[kind]


@pytest.mark.parametrize(("source", "target"), itertools.product(KINDS, KINDS))
def test_convert_has_the_coefficients_of_the_linear_system(levels, source, target):
    """Solves z = α x + σ ε and p = a x + b ε for the target in float64, by Cramer's rule."""
    lam = levels.astype(np.float64)
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-lam))), np.sqrt(1 / (1 + np.exp(lam)))
    a, b = (truth(source, *unit, alpha, sigma) for unit in [(1.0, 0.0), (0.0, 1.0)])
    # α b - σ a without its own cancellation: every term is of one sign.
    det = {"eps": alpha, "x": -sigma, "v": np.ones_like(alpha), "score": -alpha / sigma}[source]
    one, zero = jnp.ones((len(levels), 1)), jnp.zeros((len(levels), 1))
    kinds = {"source": prediction.KINDS[source], "target": prediction.KINDS[target]}
    of_z = prediction.convert(zero, one, logsnr=levels, **kinds)[:, 0]
    of_p = prediction.convert(one, zero, logsnr=levels, **kinds)[:, 0]
    want_z = truth(target, b / det, -a / det, alpha, sigma)
    want_p = truth(target, -sigma / det, alpha / det, alpha, sigma)
    if source == target:
        want_z, want_p = np.zeros_like(lam), np.ones_like(lam)
    # What float64's own oracle loses to cancellation near a coefficient's zero is absolute.
    scale = np.abs(want_z).max() * 1e-9
    assert_relative(of_z + 0 * of_p, want_z, absolute=max(scale, 1e-7 * (source == target)))
    assert_relative(of_p, want_p)


@pytest.mark.parametrize("kind", KINDS)
def test_estimate_recovers_x_and_eps(kind):
    rng = np.random.default_rng(1)
    x, eps = rng.normal(size=(2, 5, 3)).astype(np.float32)
    lam = np.array([-4.0, -1.0, 0.0, 1.5, 4.0], np.float32)
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-lam)))[:, None], np.sqrt(1 / (1 + np.exp(lam)))[:, None]
    z, p = alpha * x + sigma * eps, truth(kind, x, eps, alpha, sigma)
    got = prediction.estimate(
        jnp.asarray(p), jnp.asarray(z), logsnr=lam, kind=prediction.KINDS[kind]
    )
    np.testing.assert_allclose(got.x, x, atol=3e-6)
    np.testing.assert_allclose(got.eps, eps, atol=3e-6)
