"""Grids: the formulas they stand for, their ends, and what they are to the defaults."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import sample, schedules, solvers
from cfg_jax.diffusion.precision import enable_x64
from cfg_jax.sampling import grids
from cfg_jax.sampling.defaults import choose, default_solver

SCHEDULE = schedules.Cosine(logsnr_min=-9.0, logsnr_max=13.0)
GRIDS = [grids.UniformU(), grids.UniformLogSNR(), grids.Karras(), grids.Secant()]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 5, 40, 1000])
@pytest.mark.parametrize("ends", [(-9.0, 13.0), (-20.0, 20.0), (-2.0, 1.0), (5.0, 6.0)])
def test_levels_ascend_within_the_schedule(grid, steps, ends):
    schedule = schedules.Uniform(logsnr_min=ends[0], logsnr_max=ends[1])
    if isinstance(grid, grids.Secant) and ends == (5.0, 6.0) and steps in (2, 5):
        grid = grids.Secant(end=5.5, growth=0.0)  # its own end lies below this schedule's range
    levels = grid(schedule, steps)
    assert levels.shape == (steps + 1,)
    assert levels.dtype == np.float64
    assert np.all(np.diff(levels) > 0)
    assert levels[0] == pytest.approx(max(ends[0], -20.0 if grid == grids.UniformU() else -10.2))
    assert levels[-2] <= ends[1] + 1e-9


def test_uniform_in_u_is_the_schedules_own():
    np.testing.assert_array_equal(grids.UniformU()(SCHEDULE, 7), SCHEDULE.grid(7))


def test_karras_is_equation_5():
    rho, steps = 7.0, 6
    high, low = math.exp(9.0 / 2), math.exp(-13.0 / 2)
    want = [
        (high ** (1 / rho) + i / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(steps)
    ]
    levels = grids.Karras(rho=rho)(SCHEDULE, steps)
    np.testing.assert_allclose(np.exp(-levels / 2), [*want, 0.0], rtol=1e-9)


def test_secant_of_width_1_around_0_is_the_cosine_schedule():
    cosine = schedules.Cosine(logsnr_min=-9.0, logsnr_max=4.5)
    plain = grids.Secant(centre=0.0, width=1.0, spread=0.0, end=4.5, growth=0.0)
    np.testing.assert_allclose(plain(SCHEDULE, 8)[:-1], cosine.grid(7), rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 3, 6, 24])
def test_secant_spreads_towards_the_noise_with_more_steps(steps):
    by = 0.5 * math.log(max(steps, 6) / 6)
    grid = grids.Secant(centre=1.0, width=1.5, spread=0.5, end=4.5, growth=0.0)
    same = grids.Secant(centre=1.0 - by, width=1.5 + by, spread=0.0, end=4.5, growth=0.0)
    np.testing.assert_array_equal(grid(SCHEDULE, steps), same(SCHEDULE, steps))


def test_grids_are_hashable_and_equal_by_value():
    assert len({*GRIDS, grids.Karras(rho=7.0), grids.Secant()}) == len(GRIDS)


def test_what_is_not_named_is_filled_in():
    ddim = solvers.DDIM()
    assert choose(None, None, 10) == (solvers.UniPC(order=2), grids.Secant())
    assert choose(None, None, 20) == (solvers.UniPC(order=3), grids.Secant())
    assert choose(ddim, None, 10) == (ddim, grids.Secant())
    assert choose(ddim, grids.Karras(), 10) == (ddim, grids.Karras())
    assert choose(None, grids.Karras(), 10) == (solvers.UniPC(order=2), grids.Karras())
    assert default_solver(1).calls(1) == 1


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_denoiser_is_called_at_the_levels(grid):
    """And at no others; the last, clean data, is not called at."""
    seen = []

    def denoiser(z, logsnr, cond):
        jax.debug.callback(lambda level: seen.append(float(level)), logsnr)
        return z

    sample(denoiser, jax.random.key(0), shape=(2,), batch=1, schedule=SCHEDULE, grid=grid, steps=9)
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen), grid(SCHEDULE, 9)[:-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([0.0, 1.0], "must return 4 levels"),
        ([0.0, 1.0, np.inf, np.inf], "finite, all but the last"),
        ([0.0, 2.0, 1.0, 3.0], "must ascend"),
    ],
)
def test_a_grid_that_is_none_is_refused(levels, message):
    with pytest.raises(ValueError, match=message):
        sample(
            lambda z, logsnr, cond: jnp.zeros_like(z),
            jax.random.key(0),
            shape=(2,),
            batch=1,
            schedule=SCHEDULE,
            grid=lambda schedule, steps: np.array(levels),
            steps=3,
        )


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_schedules_name_works_where_the_schedule_does(monkeypatch, grid):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    np.testing.assert_array_equal(grid("cosine", 5), grid(schedules.Cosine(), 5))
    with pytest.raises(TypeError, match=r"schedule must be one of Cosine, .*, got None"):
        grid(None, 5)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_steps_are_refused(grid):
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        grid(SCHEDULE, 0)


def test_knobs_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"rho must lie in \[0\.1, 1000\], got 0\.0"):
        grids.Karras(rho=0.0)
    with pytest.raises(ValueError, match=r"centre must lie in \[-80, 80\], got nan"):
        grids.Secant(centre=math.nan)
    with pytest.raises(ValueError, match=r"width must lie in \[0\.2, 1000\], got 0\.0"):
        grids.Secant(width=0.0)
    with pytest.raises(ValueError, match=r"spread must lie in \[0, 80\], got -1\.0"):
        grids.Secant(spread=-1.0)
    with pytest.raises(ValueError, match=r"start must be less than end, got start=13\.0"):
        grids.Karras(start=13.0)
    with pytest.raises(ValueError, match="end must be a finite number, got inf"):
        grids.UniformLogSNR(end=math.inf)


@pytest.mark.parametrize("grid", [grids.UniformLogSNR(), grids.Karras()], ids=str)
def test_a_schedule_beyond_what_a_sample_needs_is_cut(grid):
    wide, narrow = (
        schedules.Uniform(logsnr_min=low, logsnr_max=high)
        for low, high in [(-20.0, 20.0), (-10.2, 13.0)]
    )
    np.testing.assert_array_equal(grid(wide, 9), grid(narrow, 9))
    outside = schedules.Uniform(logsnr_min=14.0, logsnr_max=16.0)
    assert grid(outside, 3)[0] == pytest.approx(14.0)


@pytest.mark.parametrize(
    ("schedule", "grid", "steps", "refused"),
    [
        ("Uniform", "UniformU", 5, True),
        ("Uniform", "UniformU", 20, True),
        ("Uniform", "UniformU", 4, False),
        ("Uniform", "UniformU", 200, False),
        ("Cosine", "UniformU", 5, False),
        ("LinearBeta", "UniformU", 20, False),
    ],
)
def test_what_is_too_coarse_for_any_solver_is_refused_by_name(schedule, grid, steps, refused):
    def run():
        return sample(
            lambda z, logsnr, cond: z,
            jax.random.key(0),
            shape=(1,),
            batch=1,
            schedule=schedule,
            grid=grid,
            steps=steps,
            solver="ddim",
        )

    if refused:
        with pytest.raises(
            ValueError, match=rf"UniformU\(\) is too coarse for .* in {steps} steps"
        ):
            run()
    else:
        run()


def test_the_share_that_is_judged_is_what_ddim_draws():
    """Of N(0, 0.25), in float64: the last samples over the first noise."""
    levels = np.array([-9.0, -3.0, 0.0, 2.0, 6.0, np.inf])
    z = 1.0
    for low, high in itertools.pairwise(levels):
        (a, s), (a2, s2) = (
            (np.sqrt(1 / (1 + np.exp(-lam))), np.sqrt(1 / (1 + np.exp(lam)))) for lam in (low, high)
        )
        eps = s * z / (0.25 * a**2 + s**2)
        z = a2 * (z - s * eps) / a + s2 * eps
    share = z / 0.5
    assert 0.5 < share < 1.0
    grids.check_fineness(grids.UniformU(), SCHEDULE, levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grids, "_SHARES", {5: share + 1e-9})
        with pytest.raises(ValueError, match=f"{share:.2f} of the data's spread"):
            grids.check_fineness(grids.UniformU(), SCHEDULE, levels)
        patch.setattr(grids, "_SHARES", {5: share - 1e-9})
        grids.check_fineness(grids.UniformU(), SCHEDULE, levels)


@pytest.mark.parametrize("steps", [2, 20, 10_000])
def test_the_extremes_of_the_knobs_give_levels_that_ascend(steps):
    schedule = schedules.Uniform(logsnr_min=-80.0, logsnr_max=80.0)
    ends = {"start": -80.0, "end": 80.0}
    made = [grids.Karras(rho=rho, **ends) for rho in (0.1, 1000.0)]
    for centre, width, spread in itertools.product((-80.0, 80.0), (0.2, 1000.0), (0.0, 80.0)):
        made.append(grids.Secant(centre=centre, width=width, spread=spread, **ends))
    for grid in made:
        with np.errstate(all="raise", under="ignore"):
            levels = grid(schedule, steps)
        assert np.all(np.isfinite(levels[:-1]))
        assert np.all(np.diff(levels[:-1]) > 0.0)


def test_levels_closer_than_single_precision_are_refused():
    close = [0.0, 1.0, 1.0 + 1e-9, np.inf]
    walk = {"shape": (1,), "batch": 1, "schedule": SCHEDULE, "grid": np.array(close)}
    with pytest.raises(ValueError, match="must differ by more than float32 resolves"):
        sample(lambda z, logsnr, cond: z, jax.random.key(0), **walk)
    with enable_x64(True):
        x = sample(lambda z, logsnr, cond: z, jax.random.key(0), **walk)
    assert np.all(np.isfinite(x))
