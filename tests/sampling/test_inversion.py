"""Inversion: the way back of each step against numpy, and round trips through the sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import denoiser, guidance, mixtures, prediction, sample, schedules, solvers
from cfg_jax.diffusion.precision import enable_x64
from cfg_jax.sampling import grids
from cfg_jax.sampling.inversion import invert

RNG = np.random.default_rng(0)
MIXTURE = mixtures.gaussian_mixture(RNG.normal(0, 0.5, (3, 2, 4)), 0.3)
LABELS = jnp.array([0, 1, 2, 3, 0])
X = jnp.asarray(MIXTURE.sample(jax.random.key(0), LABELS))
SCHEDULE = schedules.Cosine(logsnr_min=-10.0, logsnr_max=10.0)


def guided(w):
    return guidance.classifier_free(MIXTURE, w=w, null=MIXTURE.null)


def wide(tree):
    return jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float64) if jnp.result_type(a).kind == "f" else a, tree
    )


def test_the_explicit_inverse_is_the_papers_formula():
    levels = SCHEDULE.grid(3)[:-1]
    a, s = np.sqrt(1 / (1 + np.exp(-levels))), np.sqrt(1 / (1 + np.exp(levels)))
    with enable_x64(True):
        data, x = wide(MIXTURE), np.asarray(X, np.float64)

        def eps(z, level):
            return np.asarray(data(jnp.asarray(z), level, LABELS))

        z = a[2] * x + s[2] * eps(a[2] * x, levels[2])
        for k in (1, 0):
            noise = eps(z, levels[k + 1])
            z = a[k] * (z - s[k + 1] * noise) / a[k + 1] + s[k] * noise
        got = invert(data, jnp.asarray(x), LABELS, schedule=SCHEDULE, steps=3)
        again = sample(
            data,
            jax.random.key(7),
            LABELS,
            shape=(4,),
            schedule=SCHEDULE,
            solver=solvers.DDIM(),
            grid=grids.UniformU(),
            steps=3,
            z=got.z,
        )
    np.testing.assert_allclose(got.z, z, rtol=1e-10)
    np.testing.assert_allclose(got.error, np.abs(x - np.asarray(again)).max(1), rtol=1e-9)


@pytest.mark.parametrize("w", [0.0, 1.0])
@pytest.mark.parametrize(
    ("schedule", "steps", "grid"),
    [
        (SCHEDULE, 10, None),
        (schedules.Cosine(), 10, None),
        (schedules.LinearBeta(), 40, None),
        (SCHEDULE, 20, grids.UniformLogSNR()),
    ],
)
def test_the_exact_inverse_is_exact(w, schedule, steps, grid):
    with enable_x64(True):
        found = invert(
            wide(guided(w)),
            jnp.asarray(X, jnp.float64),
            LABELS,
            schedule=schedule,
            steps=steps,
            grid=grid,
            exact=True,
            tolerance=1e-11,
        )
    assert np.all(found.error < 1e-7)


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_in_single_precision_the_exact_inverse_beats_the_explicit_one(w):
    def error(exact):
        return np.asarray(
            invert(guided(w), X, LABELS, schedule=SCHEDULE, steps=20, exact=exact).error
        )

    assert np.all(error(True) < 1e-3)
    assert np.all(error(True) < 0.1 * error(False))


def test_the_explicit_inverse_converges_with_the_steps():
    errors = [
        float(invert(MIXTURE, X, LABELS, schedule=SCHEDULE, steps=n).error.max()) for n in (25, 200)
    ]
    assert errors[1] < 0.25 * errors[0]


def test_the_noise_of_a_sample_is_found_again():
    z = jax.random.normal(jax.random.key(1), (5, 4))
    x = sample(
        guided(1.0),
        jax.random.key(0),
        LABELS,
        shape=(4,),
        schedule=SCHEDULE,
        solver=solvers.DDIM(),
        grid=grids.UniformU(),
        steps=30,
        z=z,
    )
    found = invert(guided(1.0), x, LABELS, schedule=SCHEDULE, steps=30, exact=True, tolerance=1e-6)
    np.testing.assert_allclose(found.z, z, atol=2e-3)


def test_the_fine_inverse_is_the_probability_flow():
    """Of N(0, s²) the flow is linear: z_λ' / z_λ is the ratio of the standard deviations."""
    single = mixtures.gaussian_mixture(np.zeros((1, 1, 4)), 0.3)
    schedule = schedules.Uniform(logsnr_min=-8.0, logsnr_max=12.0)
    found = invert(single, X, schedule=schedule, steps=1000, exact=True, tolerance=1e-6)
    variance = 0.09 / (1 + np.exp(8.0)) + 1 / (1 + np.exp(-8.0))
    np.testing.assert_allclose(found.z, X / 0.3 * np.sqrt(variance), rtol=0.02)


def test_a_denoiser_that_returns_the_pair_is_inverted_too():
    pair = denoiser.clipped(denoiser.from_prediction(lambda z, logsnr, cond: 0.2 * z, prediction.X))
    found = invert(pair, 0.01 * X, schedule=SCHEDULE, steps=5, exact=True, tolerance=1e-6)
    assert np.all(found.error < 1e-5)


def test_an_example_does_not_depend_on_its_batch_and_jit_changes_nothing():
    def run(n):
        return invert(MIXTURE, X[:n], LABELS[:n], schedule=SCHEDULE, steps=6, exact=True)

    whole, some = jax.jit(run, static_argnums=0)(5), run(2)
    np.testing.assert_allclose(whole.z[:2], some.z, rtol=1e-4, atol=1e-5)


def test_the_iterations_are_bounded():
    """x of no z: points are all the denoiser ever returns. The search ends, and says so."""
    points = mixtures.gaussian_mixture([[[0.0]], [[1.0]]], 0.0)
    found = invert(
        points,
        jnp.array([[0.5]]),
        jnp.array([1]),
        schedule=SCHEDULE,
        steps=4,
        exact=True,
        iterations=5,
    )
    assert float(found.error[0]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "x",
    [[[0, 1, 0, 1]], np.array([[0, 1, 0, 1]]), jnp.array([[0, 1, 0, 1]]), [[0.0, 1.0, 0.0, 1.0]]],
)
def test_whole_numbers_and_lists_are_floats(monkeypatch, x):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    want = invert(MIXTURE, jnp.array([[0.0, 1.0, 0.0, 1.0]]), schedule=SCHEDULE, steps=3)
    got = invert(MIXTURE, x, schedule=SCHEDULE, steps=3)
    assert got.z.dtype == got.error.dtype == jnp.float32
    np.testing.assert_array_equal(got.z, want.z)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"denoiser": None}, TypeError, "denoiser must be a callable .*, got None"),
        ({"x": "x"}, ValueError, "x must be an array of numbers, got 'x'"),
        ({"x": 0.5}, ValueError, r"x must be an array of numbers, \(batch, ...\), got float32"),
        ({"x": np.array([[True]])}, ValueError, r"x must be an array of numbers, .* got bool"),
        ({"exact": 1}, ValueError, "exact must be True or False, got 1"),
        ({"iterations": -1}, ValueError, "iterations must be a whole number of at least 1, got -1"),
        ({"tolerance": float("nan")}, ValueError, r"tolerance must lie in \[0, inf\], got nan"),
        ({"schedule": 3}, TypeError, "schedule must be one of Cosine, .*, got 3"),
    ],
)
def test_what_cannot_be_inverted_is_refused(monkeypatch, change, kind, message):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    given = {"denoiser": MIXTURE, "x": X, "cond": LABELS, "schedule": SCHEDULE, "steps": 3}
    with pytest.raises(kind, match=message):
        invert(**{**given, **change})


def test_bad_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        invert(MIXTURE, X, LABELS, schedule=SCHEDULE, steps=0)
