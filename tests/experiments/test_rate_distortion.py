"""Rate and distortion of diffusion: held against Gaussian data, of which both are known."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from cfg_jax import recipe

SHAPE = (4, 4, 3)


@pytest.fixture(scope="module")
def script():
    return scripts.load("rate_distortion")


def left(logsnr, spread):
    """The variance of x ~ N(0, s²) that z_λ leaves open: s² / (1 + e^λ s²)."""
    return spread**2 / (1.0 + np.exp(logsnr) * spread**2)


def told(logsnr, spread):
    """Bits that z_λ tells of each number of such x: ½ log₂(1 + e^λ s²)."""
    return 0.5 * np.log2(1.0 + np.exp(logsnr) * spread**2)


@pytest.mark.parametrize("spread", [0.1, 0.5, 2.0])
def test_the_integral_is_what_the_channel_tells_of_gaussian_data(script, spread):
    levels = np.linspace(-20.0, 12.0, 65)
    rates = script.rate(levels, left(levels, spread))
    np.testing.assert_allclose(rates, told(levels, spread), atol=2e-3, rtol=5e-3)


def test_the_prior_counts_what_the_first_level_tells(script):
    """Of data of variance 1, as of the prior, z_λ has the prior's own distribution: 0 but for ½ λ.

    KL(q(z|x) ‖ N(0, I)) = ½ log(1 + SNR) in the mean, what the channel tells.
    """
    x = np.random.default_rng(0).standard_normal((64, 48))
    x /= np.sqrt(np.square(x).mean())
    for logsnr in (-9.0, 0.0, 3.0):
        bits = script.prior_kl(x, logsnr) / math.log(2.0)
        assert bits == pytest.approx(told(logsnr, 1.0), rel=1e-6)


def exact(z, logsnr, cond):
    """ε̂ of data N(0, ¼)."""
    variance = jax.nn.sigmoid(-logsnr)
    return z * jnp.sqrt(variance) / ((1.0 - variance) * 0.25 + variance)


def test_the_exact_denoiser_reaches_both(script):
    x = 0.5 * np.random.default_rng(1).standard_normal((64, *SHAPE)).astype(np.float32)
    levels = np.linspace(-12.0, 8.0, 21)
    found = script.along(jax.tree_util.Partial(exact), x, levels=levels, batch=32)
    assert found["logsnr"] == levels.tolist()
    np.testing.assert_allclose(found["bits_per_dimension"], told(levels, 0.5), rtol=0.05, atol=0.01)
    rmse = 127.5 * np.sqrt(left(levels, 0.5))
    np.testing.assert_allclose(found["rmse"], rmse, rtol=0.05)


def test_bits_at_a_distortion_are_read_off_the_curve(script):
    curve = {"bits_per_dimension": [0.0, 1.0, 2.0, 3.0], "rmse": [80.0, 40.0, 40.5, 10.0]}
    assert script.at_distortion(curve, 60.0) == pytest.approx(0.5)
    assert script.at_distortion(curve, 25.0) == pytest.approx(2.5)
    assert script.at_distortion(curve, 9.0) == math.inf
    assert script.at_distortion(curve, 90.0) == 0.0


def test_recipes_are_whole(script):
    made = script.codec_recipes(100)
    for config in (*made.values(), script.pixel_recipe(100)):
        recipe.check(config)
    assert made["8_heavy"].objective.kl_weight == script.HEAVY
    for factor in script.CODEBOOKS:
        codec = recipe.make(
            made[f"{factor}_codebook"].network, "network", path="config.network"
        ).codec
        assert (codec.factor, codec.entries) == (factor, script.CODEBOOKS[factor]["entries"])
    assert script.pixel_recipe(100).condition.text is None


def test_every_codec_is_in_the_table_and_the_figure(script):
    names = list(script.codec_recipes(100))
    curve = {"logsnr": [-4.0, 0.0, 4.0], "bits_per_dimension": [0.01, 0.2, 1.0]}
    row = {"bits_per_dimension": 0.75, "rmse": 25.0, "psnr": 20.0}
    report = {"pixels": {**curve, "rmse": [60.0, 30.0, 10.0]}, "codecs": dict.fromkeys(names, row)}
    text = script.table(report)
    assert text.count("| 0.750 | 25.00 | 20.0 dB | 0.400 |") == len(names)
    straight, logarithmic = script.figure(report).axes
    assert len(straight.lines) == 1 + len(names)
    assert [text.get_text() for text in logarithmic.texts] == ["λ = -4", "λ = 0", "λ = 4"]


def test_the_figure_that_is_shown_has_the_scripts_points(script):
    shown = json.loads(script.FIGURE.with_suffix(".json").read_text())
    assert shown["pixels"]["logsnr"] == script.LEVELS.tolist()
    assert list(shown["codecs"]) == list(script.codec_recipes(1))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1"),
        (["--codec-steps", "0"], "--codec-steps must be at least 1"),
        (["--samples", "63"], "--samples must be at least 64"),
        (["--out", "nowhere/x.png"], "--out must be a .png file"),
    ],
)
def test_mistakes_are_refused(script, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        script.main(["--workdir", str(tmp_path / "none"), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "none").exists()
