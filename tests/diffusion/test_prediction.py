"""Every conversion between kinds of prediction, by coefficient, against float64 and the papers."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_relative

from cfg_jax import denoiser, prediction
from cfg_jax.diffusion.precision import enable_x64

KINDS = list(prediction.KINDS)
SIGMA_DATA = 0.5


def edm_f(x, eps, alpha, sigma):
    """F = (x - c_skip y) / c_out of Karras et al.'s Equation 7 and Table 1, y = (α x + σ ε) / α."""
    s = sigma / alpha
    skip = SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2)
    out = s * SIGMA_DATA / np.sqrt(SIGMA_DATA**2 + s**2)
    # x - c_skip y, whose parts in x cancel at small s.
    return ((s**2 / (s**2 + SIGMA_DATA**2)) * x - skip * s * eps) / out


def truth(kind, x, eps, alpha, sigma):
    return {
        "eps": lambda: eps,
        "x": lambda: x,
        "v": lambda: alpha * eps - sigma * x,
        "score": lambda: -eps / sigma,
        "flow": lambda: eps - x,
        "edm": lambda: edm_f(x, eps, alpha, sigma),
    }[kind]()


def determinant(kind, alpha, sigma):
    """α b - σ a, without its own cancellation: every term is of one sign."""
    return {
        "eps": alpha,
        "x": -sigma,
        "v": np.ones_like(alpha),
        "score": -alpha / sigma,
        "flow": alpha + sigma,
        "edm": -np.sqrt(sigma**2 + (SIGMA_DATA * alpha) ** 2) / SIGMA_DATA,
    }[kind]


@pytest.mark.parametrize(("source", "target"), itertools.product(KINDS, KINDS))
def test_convert_has_the_coefficients_of_the_linear_system(levels, source, target):
    """Solves z = α x + σ ε and p = a x + b ε for the target in float64, by Cramer's rule."""
    lam = levels.astype(np.float64)
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-lam))), np.sqrt(1 / (1 + np.exp(lam)))
    a, b = (truth(source, *unit, alpha, sigma) for unit in [(1.0, 0.0), (0.0, 1.0)])
    det = determinant(source, alpha, sigma)
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
    # So it is in float32, between kinds that mix x and ε.
    mixed = 1e-7 * ({source, target} <= {"v", "flow", "edm"})
    assert_relative(of_z + 0 * of_p, want_z, absolute=max(scale, mixed, 1e-7 * (source == target)))
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


ENDS = np.array([-20.0, -4.0, 0.0, 4.0, 20.0])


def data(seed=2):
    return np.random.default_rng(seed).normal(size=(2, 5, 3))


def test_flow_is_the_velocity_of_the_straight_path():
    """Lipman et al. 2023 and Liu et al. 2022: y_t = (1 - t) x + t ε, dy/dt = ε - x, in float64."""
    x, eps = data()
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(sign * ENDS)))[:, None] for sign in (-1, 1))
    t = sigma / (alpha + sigma)
    path, velocity = (1 - t) * x + t * eps, eps - x
    asked = []

    def network(y, logsnr, cond):
        asked.append(y)
        return jnp.asarray(velocity)

    with enable_x64(True):
        z = jnp.asarray(alpha * x + sigma * eps)
        pair = denoiser.from_prediction(network, prediction.FLOW)(z, jnp.asarray(ENDS), None)
    np.testing.assert_allclose(asked[0], path, rtol=1e-12, atol=1e-12)
    # Along the path, x = y_t - t v and ε = y_t + (1 - t) v.
    np.testing.assert_allclose(pair.x, path - t * velocity, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(pair.eps, path + (1 - t) * velocity, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_is_equation_7_of_karras(sigma_data):
    """D(y; s) = c_skip y + c_out F(c_in y), with the coefficients of Table 1, in float64."""
    y, raw = data(3)
    s = np.exp(-ENDS / 2)[:, None]
    skip = sigma_data**2 / (s**2 + sigma_data**2)
    out = s * sigma_data / np.sqrt(sigma_data**2 + s**2)
    c_in = 1 / np.sqrt(sigma_data**2 + s**2)
    asked = []

    def network(z, logsnr, cond):
        asked.append(z)
        return jnp.asarray(raw)

    with enable_x64(True):
        z = jnp.asarray(y / np.sqrt(1 + s**2))  # α y
        kind = prediction.edm(sigma_data)
        pair = denoiser.from_prediction(network, kind)(z, jnp.asarray(ENDS), None)
        again = prediction.convert(
            pair.eps, z, logsnr=jnp.asarray(ENDS), source=prediction.EPS, target=kind
        )
    np.testing.assert_allclose(asked[0], c_in * y, rtol=1e-12)
    np.testing.assert_allclose(pair.x, skip * y + out * raw, rtol=1e-9)
    np.testing.assert_allclose(pair.eps, (y - (skip * y + out * raw)) / s, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(again, raw, rtol=1e-5)


@pytest.mark.parametrize("kind", prediction.KINDS.values(), ids=prediction.KINDS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_kind_is_finite_at_the_ends_and_shows_the_network_zs_dtype(kind, dtype):
    seen = []

    def network(z, logsnr, cond):
        seen.append(z.dtype)
        return 0.5 * z

    for level in (-20.0, 20.0, np.array([-20.0, 20.0], np.float32)):
        adapted = denoiser.from_prediction(network, kind)
        pair = denoiser.read(adapted, jnp.ones((2, 3), dtype), level, None)
        assert np.all(np.isfinite(pair.x))
        assert np.all(np.isfinite(pair.eps))
    assert set(seen) == {jnp.dtype(dtype)}


def test_a_kind_is_the_same_for_the_same_deviation_alone():
    assert prediction.edm(0.5) == prediction.KINDS["edm"]
    assert prediction.edm(0.6) != prediction.edm(0.5)
    with pytest.raises(ValueError, match="sigma_data must be a positive number, got 0"):
        prediction.edm(0)
