"""Ancestral sampling by what a network learned, and with a mean that a classifier shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import cfg_jax
from cfg_jax import guidance, process, schedules, solvers

RNG = np.random.default_rng(0)
Z, X, NOISE, V = (jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32) for _ in range(4))
LOW, HIGH = -1.5, 0.75
SCHEDULE = schedules.LinearBeta(steps=100)


def step(solver, logsnr_next=HIGH, v=None):
    """One step of a denoiser that knows x, and learned a v."""

    def knows_x(z, logsnr, cond):
        kind = cfg_jax.prediction.X
        return cfg_jax.prediction.estimate(X, z, logsnr=logsnr, kind=kind)._replace(v=v)

    z, _ = solver.step(
        knows_x, Z, solver.init(Z), None, lambda: NOISE, logsnr=LOW, logsnr_next=logsnr_next
    )
    return z


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
    got = step(solvers.Ancestral(v=None), v=V)
    np.testing.assert_allclose(got, mean + np.sqrt(variance(V)) * NOISE, rtol=1e-5, atol=1e-6)


def test_a_learned_number_is_that_number():
    same = jnp.full(Z.shape, 0.4)
    np.testing.assert_allclose(
        step(solvers.Ancestral(v=None), v=same),
        step(solvers.Ancestral(v=0.4)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_number_stands_before_what_was_learned():
    np.testing.assert_array_equal(
        step(solvers.Ancestral(v=0.4), v=V), step(solvers.Ancestral(v=0.4))
    )


def test_a_variance_that_nobody_learned_is_refused():
    with pytest.raises(ValueError, match="this denoiser learned none"):
        step(solvers.Ancestral(v=None))


@pytest.mark.parametrize("v", [0.3, None])
def test_a_shift_moves_the_mean_by_the_variance_times_itself(v):
    share = V if v is None else v
    moved = step(solvers.Ancestral(v=v, shift=uphill), v=V) - step(solvers.Ancestral(v=v), v=V)
    np.testing.assert_allclose(moved, variance(share) * (np.sin(Z) + LOW), rtol=1e-4, atol=1e-5)


def test_the_last_step_returns_the_data_whatever_was_learned():
    solver = solvers.Ancestral(v=None, shift=uphill)
    np.testing.assert_allclose(step(solver, jnp.inf, v=V), X, atol=1e-6)


def test_ascent_is_the_gradient_times_w_of_each_example():
    def log_prob(z, logsnr, cond):
        return -0.5 * ((z - cond[:, None]) ** 2).sum(1)

    cond, ws = jnp.array([1.0, -2.0, 0.5]), jnp.array([1.0, 0.0, 3.0])
    want = ws[:, None] * (cond[:, None] - Z)
    np.testing.assert_allclose(guidance.ascent(log_prob, w=ws)(Z, 0.0, cond), want, rtol=1e-5)
    plain, registered = (
        cfg_jax.sample(
            lambda z, logsnr, cond: z,
            jax.random.key(0),
            cond,
            shape=(4,),
            schedule=SCHEDULE,
            solver=solvers.Ancestral(v=0.0, shift=guidance.ascent(given, w=ws)),
            steps=3,
        )
        for given in (log_prob, jax.tree_util.Partial(log_prob))
    )
    assert np.all(np.isfinite(plain))
    np.testing.assert_array_equal(plain, registered)


@pytest.mark.parametrize("shift", [lambda z, *_: z[:1], lambda z, *_: 0.0, lambda z, *_: z + 1j])
def test_a_shift_of_another_shape_is_refused(shift):
    with pytest.raises(ValueError, match="shift must return an array of floats of z's shape"):
        step(solvers.Ancestral(v=0.3, shift=shift))


def learning(weights, z, logsnr, cond):
    """A network of two answers, from one product."""
    both = jnp.tanh(z @ weights)
    pair = cfg_jax.prediction.estimate(both[:, :4], z, logsnr=logsnr, kind=cfg_jax.prediction.EPS)
    return pair._replace(v=both[:, 4:])


LEARNING = jax.tree_util.Partial(learning, jnp.asarray(RNG.normal(size=(4, 8)), jnp.float32))
WALK = {"shape": (4,), "batch": 3, "schedule": SCHEDULE, "steps": 3}


def test_a_network_that_tells_both_is_asked_once():
    """The program has as many products with v learned as without."""

    def count(v):
        run = jax.jit(
            lambda key: cfg_jax.sample(LEARNING, key, solver=solvers.Ancestral(v=v), **WALK)
        )
        return run.lower(jax.random.key(0)).compile().as_text().count(" dot(")

    assert count(None) == count(0.3) > 0


@pytest.mark.parametrize(
    "wrap",
    [
        cfg_jax.denoiser.clipped,
        cfg_jax.denoiser.dynamically_thresholded,
        lambda network: guidance.interval(
            guidance.autoguidance(network, lambda z, logsnr, cond: z, w=2.0), low=-2.0
        ),
        lambda network: guidance.energy(network, lambda x, z, lam, c: (x**2).sum(1), w=0.1),
    ],
)
def test_what_was_learned_goes_through_what_is_around_it(wrap):
    plain, around = (cfg_jax.denoiser.read(d, Z, 0.5, None) for d in (LEARNING, wrap(LEARNING)))
    np.testing.assert_array_equal(around.v, plain.v)
    drawn = cfg_jax.sample(
        wrap(LEARNING), jax.random.key(0), solver=solvers.Ancestral(v=None), **WALK
    )
    assert np.all(np.isfinite(drawn))
