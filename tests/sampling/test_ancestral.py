"""Ancestral sampling by what a network learned, and with a mean that a classifier shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import cfg_jax
from cfg_jax import guidance, process, schedules, solvers
from cfg_jax.sampling import fronts

RNG = np.random.default_rng(0)
Z, X, NOISE, V = (jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32) for _ in range(4))
LOW, HIGH = -1.5, 0.75
SCHEDULE = schedules.LinearBeta(steps=100)


def step(solver, logsnr_next=HIGH):
    knows_x = cfg_jax.denoiser.from_prediction(lambda z, logsnr, cond: X, cfg_jax.prediction.X)
    z, _ = solver.step(
        knows_x, Z, solver.init(Z), None, lambda: NOISE, logsnr=LOW, logsnr_next=logsnr_next
    )
    return z


@jax.tree_util.Partial
def learned(z, logsnr, cond):
    return V


@jax.tree_util.Partial
def uphill(z, logsnr, cond):
    return jnp.sin(z) + logsnr


def variance(v):
    """(σ̃²)^(1-v) (σ²)^v of each entry, float64."""
    fresh = -np.expm1(LOW - HIGH)
    least, most = fresh * special.expit(-HIGH), fresh * special.expit(-LOW)
    return least ** (1 - np.asarray(v, np.float64)) * most ** np.asarray(v, np.float64)


def test_a_learned_variance_is_its_own_for_every_entry():
    mean = process.posterior(Z, X, logsnr=LOW, logsnr_next=HIGH).mean
    got = step(solvers.Ancestral(v=learned))
    np.testing.assert_allclose(got, mean + np.sqrt(variance(V)) * NOISE, rtol=1e-5, atol=1e-6)


def test_a_learned_number_is_that_number():
    same = jax.tree_util.Partial(lambda z, logsnr, cond: jnp.full(z.shape, 0.4))
    np.testing.assert_allclose(
        step(solvers.Ancestral(v=same)), step(solvers.Ancestral(v=0.4)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("v", [0.3, learned])
def test_a_shift_moves_the_mean_by_the_variance_times_itself(v):
    share = V if v is learned else v
    moved = step(solvers.Ancestral(v=v, shift=uphill)) - step(solvers.Ancestral(v=v))
    np.testing.assert_allclose(moved, variance(share) * (np.sin(Z) + LOW), rtol=1e-4, atol=1e-5)


def test_the_last_step_returns_the_data_whatever_was_learned():
    solver = solvers.Ancestral(v=learned, shift=uphill)
    np.testing.assert_allclose(step(solver, jnp.inf), X, atol=1e-6)


def test_ascent_is_the_gradient_times_w_of_each_example():
    log_prob = jax.tree_util.Partial(
        lambda z, logsnr, cond: -0.5 * ((z - cond[:, None]) ** 2).sum(1)
    )
    cond, ws = jnp.array([1.0, -2.0, 0.5]), jnp.array([1.0, 0.0, 3.0])
    want = ws[:, None] * (cond[:, None] - Z)
    np.testing.assert_allclose(guidance.ascent(log_prob, w=ws)(Z, 0.0, cond), want, rtol=1e-5)
    out = cfg_jax.sample(
        lambda z, logsnr, cond: z,
        jax.random.key(0),
        cond,
        shape=(4,),
        schedule=SCHEDULE,
        solver=solvers.Ancestral(v=0.0, shift=guidance.ascent(log_prob, w=ws)),
        steps=3,
    )
    assert np.all(np.isfinite(out))


def test_a_network_that_tells_both_is_asked_once(monkeypatch):
    """What the sampler compiles has as many products with v learned as without."""
    weights = jnp.asarray(RNG.normal(size=(4, 8)), jnp.float32)

    def both(weights, z):
        return jnp.tanh(z @ weights)

    eps = jax.tree_util.Partial(lambda w, z, logsnr, cond: both(w, z)[:, :4], weights)
    v = jax.tree_util.Partial(lambda w, z, logsnr, cond: both(w, z)[:, 4:], weights)
    compiled = fronts._jitted
    counts = []

    def count(*arguments):
        text = compiled.lower(*arguments).compile().as_text()
        counts.append(text.count(" dot("))
        return compiled(*arguments)

    monkeypatch.setattr(fronts, "_jitted", count)
    for share in (0.3, v):
        cfg_jax.sample(
            eps,
            jax.random.key(0),
            shape=(4,),
            batch=3,
            schedule=SCHEDULE,
            solver=solvers.Ancestral(v=share),
            steps=3,
        )
    assert counts[0] == counts[1] > 0
