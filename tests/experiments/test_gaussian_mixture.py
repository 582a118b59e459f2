"""The figure of three Gaussians: its densities and samples against closed forms and the exact flow.

`experiments/` is no package, so the script is loaded from its path.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from PIL import Image
from scipy import stats

from cfg_jax import guidance, mixtures
from cfg_jax.sampling.defaults import choose

ROOT = Path(__file__).parents[2]
RADIUS, STD, STEPS = 1.0, 0.6, 40
AXIS = np.linspace(-5.0, 5.0, 201)
CELL = (AXIS[1] - AXIS[0]) ** 2


@pytest.fixture(scope="module")
def script():
    return scripts.load("gaussian_mixture")


@pytest.fixture(scope="module")
def mixture(script):
    return script.three_classes(radius=RADIUS, std=STD)


@pytest.fixture(scope="module")
def z():
    return jax.random.normal(jax.random.key(1), (3, 400, 2))


def means():
    """On a circle, 120° apart, clockwise from the top."""
    side = RADIUS * np.sqrt(3.0) / 2.0
    return np.array([[0.0, RADIUS], [side, -RADIUS / 2.0], [-side, -RADIUS / 2.0]])


def densities():
    """p(x|c) on the grid, (classes, y, x), by SciPy."""
    points = np.stack(np.meshgrid(AXIS, AXIS), -1)
    return np.stack([stats.multivariate_normal(m, STD**2).pdf(points) for m in means()])


def test_unguided_samples_have_each_class_moments(script, mixture, z):
    x = script.drawn(mixture, 0.0, z, steps=STEPS)
    error = STD / np.sqrt(z.shape[1])  # the standard error of a mean of so many
    for points, mean in zip(x, means(), strict=True):
        np.testing.assert_allclose(points.mean(0), mean, atol=4.0 * error)
        np.testing.assert_allclose(np.cov(points.T), STD**2 * np.eye(2), atol=6.0 * STD * error)


@pytest.mark.parametrize("w", [0.0, 4.0])
def test_samples_end_where_the_exact_flow_does(script, mixture, z, w):
    few = z[:, :20]
    _, grid = choose(None, None, STEPS)
    start = grid(script.SCHEDULE, STEPS)[0]
    exact = mixtures.reference(
        guidance.classifier_free(mixture, w=w, null=mixture.null),
        few.reshape(-1, 2),
        jnp.repeat(jnp.arange(3), few.shape[1]),
        logsnr_from=float(start),
    )
    found = script.drawn(mixture, w, z, steps=STEPS)[:, : few.shape[1]]
    np.testing.assert_allclose(found, exact.reshape(found.shape), atol=0.02)


@pytest.mark.parametrize("w", [0.0, 0.5, 4.0])
def test_the_density_is_the_tilted_one(script, mixture, w):
    """p(x|c)^(1+w) / p(x)^w, summed to one over the grid."""
    of_class = densities()
    expected = of_class ** (1.0 + w) / of_class.mean(0) ** w
    expected /= expected.sum((1, 2), keepdims=True)
    found = script.tilted(mixture, w, AXIS)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-9)


def test_guidance_moves_classes_apart_and_together_in_themselves(script, mixture, z):
    ws = [0.0, 0.5, 1.0, 2.0, 4.0]
    drawn = [script.drawn(mixture, w, z, steps=STEPS) for w in ws]
    grid = np.stack(np.meshgrid(AXIS, AXIS), -1).reshape(1, -1, 2).repeat(3, 0)
    aim = [script.spread(grid, script.tilted(mixture, w, AXIS).reshape(3, -1)) for w in ws]
    got = [script.spread(x, np.ones(x.shape[:2])) for x in drawn]
    for found in (np.array(aim), np.array(got)):
        assert np.all(np.diff(found[:, 0]) > 0.05)
        assert np.all(np.diff(found[:, 1]) < -0.005)
    np.testing.assert_allclose(aim[0], [np.sqrt(3.0) * RADIUS, STD], rtol=1e-4)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_level_holds_its_share(script, share):
    """A Gaussian in the plane exceeds (1 - q) of its peak on exactly the share q of its mass."""
    for of_class in densities():
        peak = 1.0 / (2.0 * np.pi * STD**2)
        found = script.level(of_class * CELL, share) / CELL
        assert found == pytest.approx((1.0 - share) * peak, rel=0.02)


def test_the_share_inside_is_that_of_true_samples(script, mixture):
    x = np.asarray(mixture.sample(jax.random.key(2), jnp.repeat(jnp.arange(3), 3000)))
    mass = script.tilted(mixture, 0.0, AXIS)
    assert script.inside(x.reshape(3, -1, 2), mass, AXIS, 0.7) == pytest.approx(0.7, abs=0.02)
    assert script.inside(np.full((3, 5, 2), 50.0), mass, AXIS, 0.7) == 0.0


@pytest.mark.slow
def test_the_command_draws_and_tells(script, tmp_path, capsys):
    out = tmp_path / "figure.png"
    script.main(["--w", "0", "3", "--samples", "20", "--steps", "6", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["0", "3"]
    with Image.open(out) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 100


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--w", "nan"], "--w"),
        (["--w", "-1"], "--w"),
        (["--samples", "0"], "--samples"),
        (["--steps", "0"], "--steps"),
        (["--out", "no/where.png"], "--out"),
        (["--out", "figure.txt"], "--out"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(script, capsys, argv, named):
    with pytest.raises(SystemExit) as stopped:
        script.main(argv)
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_the_committed_figure_is_small():
    figure = ROOT / "experiments" / "figures" / "gaussian_mixture.png"
    assert figure.stat().st_size < 300_000
