"""Discrete-time diffusion as a special case: β-schedules in λ, and the classical posterior."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import integrate

from cfg_jax import denoiser, prediction, schedules, solvers
from cfg_jax.diffusion.precision import enable_x64

LINEAR, COSINE = schedules.LinearBeta(steps=1000), schedules.CosineBeta(steps=1000)
SHORT = schedules.LinearBeta(steps=50), schedules.CosineBeta(steps=50)
LATENT = schedules.ScaledLinearBeta(first=0.0015, last=0.0195)
ALL = [LINEAR, COSINE, LATENT, *SHORT]


def exact_betas(schedule):
    """The papers' formulas, in 40 digits."""
    n = schedule.steps
    if isinstance(schedule, schedules.LinearBeta):
        low, high = mpmath.mpf(1) / 10 / n, mpmath.mpf(20) / n
        return [low + (high - low) * t / (n - 1) for t in range(n)]
    if isinstance(schedule, schedules.ScaledLinearBeta):
        low, high = (mpmath.sqrt(mpmath.mpf(text)) for text in ("0.0015", "0.0195"))
        return [(low + (high - low) * t / (n - 1)) ** 2 for t in range(n)]

    def f(t):
        return (
            mpmath.cos(
                (mpmath.mpf(t) / n + mpmath.mpf("0.008")) / mpmath.mpf("1.008") * mpmath.pi / 2
            )
            ** 2
        )

    return [min(1 - f(t + 1) / f(t), mpmath.mpf("0.999")) for t in range(n)]


@pytest.mark.parametrize("schedule", ALL)
def test_levels_are_those_of_the_betas(schedule):
    with mpmath.workdps(40):
        betas, product, levels = exact_betas(schedule), mpmath.mpf(1), []
        for beta in betas:
            product *= 1 - beta
            levels.append(float(mpmath.log(product / (1 - product))))
        betas = [float(beta) for beta in betas]
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-9)
    np.testing.assert_allclose(schedule.levels, levels, rtol=1e-9, atol=1e-9)
    assert (schedule.logsnr_min, schedule.logsnr_max) == (schedule.levels[-1], schedule.levels[0])


@pytest.mark.parametrize("schedule", ALL)
def test_time_and_level_are_inverse_and_exact_at_whole_times(schedule):
    whole = np.arange(schedule.steps)
    at, time = jax.jit(schedule.at), jax.jit(schedule.time)
    np.testing.assert_array_equal(at(whole), schedule.levels.astype(np.float32))
    np.testing.assert_array_equal(time(schedule.levels), whole)
    between = np.random.default_rng(0).uniform(0, schedule.steps - 1, 500)
    assert np.all(np.diff(at(np.sort(between))) < 0)
    with enable_x64(True):
        np.testing.assert_allclose(schedule.time(schedule.at(between)), between, atol=1e-8)
        halfway = (schedule.levels[1:] + schedule.levels[:-1]) / 2
        np.testing.assert_allclose(schedule.time(halfway), whole[:-1] + 0.5, atol=1e-8)


@pytest.mark.parametrize("schedule", SHORT)
@pytest.mark.slow
def test_the_interpolated_distribution_is_consistent(schedule):
    def density(lam):
        return float(jnp.exp(schedule.log_prob(lam)))

    with enable_x64(True):
        inner = schedule.levels[1:-1]
        for top in (schedule.logsnr_max, schedule.levels[3] + 0.01):
            area, _ = integrate.quad(
                density, schedule.logsnr_min, top, points=inner[inner < top], limit=200
            )
            assert float(schedule.cdf(top)) == pytest.approx(area, abs=1e-6)
        u = np.linspace(0, 1, 97)
        np.testing.assert_allclose(schedule.u(schedule.logsnr(u)), u, atol=1e-9)
        np.testing.assert_allclose(schedule.logsnr(u), schedule.at(u * (schedule.steps - 1)))
    assert schedule.log_prob(schedule.logsnr_max + 0.01) == -jnp.inf
    assert schedule.log_prob(schedule.logsnr_min - 0.01) == -jnp.inf


def guided_diffusion_times(total, count):
    """The time steps of an evenly strided process, as guided-diffusion's respacing counts them."""
    stride, place, times = (total - 1) / (count - 1), 0.0, []
    for _ in range(count):
        times.append(round(place))
        place += stride
    return times[::-1]


@pytest.mark.parametrize("steps", [2, 7, 25, 250, 333, 999, 1000])
def test_even_grids_are_those_of_respaced_processes(steps):
    grid = LINEAR.grid(steps)
    np.testing.assert_array_equal(grid[:-1], LINEAR.levels[guided_diffusion_times(1000, steps)])
    assert grid[-1] == np.inf
    assert np.all(np.diff(grid) > 0)


@pytest.mark.parametrize(("steps", "stride"), [(25, 40), (300, 3), (1000, 1), (1, 1000)])
def test_leading_grids_are_multiples_of_the_stride(steps, stride):
    grid = schedules.LinearBeta(steps=1000, spacing="leading").grid(steps)
    np.testing.assert_array_equal(grid[:-1], LINEAR.levels[stride * np.arange(steps)[::-1]])


def ddim_times(total, count):
    """The time steps of "ddimN", as guided-diffusion's respacing finds them; None for no such."""
    for stride in range(1, total):
        if len(range(0, total, stride)) == count:
            return list(range(0, total, stride))
    return None


def test_leading_grids_are_guided_diffusions_wherever_it_has_one():
    schedule = schedules.LinearBeta(steps=1000, spacing="leading")
    known = {n: times for n in range(2, 1001) if (times := ddim_times(1000, n))}
    assert len(known) == 62
    for count, times in known.items():
        np.testing.assert_array_equal(schedule.grid(count)[:-1], LINEAR.levels[times[::-1]])


def test_one_step_leaves_from_the_greatest_noise():
    np.testing.assert_array_equal(LINEAR.grid(1), [LINEAR.logsnr_min, np.inf])


def ddpm_step(betas, t, z, x):
    """μ̃_t, β̃_t and β_t by Equations 6 and 7 of Ho et al. 2020, in their own ᾱ, float64."""
    bar = np.cumprod(1 - betas)
    before = bar[t - 1] if t else 1.0
    mean = (
        np.sqrt(before) * betas[t] / (1 - bar[t]) * x
        + np.sqrt(1 - betas[t]) * (1 - before) / (1 - bar[t]) * z
    )
    return mean, (1 - before) / (1 - bar[t]) * betas[t], betas[t]


def ancestral(knows, z, noise, v, *, low, high):
    """The sampler's step from one level to another, with given noise."""
    solver, z = solvers.Ancestral(v=v), jnp.asarray(z)
    got, _ = solver.step(
        knows,
        z,
        solver.init(z),
        None,
        lambda: jnp.asarray(noise),
        logsnr=low,
        logsnr_next=high,
    )
    return got


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("t", [999, 998, 500, 20, 1])
@pytest.mark.parametrize("v", [0.0, 1.0])
def test_ancestral_sampling_is_ddpms_posterior(schedule, t, v):
    rng = np.random.default_rng(t)
    z, x, noise = rng.normal(size=(3, 4, 5))
    mean, least, most = ddpm_step(schedule.betas, t, z, x)
    grid = schedule.grid(1000)[::-1][1:]
    with enable_x64(True):
        knows = denoiser.from_prediction(lambda z, logsnr, cond: jnp.asarray(x), prediction.X)
        got = ancestral(knows, z, noise, v, low=grid[t], high=grid[t - 1])
    want = mean + np.sqrt(most if v else least) * noise
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


def test_the_last_step_is_ddpms():
    z, x = np.random.default_rng(0).normal(size=(2, 4, 5))
    mean, least, _ = ddpm_step(LINEAR.betas, 0, z, x)
    assert least == 0.0
    with enable_x64(True):
        knows = denoiser.from_prediction(lambda z, logsnr, cond: jnp.asarray(x), prediction.X)
        low, high = LINEAR.grid(1000)[-2:]
        got = ancestral(knows, z, z, 1.0, low=low, high=high)
    np.testing.assert_allclose(got, mean, rtol=1e-6)


@pytest.mark.parametrize("rounded", [False, True])
def test_a_discrete_network_is_asked_at_its_time(rounded):
    asked = []

    def network(z, t, cond):
        asked.append(t)
        return z * t[:, None]

    adapted = denoiser.from_discrete(network, LINEAR, rounded=rounded)
    out = adapted(jnp.ones((2, 3)), LINEAR.at(jnp.array([7.0, 900.4])), None)
    want = np.array([7.0, 900.0 if rounded else 900.4])
    np.testing.assert_allclose(out, np.repeat(want[:, None], 3, 1), rtol=1e-5)
    adapted(jnp.ones((2, 3)), LINEAR.levels[41], None)
    np.testing.assert_array_equal(asked[-1], [41, 41])
    assert asked[-1].dtype == (jnp.int32 if rounded else jnp.float32)


def test_a_discrete_network_may_predict_v():
    inner = denoiser.from_discrete(lambda z, t, cond: 0.3 * z, COSINE)
    got = denoiser.read(
        denoiser.from_prediction(inner, prediction.V), jnp.ones((1, 2)), COSINE.at(300), None
    )
    bar = np.cumprod(1 - COSINE.betas)[300]
    np.testing.assert_allclose(got.x, np.sqrt(bar) - np.sqrt(1 - bar) * 0.3 * np.ones((1, 2)), 1e-5)


def test_discrete_schedules_are_static():
    assert hash(LINEAR) == hash(schedules.LinearBeta(steps=1000))
    assert schedules.LinearBeta(steps=1000, spacing="leading") != LINEAR
    got = jax.jit(lambda u, s: s.logsnr(u), static_argnums=1)(1.0, LINEAR)
    assert float(got) == np.float32(LINEAR.logsnr_min)


def test_what_no_discrete_schedule_has_is_refused():
    with pytest.raises(ValueError, match="20 steps are too few for LinearBeta"):
        schedules.LinearBeta(steps=20)
    with pytest.raises(ValueError, match="steps must be a whole number from 2 to 100000, got 1"):
        schedules.CosineBeta(steps=1)
    with pytest.raises(ValueError, match="spacing must be"):
        schedules.CosineBeta(spacing="trailing")
    with pytest.raises(ValueError, match="steps must be at most 1000, got 1001"):
        LINEAR.grid(1001)
