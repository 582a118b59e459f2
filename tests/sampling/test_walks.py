"""Walks over the products: solver × grid × schedule, leaf × gradient, front × dtype × mesh."""

import dataclasses
import functools
import inspect
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guidance_methods import LABELS, METHODS, NETWORK, log_prob
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh

import cfg_jax
from cfg_jax import guidance, schedules, solvers
from cfg_jax.diffusion import checks, condition, likelihood
from cfg_jax.diffusion.denoiser import as_pair
from cfg_jax.diffusion.precision import enable_x64
from cfg_jax.sampling import arguments, grids
from cfg_jax.sampling.inversion import invert

KEY = jax.random.key(5)
MEAN, SPREAD = 0.3, 0.5


@jax.tree_util.Partial
def gaussian(z, logsnr, cond):
    """The exact ε of N(0.3, 0.5²), at one level or one an example."""
    level = jnp.asarray(logsnr)
    level = level.reshape(level.shape + (1,) * (z.ndim - level.ndim)) if level.ndim else level
    alpha2, sigma2 = jax.nn.sigmoid(level), jax.nn.sigmoid(-level)
    away = z - jnp.sqrt(alpha2) * MEAN
    return jnp.sqrt(sigma2) * away / (alpha2 * SPREAD**2 + sigma2)


LIMITS = {5: (0.5, 2.0), 20: (0.8, 1.2), 50: (0.95, 1.05)}


def ancestral(alpha, sigma, alpha_next, sigma_next):
    """z' = a z + b x̂ + c ε of Ho & Salimans 2022, Algorithm 2: a, b and c."""
    v = solvers.Ancestral().v
    left = (sigma * alpha_next / (sigma_next * alpha)) ** -2 if sigma_next else 0.0  # e^(λ-λ')
    spread = np.sqrt(1.0 - left) * sigma_next ** (1.0 - v) * sigma**v
    return left * alpha_next / alpha, (1.0 - left) * alpha_next, spread


def flow(alpha, sigma, alpha_next, sigma_next):
    """z' = α' x̂ + σ' ε̂ with ε̂ = (z - α x̂) / σ, a step of Song et al. 2021, Equation 12."""
    return sigma_next / sigma, alpha_next - sigma_next * alpha / sigma, 0.0


FIRST_ORDER = {"Ancestral": ancestral, "DDIM": flow, "Euler": flow}


def product(step, levels):
    """Mean and deviation that steps of order 1 make of N(0, 1) in float64; x̂ is linear in z."""
    levels = np.asarray(levels, np.float64)
    alphas, sigmas = np.sqrt(1 / (1 + np.exp(-levels))), np.sqrt(1 / (1 + np.exp(levels)))
    mean, variance = 0.0, 1.0
    pairs = zip(alphas, sigmas, alphas[1:], sigmas[1:], strict=False)
    for alpha, sigma, alpha_next, sigma_next in pairs:
        a, b, c = step(alpha, sigma, alpha_next, sigma_next)
        slope = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        mean = a * mean + b * (MEAN + slope * (mean - alpha * MEAN))
        variance = (a + b * slope) ** 2 * variance + c**2
    return mean, np.sqrt(variance)


@pytest.mark.slow
@pytest.mark.parametrize("steps", LIMITS)
@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_every_solver_draws_a_gaussian_on_every_grid_of_every_schedule_or_it_is_refused(
    name, steps
):
    """Levels are traced: one program for each solver and number of steps.

    Methods of order 1 have the deviation of their published formula: it loses up to 8 % in 50
    steps, whoever computes it.
    """
    solver, drawn, refused = solvers.SOLVERS[name](), 0, []
    low, high = LIMITS[steps]
    for schedule, grid in itertools.product(schedules.SCHEDULES.values(), grids.GRIDS.values()):
        try:
            _, levels = arguments.walk(schedule(), solver, grid(), steps, 1, jnp.float32)
        except ValueError as error:
            refused.append(f"{schedule.__name__} {grid.__name__}: {error}")
            continue
        x = cfg_jax.sample(
            gaussian,
            KEY,
            shape=(20_000,),
            batch=1,
            schedule=schedule(),
            solver=solver,
            grid=np.array(levels),
        )
        assert float(x.mean()) == pytest.approx(MEAN, abs=0.03)
        if name in FIRST_ORDER:
            mean, deviation = product(FIRST_ORDER[name], levels)
            assert float(x.mean()) == pytest.approx(mean, abs=0.02), (schedule, grid)
            assert float(x.std()) == pytest.approx(deviation, rel=0.02), (schedule, grid)
            low = min(low, 0.92)
        assert low < float(x.std()) / SPREAD < high, (schedule, grid)
        drawn += 1
    assert drawn >= 12
    assert all("is too coarse for" in told for told in refused)


LEVELS = np.array([-4.0, -1.5, 0.2, 1.0, 2.5, np.inf])
LEAVES = [
    (solvers.Ancestral(v=0.3), "v", 0.5),
    (solvers.Ancestral(v=0.3), "v", 0.0),
    (solvers.Ancestral(v=0.3), "v", 1.0),
    (solvers.DDIM(), "eta", 0.0),
    (solvers.DDIM(), "eta", 0.4),
    (solvers.DDIM(), "eta", 1.0),
    (solvers.DPMSolverPP(order=2), "eta", 0.0),
    (solvers.DPMSolverPP(order=3), "eta", 0.4),
    (solvers.DPMSolverPP(order=2), "eta", 1.0),
    *(
        (kind(gamma=0.2, s_min=0.4, s_max=5.0), leaf, at)
        for kind in (solvers.Euler, solvers.Heun)
        for leaf, at in [
            ("gamma", 0.2),
            ("gamma", 0.41),
            ("noise_scale", 1.0),
            ("s_min", 0.4),
            ("s_max", 5.0),
        ]
    ),
]


def drawn_mean(solver, denoiser=gaussian):
    x = cfg_jax.sample(
        denoiser,
        KEY,
        shape=(3,),
        batch=4,
        schedule="cosine",
        solver=solver,
        grid=jnp.asarray(LEVELS),
    )
    return jnp.sum(x**2)


def slopes(function, at, low=None, high=None):
    """The derivative and a finite difference, one-sided of order 2 at the ends of a range."""
    run, by = jax.jit(function), 1e-5
    if at - by < (low if low is not None else -np.inf):
        near = (-3 * run(at) + 4 * run(at + by) - run(at + 2 * by)) / (2 * by)
    elif at + by > (high if high is not None else np.inf):
        near = (3 * run(at) - 4 * run(at - by) + run(at - 2 * by)) / (2 * by)
    else:
        near = (run(at + by) - run(at - by)) / (2 * by)
    return float(jax.jit(jax.grad(function))(at)), float(near)


@pytest.mark.parametrize(
    ("solver", "leaf", "at"), LEAVES, ids=[f"{type(s).__name__}.{n}={at}" for s, n, at in LEAVES]
)
@pytest.mark.slow
def test_the_gradient_by_a_solvers_leaf_is_its_finite_difference(solver, leaf, at):
    with enable_x64(True):
        got, want = slopes(
            lambda value: drawn_mean(dataclasses.replace(solver, **{leaf: value})),
            jnp.float64(at),
            0.0 if leaf in ("v", "eta") else None,
            1.0 if leaf in ("v", "eta") else None,
        )
    assert got == pytest.approx(want, rel=1e-5, abs=1e-6)


def test_every_leaf_of_every_solver_is_among_them():
    named = {(type(solver).__name__, leaf) for solver, leaf, _ in LEAVES}
    have = {
        (name, field.name)
        for name, kind in solvers.SOLVERS.items()
        for field in dataclasses.fields(kind)
        if not field.metadata.get("static") and field.name != "shift"
    }
    assert named == have


@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_what_jax_puts_together_of_a_solver_is_not_checked(name):
    """A gradient by all its knobs, or their axes, lie in no range; what a person makes does."""
    solver = solvers.SOLVERS[name]()
    found = jax.grad(lambda solver: -9.0 * sum(map(jnp.sum, jax.tree.leaves(solver))))(solver)
    assert isinstance(found, solvers.SOLVERS[name])
    assert jax.tree.leaves(found) == [-9.0] * len(jax.tree.leaves(solver))
    for leaf in ("v", "eta", "gamma", "noise_scale", "s_min"):
        if hasattr(solver, leaf):
            with pytest.raises(ValueError, match=f"{leaf} must lie in .* got -9.0"):
                dataclasses.replace(solver, **{leaf: -9.0})


@pytest.mark.parametrize("kind", [solvers.Euler, solvers.Heun])
def test_without_churn_the_gradient_by_gamma_is_that_of_all_but_the_noise(kind):
    with enable_x64(True):
        got = jax.grad(lambda g: drawn_mean(kind(gamma=g)))(jnp.float64(0.0))
        quiet = slopes(lambda g: drawn_mean(kind(gamma=g, noise_scale=0.0)), jnp.float64(0.0), 0.0)
    assert float(got) == pytest.approx(quiet[1], rel=1e-5)


def test_the_gradient_through_a_learned_variance_is_its_finite_difference():
    def network(a, z, logsnr, cond):
        pair = as_pair(gaussian(z, logsnr, cond), z, logsnr)
        return pair._replace(v=a * jax.nn.sigmoid(z))

    with enable_x64(True):
        got, want = slopes(
            lambda a: drawn_mean(solvers.Ancestral(v=None), jax.tree_util.Partial(network, a)),
            jnp.float64(0.7),
        )
    assert got == pytest.approx(want, rel=1e-5)


def labelled(z, logsnr, cond):
    return gaussian(z, logsnr, None) + 0.1 * jnp.sin(cond[:, None] * z)


def of_pictures(rate, z, logsnr, cond):
    return labelled(z.reshape(len(z), -1), logsnr, cond).reshape(z.shape) + rate * jnp.tanh(z)


def brightness(pictures):
    return jnp.tanh(pictures.mean((1, 2)))


KNOB = 0.1


def guided(name):
    """A guidance around a network, the solver under it, and the shape of a sample."""
    if name == "ascent":
        shift = guidance.ascent(jax.tree_util.Partial(log_prob), w=KNOB)
        return NETWORK, solvers.Ancestral(v=0.3, shift=shift), (4,)
    if name == "cutouts":
        network, text = jax.tree_util.Partial(of_pictures, 0.3), np.full((3, 1), 0.7)
        method = guidance.cutouts(
            network,
            jax.tree_util.Partial(brightness),
            text=text,
            key=KEY,
            size=2,
            w=KNOB,
            count=2,
        )
        return method, solvers.DDIM(eta=0.3), (4, 4, 1)
    return METHODS[name].make(NETWORK, KNOB), solvers.DDIM(eta=0.3), (4,)


GUIDED = [*METHODS, "ascent", "cutouts"]


@pytest.mark.parametrize("name", GUIDED)
@pytest.mark.slow
def test_the_gradient_by_every_leaf_of_a_guidance_is_its_finite_difference(name):
    """The leaves of the networks within it, too."""
    *parts, shape = guided(name)

    def floating(leaf):
        return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)

    with enable_x64(True):
        leaves, structure = jax.tree.flatten(parts)
        floats = [jnp.asarray(leaf, jnp.float64) for leaf in leaves if floating(leaf)]
        at, restored = ravel_pytree(floats)

        def total(values):
            held = iter(restored(values))
            denoiser, solver = jax.tree.unflatten(
                structure, [next(held) if floating(leaf) else leaf for leaf in leaves]
            )
            x = cfg_jax.sample(
                denoiser,
                KEY,
                LABELS,
                shape=shape,
                schedule="cosine",
                solver=solver,
                grid=jnp.asarray(LEVELS),
            )
            return jnp.sum(x**2)

        run, by = jax.jit(total), 1e-5
        got = jax.jit(jax.grad(total))(at)
        steps = by * np.eye(len(at))
        want = [(run(at + step) - run(at - step)) / (2 * by) for step in steps]
    assert len(at) >= 2
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_every_guidance_is_among_them():
    """What is public and makes a guidance, and what a classifier moves a mean by."""
    made = {name for name in guidance.__all__ if name.islower()} - {"unconditional"}
    numbers_and_pictures = {"from_scale", "to_scale", "cut_out"}
    assert {name.split()[0] for name in GUIDED} == made - numbers_and_pictures


def auto():
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def explicit():
    return jax.make_mesh((8,), ("a",), axis_types=(AxisType.Explicit,))


def plain():
    return Mesh(np.array(jax.devices()), ("a",))


FRONTS = {
    "sample": lambda: cfg_jax.sample,
    "pmap_sample": lambda: cfg_jax.pmap_sample,
    **{
        f"sharded_sample over {kind.__name__}": functools.partial(
            lambda kind: functools.partial(cfg_jax.sharded_sample, mesh=kind()), kind
        )
        for kind in (auto, explicit, plain)
    },
}
# XLA has no conversion of float16 for the oldest processors, which the tests compile for.
FLAGS = os.environ.get("XLA_FLAGS", "").split()
OLDEST = [flag for flag in FLAGS if "SSE4_2" in flag]
NARROW = [jnp.bfloat16, *([] if OLDEST else [jnp.float16])]
GIVEN = {"shape": (2,), "schedule": "cosine", "steps": 3}


each_dtype = pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        *((dtype, wide) for dtype in (*NARROW, jnp.float32) for wide in (False, True)),
        (jnp.float64, True),
    ],
    ids=lambda value: f"x{32 * (1 + value)}" if isinstance(value, bool) else value.__name__,
)


@pytest.mark.slow
@each_dtype
@pytest.mark.parametrize("front", FRONTS)
def test_every_front_keeps_the_noises_dtype_on_every_mesh(front, dtype, wide):
    count = 5  # which eight devices do not divide
    with enable_x64(wide):
        network = jax.tree_util.Partial(lambda a, z, lam, c: (a * z).astype(z.dtype), 0.3)
        z32 = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
        z = jnp.asarray(z32, dtype)
        got = FRONTS[front]()(network, KEY, z=z, **GIVEN)
        assert got.dtype == dtype
        want = cfg_jax.sample(network, KEY, z=z.astype(float), **GIVEN)
        np.testing.assert_allclose(
            np.asarray(got, float), want, rtol=3 * float(jnp.finfo(dtype).eps), atol=1e-5
        )


@pytest.mark.slow
@pytest.mark.skipif(not OLDEST, reason="float16 is among the others")
def test_float16_is_kept_too():
    """In a process that compiles for the processor there is."""
    flags = " ".join(flag for flag in FLAGS if flag not in OLDEST)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", "-m", ""]
    done = subprocess.run(
        [*argv, "-k", "float16 and not bfloat16 and not kept_too", __file__],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{2 * len(FRONTS) + 2} passed" in done.stdout


@pytest.mark.parametrize("wide", [False, True], ids=["x32", "x64"])
@pytest.mark.parametrize("name", solvers.SOLVERS)
@pytest.mark.slow
def test_every_solver_keeps_the_noises_dtype(name, wide):
    with enable_x64(wide):
        for dtype in (jnp.bfloat16, jnp.float32):
            guided = guidance.classifier_free(labelled, w=0.5, null=3.0)
            got = cfg_jax.sample(
                guided, KEY, jnp.ones(2), z=jnp.ones((2, 2), dtype), solver=name, **GIVEN
            )
            assert got.dtype == dtype
            assert np.all(np.isfinite(np.asarray(got, float)))


@pytest.mark.slow
@each_dtype
def test_bounds_densities_and_inversion_take_every_dtype(dtype, wide):
    with enable_x64(wide):
        guided = guidance.classifier_free(labelled, w=0.5, null=3.0)
        x, cond = jnp.full((2, 3), 0.25, dtype), jnp.ones(2)
        schedule = schedules.Uniform(logsnr_min=-5.0, logsnr_max=5.0)
        bound = likelihood.continuous_vlb(guided, KEY, x, cond, schedule=schedule, samples=2)
        flow = likelihood.ode_log_prob(guided, x, cond, schedule=schedule, steps=3)
        discrete = likelihood.discrete_vlb(guided, KEY, x, cond, schedule=schedule, steps=3)
        for found in (bound.nats, flow.log_prob, discrete.nats):
            assert found.dtype == jnp.float32 or wide
            assert np.all(np.isfinite(found))
        for exact in (False, True):
            found = invert(guided, x, cond, schedule="Cosine", steps=4, exact=exact)
            assert found.z.dtype == dtype
            assert np.all(np.isfinite(np.asarray(found.z, np.float64)))


@pytest.mark.slow
@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_levels_as_an_array_are_the_grids_own(name):
    levels = grids.Secant()(schedules.Cosine(), 6)
    walk = {"shape": (3,), "batch": 4, "schedule": "cosine", "solver": name}
    want = cfg_jax.sample(gaussian, KEY, steps=6, **walk)
    one = cfg_jax.sample(gaussian, KEY, grid=jnp.asarray(levels), **walk)
    each = cfg_jax.sample(gaussian, KEY, grid=np.tile(levels, (4, 1)), **walk)
    np.testing.assert_allclose(one, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(each, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", solvers.SOLVERS)
@pytest.mark.parametrize("front", ["pmap_sample", "sharded_sample over explicit"])
def test_each_example_may_walk_a_grid_of_its_own(name, front):
    """As it would alone, and on any number of devices."""
    some = [np.append(np.linspace(-6.0 - i, 4.0 + i, 5), np.inf) for i in range(3)]
    limited = guidance.interval(
        guidance.classifier_free(labelled, w=1.0, null=3.0), low=-2.0, high=2.5
    )
    walk = {"shape": (3,), "schedule": "cosine", "solver": name}
    cond = jnp.arange(3.0)
    got = cfg_jax.sample(limited, KEY, cond, grid=np.stack(some), **walk)
    for i, levels in enumerate(some):
        alone = cfg_jax.sample(
            limited,
            KEY,
            cond[i : i + 1],
            grid=lambda schedule, steps, levels=levels: levels,
            steps=5,
            offset=i,
            **walk,
        )
        np.testing.assert_allclose(got[i], alone[0], rtol=2e-4, atol=2e-5)
    again = FRONTS[front]()(limited, KEY, cond, grid=np.stack(some), **walk)
    np.testing.assert_allclose(again, got, rtol=1e-4, atol=1e-5)


def test_new_levels_compile_nothing():
    traces = []

    def counted(z, logsnr, cond):
        traces.append(1)
        return gaussian(z, logsnr, cond)

    network = jax.tree_util.Partial(counted)
    for end in (2.0, 3.0):
        levels = np.append(np.linspace(-5.0, end, 4), np.inf)
        cfg_jax.sample(network, KEY, shape=(2,), batch=1, schedule="cosine", grid=levels)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("grid", "steps", "message"),
    [
        (np.zeros((2, 4)), None, r"shape \(steps \+ 1,\), or \(3, steps \+ 1\)"),
        (np.array(1.0), None, "shape"),
        (np.array([0.0, 1.0]), 2, "the grid has 1 steps, but steps is 2"),
        (np.array([0.0, 0.0, 1.0]), None, "must ascend"),
        (np.array([0.0, np.nan, 1.0]), None, "finite"),
    ],
)
def test_an_array_that_is_no_grid_is_refused(grid, steps, message):
    with pytest.raises(ValueError, match=message):
        cfg_jax.sample(
            gaussian, KEY, shape=(1,), batch=3, schedule="cosine", grid=grid, steps=steps
        )


class Holder:
    """An object that JAX does not know."""

    def __init__(self, rate):
        self.rate = rate

    def eps(self, z, logsnr, cond):
        return self.rate * z

    def __call__(self, z, logsnr, cond):
        return self.rate * z


RATES = [0.3, np.float32(0.3), jnp.float32(0.3), jnp.full(2, 0.3), np.full(2, 0.3, np.float32)]


HELD = [
    *(("sample", rate, "closure") for rate in RATES),
    *(("sample", RATES[3], kind) for kind in ("method", "object", "guided")),
    *((front, RATES[3], "closure") for front in FRONTS if front != "sample"),
]


@pytest.mark.parametrize(("front", "rate", "kind"), HELD)
@pytest.mark.slow
def test_what_a_function_holds_counts_as_it_is_now(front, rate, kind):
    held = Holder(rate)
    denoiser = {
        "closure": lambda z, logsnr, cond: held.rate * z,
        "method": held.eps,
        "object": held,
        "guided": guidance.autoguidance(held, gaussian, w=0.5),
    }[kind]
    draw = FRONTS[front]()
    before = draw(denoiser, KEY, batch=3, **GIVEN)
    held.rate = 2 * held.rate
    after = draw(denoiser, KEY, batch=3, **GIVEN)
    other = jax.tree_util.Partial(lambda rate, z, logsnr, cond: rate * z, held.rate)
    want = guidance.autoguidance(other, gaussian, w=0.5) if kind == "guided" else other
    np.testing.assert_allclose(after, draw(want, KEY, batch=3, **GIVEN), rtol=1e-5)
    assert np.abs(after - before).max() > 0.1


def test_the_fronts_share_one_signature():
    sample, pmap, sharded = (
        inspect.signature(front).parameters
        for front in (cfg_jax.sample, cfg_jax.pmap_sample, cfg_jax.sharded_sample)
    )
    assert list(sample) == list(pmap) == [name for name in sharded if name != "mesh"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'label'"):
        cfg_jax.pmap_sample(gaussian, KEY, batch=1, label=3, **GIVEN)


MISTAKES = [
    ({"solver": "dim"}, ValueError, r"solver must be one of .*; got 'dim'; did you mean DDIM\?"),
    ({"grid": "karas"}, ValueError, r"grid must be one of .*did you mean Karras\?"),
    ({"schedule": "cos"}, ValueError, "schedule must be one of Cosine, Uniform"),
    ({"solver": solvers.DDIM}, TypeError, r"solver must be .* got the class DDIM"),
    ({"steps": 2.5}, ValueError, "steps must be a whole number of at least 1, got 2.5"),
    ({"steps": None}, ValueError, "steps must be given"),
    ({"shape": (2, -1)}, ValueError, "shape's entries must be a whole number of at least 1"),
    ({"batch": 0}, ValueError, "batch must be a whole number of at least 1, got 0"),
    ({"offset": -1}, ValueError, "offset must be a whole number from 0 to 2147483646, got -1"),
    ({"batch": 3, "z": jnp.zeros((2, 2))}, ValueError, "disagree on the number of examples"),
    ({"batch": None, "cond": jnp.zeros(0)}, ValueError, "there is no example to sample"),
    ({"batch": 2**31 + 5}, ValueError, "batch must be at most 2147483647, got 2147483653"),
    ({"shape": (10**12,)}, ValueError, "shape must be of at most 2³¹ numbers, got"),
    ({"shape": (2**20, 2**20)}, ValueError, "shape must be of at most 2³¹ numbers, got"),
    ({"shape": (2**30,), "batch": 2**11}, ValueError, r"z must hold at most 2\*\*40 numbers; 2048"),
    ({"steps": 1_000_001}, ValueError, "steps must be at most 1000000, got 1000001"),
    ({"z": "x"}, ValueError, "z must be an array of numbers, got 'x'"),
    ({"z": 0.5}, ValueError, r"z must be an array of numbers, \(batch, ...\), got float32 of \(\)"),
    ({"z": np.zeros((2, 2), int)}, ValueError, "z must be an array of floats, got int32"),
    ({"solver": solvers.DDIM(eta=np.zeros(2))}, ValueError, r"eta must be one number, .* \(2,\)"),
    ({"solver": solvers.DDIM(eta=np.eye(2))}, ValueError, r"eta must be one number, .* \(2, 2\)"),
    ({"solver": solvers.Ancestral(v=np.zeros(2))}, ValueError, "v must be one number"),
    ({"solver": solvers.Heun(gamma=np.zeros(2))}, ValueError, "gamma must be one number"),
    ({"solver": solvers.DPMSolverPP(eta=np.zeros(2))}, ValueError, "eta must be one number"),
    *(
        ({"steps": None, "grid": np.linspace(-end, end, 9)}, ValueError, r"must lie in \[-80, 80\]")
        for end in (200.0, 1e4)
    ),
    (
        {"grid": lambda schedule, steps: np.linspace(-200.0, 200.0, steps + 1)},
        ValueError,
        r"a grid's levels must lie in \[-80, 80\], all but the last",
    ),
]


@pytest.mark.parametrize(("change", "kind", "message"), MISTAKES)
def test_a_natural_mistake_is_told_in_one_sentence(monkeypatch, change, kind, message):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(kind, match=message) as refusal:
        cfg_jax.sample(gaussian, KEY, **{"batch": 2, **GIVEN, **change})
    assert "\n" not in str(refusal.value)


def test_a_mesh_of_no_device_is_refused():
    with pytest.raises(ValueError, match="mesh must hold at least one device"):
        arguments.automatic(jax.sharding.Mesh(np.array([]), ("batch",)))


def test_a_knob_for_each_example_is_mapped_over():
    """Each its own process: a knob has one number in a step, whatever axes it was made with."""

    def draw(solver):
        return cfg_jax.sample(gaussian, KEY, batch=2, **{**GIVEN, "solver": solver})

    got = jax.vmap(draw)(solvers.DDIM(eta=np.array([0.0, 0.7], np.float32)))
    for eta, found in zip((0.0, 0.7), got, strict=True):
        np.testing.assert_allclose(found, draw(solvers.DDIM(eta=eta)), rtol=1e-5, atol=1e-6)


def test_what_is_no_key_condition_or_denoiser_is_told_too():
    for call, message in [
        (lambda: checks.random_key(0), "key must be a JAX random key, such as .*, got 0"),
        (lambda: condition.arrays("cond", ["3"]), r"cond must be a pytree .* got \['3'\]"),
        (lambda: checks.function("denoiser", 3), "denoiser must be a callable .* got 3"),
        (lambda: arguments.example_shape(3), "shape must be one example's, such as .* got 3"),
        (
            lambda: arguments.walk(schedules.Cosine, None, None, 3, 1, jnp.float32),
            "schedule must be .* got the class Cosine",
        ),
    ]:
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize("key", [jax.random.key(1), jax.random.PRNGKey(1)])
def test_names_and_any_whole_number_work_where_objects_do(key):
    want = cfg_jax.sample(
        gaussian,
        key,
        shape=(2,),
        batch=2,
        schedule=schedules.Cosine(),
        solver=solvers.DPMSolverPP(),
        grid=grids.UniformLogSNR(),
        steps=4,
    )
    got = cfg_jax.sample(
        gaussian,
        key,
        shape=[2],
        batch=np.int32(2),
        schedule="COSINE",
        solver="dpm_solver_pp",
        grid="uniform-logsnr",
        steps=jnp.int32(4),
    )
    np.testing.assert_array_equal(got, want)
