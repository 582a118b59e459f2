"""The bound that a learned variance learns from, against closed forms in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import schedules
from cfg_jax.objectives import Denoising, Hybrid
from cfg_jax.parts import Prediction, Setting

SCHEDULE = schedules.Cosine()
SETTING = Setting(SCHEDULE, {}, {}, {})
Z = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def hybrid(steps, weight=1.0, **fields):
    return Hybrid(schedule=SCHEDULE, steps=steps, bound_weight=weight, **fields)


def at_level(x, logsnr, key=7):
    """Draws that all have one λ."""
    drawn = Denoising().draw(jax.random.key(key), x, {}, SETTING)
    return drawn._replace(logsnr=jnp.full(len(x), logsnr))


@pytest.mark.parametrize("logsnr", [-4.0, 0.5, 5.0])
def test_the_bound_is_least_at_the_true_reverse_variance(logsnr):
    """For x ~ N(0, s²) the reverse process is Gaussian, of variance σ̃² + c² Var(x|z)."""
    s, steps = 0.6, 8
    x = s * jax.random.normal(jax.random.key(3), (100_000, 1))
    u = float(SCHEDULE.u(logsnr))
    cleaner = float(SCHEDULE.logsnr(u - min(1 / steps, u / 2)))
    alpha2, next2 = (1 / (1 + np.exp(-lam)) for lam in (logsnr, cleaner))
    fresh = -np.expm1(logsnr - cleaner)
    least, most = fresh * (1 - next2), fresh * (1 - alpha2)
    variance = least + fresh**2 * next2 / (1 / s**2 + np.exp(logsnr))
    best = np.log(variance / least) / np.log(most / least)

    def network(v):
        def both(z, lam, cond):
            eps = z * jnp.sqrt(1 - alpha2) / (alpha2 * s**2 + 1 - alpha2)
            return Prediction(eps, jnp.full_like(z, v))

        return both

    slope = jax.grad(lambda v: hybrid(steps).losses(network(v), at_level(x, logsnr)).mean())
    curvature = float(slope(best + 0.1) - slope(best - 0.1)) / 0.2
    assert curvature > 0
    assert abs(float(slope(best))) < 0.02 * curvature


def test_the_bound_is_the_discrete_one_and_teaches_the_variance_alone():
    """weight · steps · KL in bits/dim, as `discrete_vlb` has it, with the same noise."""
    x, steps, logsnr = jnp.asarray(Z), 16, SCHEDULE.logsnr(0.5)
    drawn = at_level(x, logsnr)

    def loss(scale, v, weight):
        def both(z, lam, cond):
            return Prediction(scale * z, jnp.full_like(z, v))

        return hybrid(steps, weight).losses(both, drawn)

    simple = Denoising().losses(lambda z, *_: 0.3 * z, drawn)
    np.testing.assert_allclose(loss(0.3, 0.4, 0.0), simple, rtol=1e-6)

    lam, cleaner = (np.float64(SCHEDULE.logsnr(u)) for u in (0.5, 0.5 - 1 / steps))
    alpha, sigma, up = np.sqrt(
        [1 / (1 + np.exp(-lam)), 1 / (1 + np.exp(lam)), 1 / (1 + np.exp(-cleaner))]
    )
    x64, eps = np.asarray(x, np.float64), np.asarray(drawn.eps, np.float64)
    z = alpha * x64 + sigma * eps
    fresh = -np.expm1(lam - cleaner)
    least, most = fresh * (1 - up**2), fresh * sigma**2
    ours = least**0.6 * most**0.4
    shift = fresh * up * (x64 - (z - sigma * 0.3 * z) / alpha)
    kl = 0.5 * (least / ours - 1 + np.log(ours / least) + shift**2 / ours)
    want = simple + 0.01 * steps * kl.mean(1) / np.log(2)
    np.testing.assert_allclose(loss(0.3, 0.4, 0.01), want, rtol=1e-4)

    by_eps = jax.grad(lambda scale: loss(scale, 0.4, 0.01).mean())
    plain = jax.grad(lambda scale: loss(scale, 0.4, 0.0).mean())
    assert float(by_eps(0.3)) == pytest.approx(float(plain(0.3)), rel=1e-6)


@pytest.mark.parametrize("target", ["x", "v", "flow", "edm"])
def test_the_bound_is_the_same_whatever_the_target(target):
    """A network of another target that means the same x̂ has the same bound."""
    x, logsnr = jnp.asarray(Z), 0.7
    drawn = at_level(x, logsnr)
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))
    z = alpha * x + sigma * drawn.eps
    x_hat, eps_hat = (z - sigma * 0.3 * z) / alpha, 0.3 * z
    root = np.sqrt(sigma**2 + 0.25 * alpha**2)
    said = {
        "x": x_hat,
        "v": alpha * eps_hat - sigma * x_hat,
        "flow": eps_hat - x_hat,
        "edm": (sigma / 0.5 * x_hat - alpha * 0.5 * eps_hat) / root,
    }[target]

    def bound(target, value):
        objective = hybrid(16, target=target)
        both = objective.losses(lambda *_: Prediction(value, jnp.full_like(value, 0.4)), drawn)
        return both - Denoising(target=target).losses(lambda *_: value, drawn)

    np.testing.assert_allclose(bound(target, said), bound("eps", eps_hat), rtol=1e-3, atol=1e-4)


def test_the_bound_is_finite_at_the_cleanest_levels():
    x = jnp.zeros((3, 2))

    def both(z, lam, cond):
        return Prediction(z, jnp.full_like(z, 0.5))

    for u in (0.0, 1e-6, 1e-4):
        drawn = at_level(x, SCHEDULE.logsnr(max(u, 1e-7)))
        assert np.all(np.isfinite(hybrid(1000, 1e-3).losses(both, drawn)))


def test_a_network_that_says_no_variance_is_refused():
    with pytest.raises(ValueError, match="Hybrid needs a network that says the variance"):
        hybrid(8).losses(lambda z, *_: z, at_level(jnp.asarray(Z), 0.0))


@pytest.mark.parametrize(
    "fields",
    [
        {"bound_weight": -1.0},
        {"bound_weight": float("nan")},
        {"steps": 0},
        {"target": "q"},
        {"schedule": "cosine"},
    ],
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=f"^{next(iter(fields))} must be"):
        Hybrid(**fields)
