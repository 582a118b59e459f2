"""One step of each solver against the formulas in float64, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import solvers

RNG = np.random.default_rng(0)
Z, EPS, NOISE = (jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32) for _ in range(3))
LOW, HIGH = -1.5, 0.7


def eps(z, logsnr, cond):
    return EPS


def step(solver, low=LOW, high=HIGH):
    return solver.step(eps, Z, None, lambda: NOISE, logsnr=low, logsnr_next=high)


def exact():
    alpha, alpha2 = (np.sqrt(1 / (1 + np.exp(-t))) for t in (LOW, HIGH))
    var, var2 = (1 / (1 + np.exp(t)) for t in (LOW, HIGH))
    z, e = np.asarray(Z, np.float64), np.asarray(EPS, np.float64)
    return alpha, var, alpha2, var2, z, e, (z - np.sqrt(var) * e) / alpha


@pytest.mark.parametrize("v", [0.0, 0.3, 1.0])
def test_ancestral_is_algorithm_2(v):
    alpha, var, alpha2, var2, z, _, x = exact()
    ratio = np.exp(LOW - HIGH)
    mean = ratio * alpha2 / alpha * z + (1 - ratio) * alpha2 * x
    variance = ((1 - ratio) * var2) ** (1 - v) * ((1 - ratio) * var) ** v
    want = mean + np.sqrt(variance) * np.asarray(NOISE)
    np.testing.assert_allclose(step(solvers.Ancestral(v=v)), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_equation_12(eta):
    alpha, var, alpha2, var2, _, e, x = exact()
    # In the paper's ᾱ: s² = η² (1 - ᾱ')/(1 - ᾱ) (1 - ᾱ/ᾱ').
    s2 = eta**2 * var2 / var * (1 - alpha**2 / alpha2**2)
    want = alpha2 * x + np.sqrt(var2 - s2) * e + np.sqrt(s2) * np.asarray(NOISE)
    np.testing.assert_allclose(step(solvers.DDIM(eta=eta)), want, rtol=1e-5, atol=1e-6)


def test_stochastic_ddim_is_ancestral_sampling_of_the_least_variance():
    np.testing.assert_allclose(
        step(solvers.DDIM(eta=1.0)), step(solvers.Ancestral(v=0.0)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "solver",
    [solvers.Ancestral(v=1.0), solvers.Ancestral(v=0.0), solvers.DDIM(), solvers.DDIM(eta=1.0)],
)
@pytest.mark.parametrize("low", [-3.0, 20.0])
def test_the_last_step_returns_the_estimate_of_x(solver, low):
    signal, noise = np.sqrt(1 / (1 + np.exp(-low))), np.sqrt(1 / (1 + np.exp(low)))
    want = (np.asarray(Z, np.float64) - noise * np.asarray(EPS, np.float64)) / signal
    np.testing.assert_allclose(step(solver, low, jnp.inf), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", [solvers.Ancestral(v=0.3), solvers.DDIM(eta=0.5)])
def test_steps_over_the_whole_range_are_finite(solver):
    assert np.all(np.isfinite(step(solver, -20.0, 20.0)))
    assert np.all(np.isfinite(step(solver, 19.0, 20.0)))


def test_the_knobs_are_leaves():
    for solver in (solvers.Ancestral(v=0.3), solvers.DDIM(eta=0.3)):
        assert jax.tree.leaves(solver) == [0.3]


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_knobs_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match=r"v must lie in \[0, 1\]"):
        solvers.Ancestral(v=value)
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
        solvers.DDIM(eta=value)
