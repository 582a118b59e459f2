"""One training step against NumPy: the loss it reports, the average it keeps, its devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipes import tiny

from cfg_jax import objective
from cfg_jax.training import config as recipe
from cfg_jax.training import mesh as meshes
from cfg_jax.training import state as states
from cfg_jax.training.step import BINS, make_step

SHAPE, CLASSES, DECAY, SEED = (8, 8, 1), 10, 0.5, 3
RNG = np.random.default_rng(0)
BATCHES = [
    {
        "image": RNG.integers(0, 256, (16, *SHAPE), dtype=np.uint8),
        "label": RNG.integers(0, CLASSES, 16).astype(np.int32),
    }
    for _ in range(3)
]


def run(devices):
    """The states before and after each of three steps, and the metrics, on so many devices."""
    mesh = jax.make_mesh(
        (devices,),
        (meshes.AXIS,),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )
    config = tiny()
    network, optimizer = recipe.network(config, CLASSES), recipe.optimizer(config)
    step = make_step(
        network, optimizer, schedule=recipe.schedule(config), p_uncond=0.1, ema=DECAY, seed=SEED
    )
    state = jax.device_put(states.init(network, optimizer, SHAPE, SEED), meshes.replicated(mesh))
    trail, metrics = [jax.device_get(state)], []
    for batch in BATCHES:
        state, measured = step(state, meshes.global_batch(batch, mesh))
        trail.append(jax.device_get(state))
        metrics.append(jax.device_get(measured))
    return network, trail, metrics


@pytest.fixture(scope="module")
def one():
    return run(1)


def test_the_loss_is_the_objectives(one):
    network, trail, metrics = one
    key = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 1))[0]
    x = jnp.asarray(BATCHES[1]["image"] / 127.5 - 1, jnp.float32)
    schedule = recipe.schedule(tiny())
    drawn = objective.draw(
        key, x, jnp.asarray(BATCHES[1]["label"]), schedule=schedule, null=CLASSES, p_uncond=0.1
    )
    denoiser = jax.tree_util.Partial(network.apply, trail[1].params)
    losses = np.asarray(jax.jit(objective.squared_error)(denoiser, x, drawn))
    assert metrics[1].loss == pytest.approx(losses.mean(), rel=1e-5)
    place = ((np.asarray(drawn.logsnr) + 20) / 40 * BINS).astype(int)
    np.testing.assert_array_equal(metrics[1].bin_count, np.bincount(place, minlength=BINS))
    np.testing.assert_allclose(
        metrics[1].bin_loss, np.bincount(place, losses, minlength=BINS), rtol=1e-4
    )


def test_the_reported_norm_is_the_gradients(one):
    """Adam's first moment after one step is 0.1 times the (clipped) gradient."""
    _, trail, metrics = one
    gradient = jax.tree.map(lambda m: m / 0.1, optax.tree.get(trail[1].opt_state, "mu"))
    clipped = min(float(metrics[0].grad_norm), tiny().optim.clip_norm)
    assert float(optax.tree.norm(gradient)) == pytest.approx(clipped, rel=1e-4)


def test_the_average_follows_the_parameters(one):
    """decay = min(0.5, (1 + k) / (10 + k)) before step k's update."""
    _, trail, _ = one
    ema = trail[0].params
    for k, state in enumerate(trail[1:]):
        decay = min(DECAY, (1 + k) / (10 + k))
        ema = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, ema, state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ema, trail[-1].ema
    )
    assert trail[-1].step == 3


def test_eight_devices_take_the_same_steps(one):
    _, trail, metrics = one
    _, others, measured = run(8)
    for a, b in zip(metrics, measured, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
    for a, b in zip(
        jax.tree.leaves(trail[1].params), jax.tree.leaves(others[1].params), strict=True
    ):
        # Adam's first step is the sign of the gradient: where that is noise, the step is too.
        assert np.mean(np.abs(a - b) > 1e-4) < 0.01


def test_the_same_seed_takes_the_same_steps_bitwise(one):
    _, trail, _ = one
    _, again, _ = run(1)
    jax.tree.map(np.testing.assert_array_equal, trail[-1], again[-1])


def test_training_learns():
    """On images of one value a class the loss falls to a fraction within 150 steps."""
    config = tiny()
    network, optimizer = recipe.network(config, CLASSES), recipe.optimizer(config)
    step = make_step(
        network, optimizer, schedule=recipe.schedule(config), p_uncond=0.1, ema=DECAY, seed=0
    )
    state, losses = states.init(network, optimizer, SHAPE, 0), []
    labels = np.arange(16, dtype=np.int32) % CLASSES
    images = np.broadcast_to((labels * 25).astype(np.uint8)[:, None, None, None], (16, *SHAPE))
    for _ in range(150):
        state, metrics = step(state, {"image": images, "label": labels})
        losses.append(float(metrics.loss))
    assert np.mean(losses[-20:]) < 0.3 * losses[0]
