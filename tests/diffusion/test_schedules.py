"""Schedules against their closed forms: quantiles, densities, and the samples' distribution."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import integrate, stats

from cfg_jax import schedules

SCHEDULES = [
    schedules.Cosine(),
    schedules.Cosine(logsnr_min=-10.0, logsnr_max=14.0),
    schedules.Uniform(),
    schedules.Uniform(logsnr_min=-5.0, logsnr_max=9.0),
    schedules.LogitNormal(),
    schedules.LogitNormal(mean=-1.0, std=2.0, logsnr_min=-3.0, logsnr_max=9.0),
]


def exact_cosine(u, low, high):
    with mpmath.workdps(40):
        b = mpmath.atan(mpmath.exp(-mpmath.mpf(high) / 2))
        a = mpmath.atan(mpmath.exp(-mpmath.mpf(low) / 2)) - b
        return float(-2 * mpmath.log(mpmath.tan(a * mpmath.mpf(float(u)) + b)))


@pytest.mark.parametrize("schedule", SCHEDULES[:2])
def test_cosine_is_the_papers_formula(schedule):
    """λ = -2 log tan(a u + b), at both tails too, against 40 digits."""
    u = np.concatenate(
        [np.linspace(0, 1, 101), 2.0 ** -np.arange(2, 30), 1 - 2.0 ** -np.arange(2, 24)]
    ).astype(np.float32)
    want = [exact_cosine(v, schedule.logsnr_min, schedule.logsnr_max) for v in u]
    np.testing.assert_allclose(schedule.logsnr(u), want, rtol=5e-6, atol=1e-6)
    grid = [
        exact_cosine(v, schedule.logsnr_min, schedule.logsnr_max) for v in np.linspace(1, 0, 51)
    ]
    np.testing.assert_allclose(schedule.grid(50), grid, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-20, 20),
        (15, 40),
        (40, 80),
        (-80, -40),
        (-80, 80),
        (-1, 40),
        (-80, 0.5),
        (79, 80),
        (3, 3.5),
    ],
)
def test_cosine_is_exact_over_any_range(low, high):
    """λ(u), its inverse, both tails of the distribution, and the density, against 40 digits."""
    schedule = schedules.Cosine(logsnr_min=low, logsnr_max=high)
    u = np.concatenate([np.linspace(0, 1, 21), [2.0**-20, 1 - 2.0**-20]]).astype(np.float32)
    want = [exact_cosine(v, low, high) for v in u]
    np.testing.assert_allclose(schedule.logsnr(u), want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        schedule.grid(20),
        [exact_cosine(v, low, high) for v in np.linspace(1, 0, 21)],
        rtol=1e-12,
        atol=1e-12,
    )
    assert np.all(np.isfinite(jax.vmap(jax.grad(schedule.logsnr))(u)))

    lam = np.linspace(low, high, 17).astype(np.float32)
    with mpmath.workdps(40):
        angle = [mpmath.atan(mpmath.exp(-mpmath.mpf(float(v)) / 2)) for v in lam]
        a = angle[0] - angle[-1]
        above = np.array([float((v - angle[-1]) / a) for v in angle])
        below = np.array([float((angle[0] - v) / a) for v in angle])
        density = [float(-mpmath.log(4 * a * mpmath.cosh(mpmath.mpf(float(v)) / 2))) for v in lam]
    np.testing.assert_allclose(schedule.u(lam), above, rtol=5e-6)
    np.testing.assert_allclose(schedule.cdf(lam), below, rtol=5e-6)
    np.testing.assert_allclose(schedule.log_prob(lam), density, rtol=5e-6, atol=5e-6)
    assert (schedule.cdf(-jnp.inf), schedule.cdf(jnp.inf)) == (0.0, 1.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_u_inverts_logsnr_and_the_ends_are_met(schedule):
    u = np.linspace(0, 1, 1001, dtype=np.float32)
    lam = schedule.logsnr(u)
    assert np.all(np.diff(lam) < 0)
    np.testing.assert_allclose(lam[jnp.array([0, -1])], [schedule.logsnr_max, schedule.logsnr_min])
    np.testing.assert_allclose(schedule.u(lam), u, atol=2e-6)
    np.testing.assert_allclose(schedule.cdf(lam), 1 - u, atol=2e-6)
    np.testing.assert_allclose(schedule.quantile(u), lam[::-1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_prob_integrates_to_one_and_is_the_slope_of_the_cdf(schedule):
    def density(lam):
        return float(jnp.exp(schedule.log_prob(lam)))

    total, _ = integrate.quad(density, schedule.logsnr_min, schedule.logsnr_max, limit=200)
    assert total == pytest.approx(1.0, abs=1e-6)
    for lam in np.linspace(schedule.logsnr_min + 0.1, schedule.logsnr_max - 0.1, 9):
        area, _ = integrate.quad(density, schedule.logsnr_min, lam)
        assert float(schedule.cdf(lam)) == pytest.approx(area, abs=1e-6)
    assert schedule.log_prob(schedule.logsnr_max + 0.01) == -jnp.inf
    assert schedule.log_prob(schedule.logsnr_min - 0.01) == -jnp.inf


def test_cosine_untruncated_is_the_hyperbolic_secant():
    """p(λ) = sech(λ/2) / 2π in the limit (Ho & Salimans 2022, Section 3.1)."""
    wide = schedules.Cosine(logsnr_min=-80.0, logsnr_max=80.0)
    lam = np.linspace(-20, 20, 41)
    want = -np.log(np.cosh(lam / 2)) - np.log(2 * np.pi)
    np.testing.assert_allclose(wide.log_prob(lam), want, rtol=5e-6)


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_samples_follow_the_cdf(schedule, stratified):
    lam = np.asarray(schedule.sample(jax.random.key(3), (20_000,), stratified))
    result = stats.kstest(lam, lambda x: np.asarray(schedule.cdf(jnp.asarray(x, jnp.float32))))
    assert result.pvalue > 1e-3
    if stratified:
        # One value in each of 20,000 equal intervals: the distance is below one of them.
        assert result.statistic < 1.01 / 20_000


def test_each_stratum_holds_one_value_whatever_the_shape():
    u = schedules.Cosine().u(schedules.Cosine().sample(jax.random.key(0), (8, 16), stratified=True))
    np.testing.assert_array_equal(np.floor(np.asarray(u) * 128).ravel(), np.arange(128))


def test_grid_ascends_and_is_static():
    schedule = schedules.Cosine()
    grid = schedule.grid(7)
    assert grid.shape == (8,)
    assert np.all(np.diff(grid) > 0)
    assert hash(schedule) == hash(schedules.Cosine())
    assert jax.jit(lambda u, s: s.logsnr(u), static_argnums=1)(0.5, schedule) == pytest.approx(0.0)


@pytest.mark.parametrize("steps", [0, -1, True])
def test_steps_that_are_none_are_refused(steps):
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        schedules.Cosine().grid(steps)


@pytest.mark.parametrize(("low", "high"), [(20.0, -20.0), (1.0, 1.0)])
def test_an_empty_range_is_refused(low, high):
    with pytest.raises(ValueError, match="logsnr_min must be smaller than logsnr_max"):
        schedules.Cosine(logsnr_min=low, logsnr_max=high)


@pytest.mark.parametrize("value", [81.0, math.nan, math.inf, True])
def test_a_level_that_float32_does_not_hold_is_refused(value):
    with pytest.raises(ValueError, match=r"logsnr_max must lie in \[-80, 80\], got"):
        schedules.Cosine(logsnr_max=value)


def exact_logit_normal(u, schedule):
    """λ = -2 logit t with logit t ~ N(m, s²), truncated, in 40 digits."""
    with mpmath.workdps(40):
        mean, std = -2 * mpmath.mpf(schedule.mean), 2 * mpmath.mpf(schedule.std)
        low, high = (
            mpmath.ncdf((mpmath.mpf(end) - mean) / std)
            for end in (schedule.logsnr_min, schedule.logsnr_max)
        )
        p = low + (high - low) * (1 - mpmath.mpf(float(u)))
        return float(mean + std * mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mean": 0.5, "std": 0.6},
        {"mean": -1.0, "std": 2.0, "logsnr_min": -3.0, "logsnr_max": 9.0},
        {"mean": 3.0, "logsnr_min": -4.0, "logsnr_max": 4.0},
        {"mean": -3.0, "logsnr_min": -4.0, "logsnr_max": 4.0},
    ],
)
def test_logit_normal_is_its_formula(fields):
    schedule = schedules.LogitNormal(**fields)
    inner = np.concatenate([np.linspace(0.01, 0.99, 33), 2.0 ** -np.arange(7, 20)])
    u = np.concatenate([inner, 1 - 2.0 ** -np.arange(7, 20)]).astype(np.float32)
    want = [exact_logit_normal(v, schedule) for v in u]
    np.testing.assert_allclose(schedule.logsnr(u), want, rtol=3e-5, atol=3e-5)
    grid = [exact_logit_normal(v, schedule) for v in np.linspace(1, 0, 21)[1:-1]]
    np.testing.assert_allclose(schedule.grid(20)[1:-1], grid, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        schedule.grid(20)[[0, -1]], [schedule.logsnr_min, schedule.logsnr_max], atol=1e-9
    )
    assert np.all(np.isfinite(jax.vmap(jax.grad(schedule.logsnr))(np.append(u, [0, 1]))))


def test_logit_normal_draws_the_times_of_a_flow():
    """z_t = (1 - t) x + t ε has λ = 2 log((1 - t) / t), and logit t ~ N(m, s²)."""
    schedule = schedules.LogitNormal(mean=0.4, std=0.7)
    lam = np.asarray(schedule.sample(jax.random.key(0), (20_000,)), np.float64)
    t = 1 / (1 + np.exp(lam / 2))
    logit = np.log(t / (1 - t))
    assert stats.kstest(logit, stats.norm(0.4, 0.7).cdf).pvalue > 1e-3


def test_a_normal_outside_of_the_range_is_refused():
    with pytest.raises(ValueError, match=r"mean = 15.0 and std = 0.1 put λ near -30.0, outside of"):
        schedules.LogitNormal(mean=15.0, std=0.1)
