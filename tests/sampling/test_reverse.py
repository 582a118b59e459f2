"""The scan is cut where a denoiser switches, and is otherwise the same loop."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax import schedules, solvers
from cfg_jax.diffusion.precision import enable_x64
from cfg_jax.sampling import grids
from cfg_jax.sampling.reverse import reverse

KEY, SCHEDULE = jax.random.key(3), schedules.Cosine()
LOW, HIGH = -1.0, 2.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Switching:
    """`inside` where LOW ≤ λ < HIGH, `outside` elsewhere; as it is, it only knows the inside."""

    inside: Any
    outside: Any

    def breaks(self):
        return (LOW, HIGH)

    def at(self, logsnr):
        return self.inside if LOW <= logsnr < HIGH else self.outside

    def held(self, level):
        raise AssertionError("levels that are known are not held to")

    def __call__(self, z, logsnr, cond):
        raise AssertionError("a piecewise denoiser is resolved before the scan")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scaled:
    """Some denoiser with another one inside."""

    inner: Any
    factor: float

    def __call__(self, z, logsnr, cond):
        return self.factor * self.inner(z, logsnr, cond)


def gaussian(spread, z, logsnr, cond):
    alpha2, sigma2 = jax.nn.sigmoid(logsnr), jax.nn.sigmoid(-logsnr)
    return jnp.sqrt(sigma2) * z / (alpha2 * spread**2 + sigma2)


NARROW, WIDE = (jax.tree_util.Partial(gaussian, spread) for spread in (0.2, 0.9))


def run(denoiser, solver, steps=12, **more):
    return cfg_jax.sample(
        denoiser,
        KEY,
        shape=(3,),
        batch=4,
        schedule=SCHEDULE,
        solver=solver,
        steps=steps,
        **more,
    )


SOLVERS = [solvers.Ancestral(v=0.3), solvers.UniPC(order=3)]


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_what_is_the_same_on_both_sides_is_not_changed_by_the_cut(solver):
    """History and noise go on across it."""
    np.testing.assert_allclose(
        run(Switching(NARROW, NARROW), solver), run(NARROW, solver), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_each_side_is_used_where_it_belongs(solver):
    def both(z, logsnr, cond):
        inside = (logsnr >= LOW) & (logsnr < HIGH)
        return jnp.where(inside, NARROW(z, logsnr, cond), WIDE(z, logsnr, cond))

    got = run(Scaled(Switching(NARROW, WIDE), 1.1), solver)
    np.testing.assert_allclose(got, run(Scaled(both, 1.1), solver), rtol=1e-5, atol=1e-6)
    assert np.abs(got - run(Scaled(NARROW, 1.1), solver)).max() > 1e-3


def test_a_network_is_called_in_its_own_range_alone():
    called = {"inside": [], "outside": []}

    def counting(name):
        def denoiser(z, logsnr, cond):
            jax.debug.callback(lambda level: called[name].append(float(level)), logsnr)
            return NARROW(z, logsnr, cond)

        return denoiser

    switching = Switching(counting("inside"), counting("outside"))
    run(switching, solvers.UniPC(order=3), steps=16, grid=grids.UniformLogSNR())
    jax.effects_barrier()
    levels = grids.UniformLogSNR()(SCHEDULE, 16)[:-1]
    within = (levels >= LOW) & (levels < HIGH)
    np.testing.assert_allclose(sorted(called["inside"]), levels[within], atol=1e-5)
    np.testing.assert_allclose(sorted(called["outside"]), levels[~within], atol=1e-5)


def test_a_break_at_a_level_belongs_to_the_cleaner_side():
    called = []

    def inside(z, logsnr, cond):
        jax.debug.callback(lambda level: called.append(float(level)), logsnr)
        return z

    run(
        Switching(inside, NARROW),
        solvers.DDIM(),
        steps=3,
        grid=lambda schedule, steps: np.array([-3.0, LOW, HIGH, 5.0]),
    )
    jax.effects_barrier()
    assert called == [LOW]


def test_the_program_grows_with_the_cuts_and_not_with_the_steps():
    def loops(denoiser, steps):
        lowered = jax.jit(
            lambda key: cfg_jax.sample(
                denoiser,
                key,
                shape=(3,),
                batch=4,
                schedule=SCHEDULE,
                solver=solvers.UniPC(order=3),
                steps=steps,
            )
        ).lower(KEY)
        return lowered.as_text().count("\n")

    assert loops(NARROW, 50) == loops(NARROW, 500)
    cut = Switching(NARROW, WIDE)
    assert loops(cut, 50) == loops(cut, 500) > loops(NARROW, 50)


def test_the_last_level_does_not_matter():
    def to(end):
        return reverse(
            NARROW,
            solvers.UniPC(order=2),
            KEY,
            jnp.arange(2),
            None,
            None,
            shape=(3,),
            levels=(-8.0, 0.0, 3.0, end),
        )

    np.testing.assert_array_equal(to(4.0), to(float("inf")))


def test_float64_goes_through():
    with enable_x64(True):
        z = np.random.default_rng(0).normal(size=(4, 3))
        for solver in SOLVERS:
            assert run(NARROW, solver, z=jnp.asarray(z)).dtype == jnp.float64
