"""Small versions of the data: means of blocks, noised as they say, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from cfg_jax import parts, schedules
from cfg_jax.conditions import Small
from cfg_jax.diffusion.condition import Noisy
from cfg_jax.parts import Facts

FACTS = Facts((8, 8, 1))
SCHEDULE = schedules.Cosine()
PLAIN = Small().bind("small", FACTS)
NOISED = Small(logsnr_min=1.0).bind("small", FACTS)
RNG = np.random.default_rng(0)


def means(x, factor=2):
    blocks = [x[:, i::factor, j::factor] for i in range(factor) for j in range(factor)]
    return np.mean(np.asarray(blocks, np.float64), axis=0)


@pytest.mark.parametrize("factor", [2, 4])
def test_it_is_the_example_itself_made_small(factor):
    x = RNG.uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
    made = Small(factor=factor).bind("small", FACTS)
    np.testing.assert_allclose(made.read({}, {}, jnp.asarray(x)), means(x, factor), atol=1e-6)
    np.testing.assert_allclose(made.lend(None, x), means(x, factor), atol=1e-6)
    assert made.inlet == parts.Beside((8 // factor, 8 // factor, 1))
    assert made.drawn(means(x, factor), x).shape == x.shape


@pytest.mark.parametrize(
    ("shape", "small"), [((16, 2), (8, 2)), ((8, 6, 3), (4, 3, 3)), ((4, 8, 8, 1), (4, 4, 4, 1))]
)
def test_of_sounds_pictures_and_videos(shape, small):
    assert Small().bind("small", Facts(shape)).inlet == parts.Beside(small)


def test_training_noises_it_from_the_least_level_on():
    keys = jax.random.split(jax.random.key(0), 2048)
    z, level = NOISED.shown(keys, jnp.ones((2048, 4, 4, 1)), SCHEDULE)
    u = np.asarray(SCHEDULE.u(level)) / float(SCHEDULE.u(1.0))
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    lam = np.asarray(level, np.float64)[:, None, None, None]
    noise = (np.asarray(z) - np.sqrt(expit(lam))) / np.sqrt(expit(-lam))
    assert stats.kstest(noise[lam.ravel() < 8].ravel(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(noise.reshape(2048, -1)[lam.ravel() < 8].T) - np.eye(16)
    assert np.abs(correlation).max() < 0.15
    few = NOISED.shown(keys[:3], jnp.ones((3, 4, 4, 1)), SCHEDULE)
    np.testing.assert_array_equal(few.z, z[:3])


def test_sampling_noises_it_to_the_level_that_was_asked_for():
    keys = jax.random.split(jax.random.key(0), 2)
    x = RNG.normal(size=(2, 4, 4, 1)).astype(np.float32)
    for value, levels in (
        (x, [20.0, 20.0]),
        ({"x": x, "logsnr": 2.5}, [2.5, 2.5]),
        ({"x": x, "logsnr": np.array([1.0, 3.0])}, [1.0, 3.0]),
    ):
        z, level = NOISED.sampled(keys, NOISED.given(value), SCHEDULE)
        np.testing.assert_allclose(level, levels)
        lam = np.asarray(levels)[:, None, None, None]
        noise = (z - np.sqrt(expit(lam)) * x) / np.sqrt(expit(-lam))
        assert np.abs(noise).max() < 6 if levels[0] < 20 else np.abs(z - x).max() < 1e-3
    chosen = Small(logsnr_min=1.0, logsnr=2.0).bind("small", FACTS)
    np.testing.assert_allclose(chosen.sampled(keys, chosen.given(x), SCHEDULE).logsnr, 2.0)
    np.testing.assert_array_equal(PLAIN.sampled(keys, PLAIN.given(x), SCHEDULE), x)


def test_the_null_is_zeros_of_a_level_that_no_image_has():
    assert PLAIN.null == 0.0
    assert NOISED.null == Noisy(0.0, -9.0)
    assert NOISED.inlet == parts.Beside((4, 4, 1), noised=True)


X = np.zeros((1, 4, 4, 1))


@pytest.mark.parametrize(
    ("made", "value", "line"),
    [
        (PLAIN, np.zeros((1, 8, 8, 1)), r"small must have shape \(batch, \(4, 4, 1\)\), got"),
        (PLAIN, X[0], "small must have shape"),
        (PLAIN, (127 * X).astype(np.uint8), r"small must lie in \[-1, 1\], got bytes"),
        (PLAIN, X * np.nan, "small must be finite"),
        (PLAIN, {"x": X, "logsnr": 3.0}, "small takes no logsnr: .* without noise"),
        (NOISED, {"x": X, "logsnr": 0.0}, "small.logsnr must lie in"),
        (NOISED, {"x": X, "logsnr": float("nan")}, "small.logsnr must lie in"),
        (NOISED, {"logsnr": 2.0}, 'small must be images, or {"x": images, "logsnr": λ}'),
        (NOISED, {"x": X, "level": 2.0}, 'small must be images, or {"x": images, "logsnr": λ}'),
    ],
)
def test_what_is_no_small_image_is_refused(made, value, line):
    with pytest.raises(ValueError, match=line):
        made.given(value)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"factor": 1}, "factor must be a whole number from 2 to 65536, got 1"),
        ({"logsnr_min": float("nan")}, r"logsnr_min must lie in \[-80, 80\], got nan"),
        ({"logsnr": 2.0}, "logsnr needs a network trained with noise"),
        ({"logsnr": 0.0, "logsnr_min": 1.0}, "logsnr must be at least logsnr_min, 1.0; got 0.0"),
        ({"p_uncond": -1.0}, "p_uncond must lie"),
    ],
)
def test_values_out_of_range_are_refused(fields, line):
    with pytest.raises(ValueError, match=line):
        Small(**fields)


def test_sides_that_the_factor_does_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"small is enlarged 3 times, .* multiple of 3; got 8×8"):
        Small(factor=3).bind("small", FACTS)


def test_a_level_that_the_schedule_has_not_is_refused():
    made = Small(logsnr_min=30.0).bind("small", FACTS)
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(ValueError, match=r"small.logsnr_min must lie in \[-20, 20\], got 30"):
        made.shown(keys, jnp.zeros((1, 4, 4, 1)), SCHEDULE)


def test_flags_name_a_file_of_samples(tmp_path):
    path = tmp_path / "small.npz"
    images = RNG.integers(0, 256, (2, 4, 4, 1), dtype=np.uint8)
    np.savez(path, arr_0=images)
    np.testing.assert_allclose(PLAIN.parse(str(path)), images / 127.5 - 1, atol=1e-6)
    np.savez(path, arr_0=images.astype(np.float32))
    with pytest.raises(
        ValueError, match=r"arr_0 of .*small.npz must be uint8 images of \(4, 4, 1\)"
    ):
        PLAIN.parse(str(path))
