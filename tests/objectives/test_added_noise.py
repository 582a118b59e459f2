"""Offset noise and input perturbation: their moments in closed form, and nothing of them when 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import schedules
from cfg_jax.diffusion import noise, process
from cfg_jax.diffusion.noise import Stream
from cfg_jax.objectives import Denoising, Hybrid
from cfg_jax.parts import Prediction, Setting

SETTING = Setting(schedules.Cosine(), {}, {}, {})
COUNT = 20_000
SHAPE = (2, 3, 2)  # height, width, channels
X = jnp.asarray(np.random.default_rng(0).normal(size=(COUNT, *SHAPE)), jnp.float32)
FIVE = 5 / np.sqrt(COUNT)
"""Five standard deviations of a mean of so many products of N(0, 1)."""


def drawn_by(x=X, **fields):
    return Denoising(**fields).draw(jax.random.key(3), x, {}, SETTING)


def covariance(values):
    flat = np.asarray(values, np.float64).reshape(COUNT, -1)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=2 * FIVE)
    return flat.T @ flat / COUNT


@pytest.fixture(scope="module")
def off():
    return drawn_by()


def test_without_them_nothing_is_drawn_but_as_ever(off):
    keys = noise.examples(jax.random.key(3), jnp.arange(COUNT), Stream.NOISE)
    eps = jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys)
    np.testing.assert_array_equal(off.eps, eps)
    assert off.added is None
    np.testing.assert_array_equal(off.z, process.forward(X, eps, logsnr=off.logsnr))


def test_offset_noise_has_the_articles_covariance(off):
    """I + offset² where two places are of one channel."""
    drawn = drawn_by(noise_offset=0.5)
    same_channel = np.kron(np.ones((6, 6)), np.eye(2))
    want = np.eye(12) + 0.25 * same_channel
    np.testing.assert_allclose(covariance(drawn.eps), want, atol=1.8 * FIVE)
    shift = np.asarray(drawn.eps - off.eps)
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1], shift.shape), atol=1e-6)
    np.testing.assert_array_equal(drawn.logsnr, off.logsnr)
    np.testing.assert_array_equal(drawn.z, process.forward(X, drawn.eps, logsnr=drawn.logsnr))


def test_offset_noise_is_part_of_the_target():
    drawn = drawn_by(noise_offset=0.5)
    asked = Denoising(noise_offset=0.5).losses(lambda *_: drawn.eps, drawn)
    np.testing.assert_array_equal(asked, jnp.zeros(COUNT))


def test_input_perturbation_is_in_z_and_not_in_the_target(off):
    objective = Denoising(input_perturbation=0.3)
    drawn = drawn_by(input_perturbation=0.3)
    np.testing.assert_array_equal(drawn.eps, off.eps)
    seen = []
    losses = objective.losses(lambda z, *_: seen.append(z) or drawn.eps, drawn)
    np.testing.assert_array_equal(losses, jnp.zeros(COUNT))
    lam = np.asarray(drawn.logsnr, np.float64).reshape(-1, 1, 1, 1)
    alpha, sigma = (1 / np.sqrt(1 + np.exp(s * lam)) for s in (-1, 1))
    within = np.abs(lam.ravel()) < 8  # where z holds enough of the noise to find it in float32
    shown = ((np.asarray(seen[0]) - alpha * X) / sigma)[within].reshape(within.sum(), -1)
    eps = np.asarray(off.eps)[within].reshape(shown.shape)
    count = 12 * within.sum()
    assert np.mean(shown**2) == pytest.approx(1 + 0.3**2, abs=8 / np.sqrt(count))
    assert np.mean(shown * eps) == pytest.approx(1, abs=8 / np.sqrt(count))


def test_what_is_added_is_independent_of_all_else():
    drawn = drawn_by(noise_offset=1.0, input_perturbation=0.5)
    np.testing.assert_allclose(covariance(drawn.added), 0.25 * np.eye(12), atol=0.3 * FIVE)
    eps, added = (np.asarray(v).reshape(COUNT, -1) for v in (drawn.eps, drawn.added))
    np.testing.assert_allclose(eps.T @ added / COUNT, 0, atol=FIVE)


def test_an_examples_draws_are_its_own():
    both = {"noise_offset": 0.1, "input_perturbation": 0.1}
    few, many = drawn_by(X[:3], **both), drawn_by(X[:9], **both)
    for one, other in ((few.eps, many.eps), (few.added, many.added)):
        np.testing.assert_array_equal(one, other[:3])


@pytest.mark.parametrize("shape", [(4, 5), (4, 6, 2), (2, 3, 4, 5, 2)])
def test_any_dimension_has_one_shift_a_channel(shape):
    x = jnp.zeros(shape)
    off, on = (drawn_by(x, noise_offset=w).eps for w in (0.0, 1.0))
    shift = np.asarray(on - off)
    first = shift.reshape(shape[0], -1, shape[-1])[:, :1]
    np.testing.assert_allclose(shift.reshape(shape[0], -1, shape[-1]) - first, 0, atol=1e-6)
    assert len(np.unique(first.round(5))) == first.size


def test_the_bound_is_of_the_z_that_the_network_is_shown():
    """A network that finds x in that z has no bound, whatever was added."""
    objective = Hybrid(input_perturbation=0.5, target="x", schedule=SETTING.schedule)
    drawn = objective.draw(jax.random.key(0), X[:8], {}, SETTING)

    def ask(z, logsnr, cond):
        np.testing.assert_array_equal(z, drawn.z)
        return Prediction(drawn.x, jnp.ones_like(z))

    losses = objective.losses(ask, drawn)
    without = Hybrid(target="x", schedule=SETTING.schedule).losses(ask, drawn)
    np.testing.assert_array_equal(losses, without)
    assert np.all(np.isfinite(losses))


@pytest.mark.parametrize("name", ["noise_offset", "input_perturbation"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a finite number of at least 0"):
        Denoising(**{name: value})
