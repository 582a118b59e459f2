"""Low temperatures against closed forms of one Gaussian, and the figure of digits.

`experiments/` is no package, so the script is loaded from its path.
"""

import importlib
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from PIL import Image
from scipy import stats

import cfg_jax
from cfg_jax import denoiser, evaluation, grids, mixtures, process, sample, schedules, solvers
from cfg_jax.data import Digits

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MEAN, STD = 0.7, 0.4
COUNT, STEPS = 1500, 200
SCHEDULE = schedules.Cosine(logsnr_min=-12.0, logsnr_max=14.0)


@pytest.fixture(scope="module")
def script():
    return scripts.load("temperature")


@pytest.fixture(scope="module")
def ways():
    return importlib.import_module("temperature_ways")


@pytest.fixture(scope="module")
def plane():
    return importlib.import_module("temperature_plane")


@pytest.fixture(scope="module")
def gaussian():
    return mixtures.gaussian_mixture([[[MEAN, MEAN]]], STD)


def named(ways, name):
    (way,) = (way for way in ways.WAYS if way.name == name)
    return way


def drawn(ways, gaussian, name, strength):
    x = ways.drawn(
        named(ways, name),
        strength,
        gaussian,
        jax.random.key(3),
        np.zeros(COUNT, int),
        null=1,
        v=0.0,
        grid=grids.UniformLogSNR(start=-12.0, end=14.0),
        shape=(2,),
        schedule=SCHEDULE,
        steps=STEPS,
    )
    return np.asarray(x, np.float64).ravel()


def recursion(*, score=1.0, noise=1.0):
    """Mean and variance of x under ancestral steps of v = 0, in float64: z stays Gaussian."""
    levels = np.append(np.linspace(-12.0, 14.0, STEPS + 1)[:-1], np.inf)
    mean, variance = 0.0, noise
    for here, following in itertools.pairwise(levels):
        a, s2 = np.sqrt(1 / (1 + np.exp(-here))), 1 / (1 + np.exp(here))
        a_, s2_ = np.sqrt(1 / (1 + np.exp(-following))), 1 / (1 + np.exp(following))
        fresh = 1.0 - np.exp(here - following)
        # x̂ = (z - σ ε / τ) / α with σ ε = σ² (z - α m) / (α² s² + σ²), a line in z.
        pull = s2 / (score * (a**2 * STD**2 + s2))
        slope, shift = (1.0 - pull) / a, pull * MEAN
        factor = (1.0 - fresh) * a_ / a + fresh * a_ * slope
        mean = factor * mean + fresh * a_ * shift
        variance = factor**2 * variance + noise * fresh * s2_
    return mean, variance


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("name", ["score / τ", "noise × √τ"])
def test_a_gaussian_at_a_temperature(ways, gaussian, name, temperature):
    t = temperature
    x = drawn(ways, gaussian, name, t)
    scaled = {"score": t} if name == "score / τ" else {"noise": t}
    mean, variance = recursion(**scaled)
    closed = STD**2 * t / (2.0 - t) if name == "score / τ" else STD**2 * t
    assert variance == pytest.approx(closed, rel=0.1)  # the limit of small steps
    assert mean == pytest.approx(MEAN, abs=0.01)
    assert x.mean() == pytest.approx(mean, abs=4.0 * np.sqrt(variance / x.size))
    assert x.var() == pytest.approx(variance, rel=4.0 * np.sqrt(2.0 / x.size))


@pytest.mark.parametrize("bound", [1.1, 2.0])
def test_truncated_noise_is_noise_of_less_variance(ways, gaussian, bound):
    density = stats.norm.pdf(bound)
    kept = 1.0 - 2.0 * bound * density / (2.0 * stats.norm.cdf(bound) - 1.0)
    assert kept == pytest.approx(stats.truncnorm(-bound, bound).var())
    x = drawn(ways, gaussian, "truncated noise", bound)
    _, variance = recursion(noise=kept)
    assert x.var() == pytest.approx(variance, rel=4.0 * np.sqrt(2.0 / x.size))


def test_a_truncated_start_ends_where_the_flow_does(ways, gaussian):
    """The flow of one Gaussian takes the noise n to m + s n."""
    x = drawn(ways, gaussian, "truncated start", 1.1)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(COUNT))
    n = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), (2,)))(keys)
    want = MEAN + STD * np.asarray(ways.Truncated(bound=1.1)(n)).ravel()
    np.testing.assert_allclose(x, want, atol=5e-3)


def test_truncation_maps_quantiles_to_quantiles(ways):
    n = np.linspace(-5.5, 5.5, 301)
    for bound in (0.5, 1.5, 3.0):
        want = stats.truncnorm(-bound, bound).ppf(stats.norm.cdf(n))
        got = ways.Truncated(bound=bound)(jnp.asarray(n, jnp.float32))
        np.testing.assert_allclose(got, want, atol=2e-3)
        assert np.abs(got).max() <= bound
    np.testing.assert_allclose(ways.Truncated(bound=np.inf)(n[50:-50]), n[50:-50], atol=2e-3)


def test_a_scaled_score_is_guidance_without_its_second_term(ways, gaussian):
    def network(z, logsnr, cond):
        return jnp.where((cond == 0)[:, None], gaussian(z, logsnr, None), 0.0)

    z, labels = jax.random.normal(jax.random.key(0), (5, 2)), jnp.zeros(5, int)
    guided = named(ways, "guidance").guide(network, 2.0, 1)
    tempered = named(ways, "score / τ").guide(network, 1.0 / 3.0, 1)
    np.testing.assert_allclose(tempered(z, 0.5, labels), guided(z, 0.5, labels), rtol=1e-5)


def test_every_way_begins_with_what_sample_draws(ways, gaussian):
    """At the first of its strengths; the flow's noise goes through quantiles and back."""
    walk = {"shape": (2,), "schedule": SCHEDULE, "steps": 4, "offset": 7}
    labels = np.zeros(6, int)
    ancestral, flow = (
        sample(gaussian, jax.random.key(1), labels, solver=solver, **walk)
        for solver in (solvers.Ancestral(v=0.3), None)
    )
    for way in ways.WAYS:
        x = ways.drawn(way, way.strengths[0], gaussian, jax.random.key(1), labels, null=1, **walk)
        np.testing.assert_allclose(x, flow if way.flow else ancestral, atol=2e-4)


def test_a_density_at_a_temperature(plane, gaussian):
    axis = np.linspace(-4.0, 4.0, 201)
    mass = plane.densities(gaussian, axis, 0.5)
    assert mass.sum() == pytest.approx(1.0)
    moment = mass[0].sum(0) @ np.square(axis - MEAN)
    assert moment == pytest.approx(0.5 * STD**2, rel=1e-3)
    points = plane.from_grid(mass, axis, 4000, seed=0)[0]
    np.testing.assert_allclose(points.mean(0), MEAN, atol=0.02)
    np.testing.assert_allclose(points.var(0), 0.5 * STD**2, rtol=0.1)


def test_an_arms_mean_is_not_on_the_arm(plane):
    mixture = plane.arms()
    steps = np.linalg.norm(np.diff(mixture.means, axis=1), axis=-1)
    assert steps.max() < 1.02 * steps.min()
    nearest = np.linalg.norm(mixture.means - mixture.means.mean(1, keepdims=True), axis=-1).min(1)
    assert np.all(nearest > 3.0 * np.max(mixture.stds))


def cooled(run, labels, temperature):
    """Two ancestral steps of v = 0.3, the variance of all noise times the temperature."""
    network, cond = denoiser.clipped(run.denoiser), {"label": jnp.asarray(labels)}
    first, second, _ = run.schedule.grid(2).tolist()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(len(labels)))

    def noise(fold):
        def one(key):
            return jax.random.normal(jax.random.fold_in(key, fold), run.shape)

        return jnp.sqrt(temperature) * jax.vmap(one)(keys)

    z = noise(0)
    x = denoiser.read(network, z, first, cond).x
    mean, _ = process.posterior(z, x, logsnr=first, logsnr_next=second)
    variance = process.reverse_variance(logsnr=first, logsnr_next=second, v=0.3)
    z = mean + jnp.sqrt(variance) * noise(1)
    return denoiser.read(network, z, second, cond).x


def test_it_draws_scores_and_shows(script, plane, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plane, "PLANE_STEPS", 4)
    monkeypatch.setattr(plane, "FLOW_STEPS", 4)
    monkeypatch.setattr(script, "PICTURED", 4)
    few = [way._replace(strengths=way.strengths[1:2]) for way in script.WAYS]
    monkeypatch.setattr(script, "WAYS", few)
    out = tmp_path / "made.png"
    argv = ["--workdir", str(trained), "--out", str(out), "--points", "5"]
    script.main([*argv, "--samples", "12", "--steps", "2", "--batch", "8"])
    printed = capsys.readouterr().out
    for name in ("made.png", "made_plane.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5.0
    report = json.loads(out.with_suffix(".json").read_text())

    run, labels = cfg_jax.load(trained), np.arange(12) % 10
    data = [Digits().open(split) for split in ("train", "test")]
    judge = evaluation.judge_of(*data)
    walk = {"steps": 2, "grid": grids.UniformU()}
    solver = solvers.Ancestral(v=0.3)
    x = run.sample(jax.random.key(0), label=labels, w=0.1, solver=solver, **walk)
    want = judge.scores(np.clip(x, -1, 1), labels)
    (row,) = report["curves"]["guidance"]
    assert row["strength"] == "0.1"
    assert {score: row[score] for score in want} == pytest.approx(want, rel=1e-2)
    (row,) = report["curves"]["noise × √τ"]
    want = judge.scores(np.clip(cooled(run, labels, 0.9), -1, 1), labels)
    assert {score: row[score] for score in want} == pytest.approx(want, rel=1e-2)
    assert "| noise × √τ | τ = 0.9 |" in printed


def test_the_figure_that_is_shown_has_the_scripts_strengths(script):
    shown = json.loads(script.FIGURE.with_suffix(".json").read_text())
    for way in scripts.load("temperature").WAYS:
        strengths = [row["strength"] for row in shown["curves"][way.name]]
        assert strengths == [str(strength) for strength in way.strengths]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "1"], "--samples must be at least 2"),
        (["--points", "1"], "--points must be at least 2"),
        (["--out", "x.gif"], "--out must be a .png file"),
        (["--workdir", "nowhere"], "there is no work directory nowhere"),
    ],
)
def test_mistakes_are_refused(script, trained, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        script.main(["--workdir", str(trained), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
