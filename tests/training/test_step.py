"""One training step against NumPy: the loss it reports, the average it keeps, its devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipes import tiny
from scipy import stats

from cfg_jax import objective
from cfg_jax.runtime import mesh as meshes
from cfg_jax.training import config as recipe
from cfg_jax.training.program import build
from cfg_jax.training.step import BINS

SHAPE, CLASSES, DECAY, SEED = (8, 8, 1), 10, 0.5, 3
RNG = np.random.default_rng(0)
BATCHES = [
    {
        "image": RNG.integers(0, 256, (16, *SHAPE), dtype=np.uint8),
        "label": RNG.integers(0, CLASSES, 16).astype(np.int32),
        "replaced": np.zeros(16, np.int32),
    }
    for _ in range(3)
]


def recipe_with(**train):
    config = tiny()
    config.train.ema = (DECAY,)
    config.train.seed = SEED
    for name, value in train.items():
        config.train[name] = value
    return config


def run(devices, *, fsdp=1, batches=BATCHES, dropout=0.0, **train):
    """The states before and after each step, and the metrics, on so many devices."""
    config = recipe_with(**train)
    config.mesh.fsdp = fsdp
    config.mesh.min_size = 1
    config.model.dropout = dropout
    mesh = meshes.device_mesh(fsdp, jax.devices()[:devices])
    program = build(config, SHAPE, CLASSES, mesh)
    state = program.start()
    trail, metrics = [jax.device_get(state)], []
    for batch in batches:
        state, measured = program.step(state, meshes.global_batch(batch, mesh))
        trail.append(jax.device_get(state))
        metrics.append(jax.device_get(measured))
    return program.network, trail, metrics


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
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ema, trail[-1].ema[0]
    )
    assert trail[-1].step == 3


def same(one, other):
    """Whether the steps were the same, but for the order of sums."""
    (_, trail, metrics), (_, others, measured) = one, other
    for a, b in zip(metrics, measured, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-3)
        np.testing.assert_array_equal(a.bin_count, b.bin_count)
        np.testing.assert_allclose(a.bin_loss, b.bin_loss, rtol=1e-3, atol=1e-4)
    for a, b in zip(
        jax.tree.leaves(trail[1].params), jax.tree.leaves(others[1].params), strict=True
    ):
        # Adam's first step is the sign of the gradient: where that is noise, the step is too.
        assert np.mean(np.abs(a - b) > 1e-4) < 0.01


@pytest.mark.parametrize("fsdp", [1, 4])
def test_eight_devices_take_the_same_steps(one, fsdp):
    same(one, run(8, fsdp=fsdp))


@pytest.mark.parametrize("devices", [1, 2])
def test_a_batch_in_parts_is_the_same_step(one, devices):
    same(one, run(devices, fsdp=devices, accumulate=4))


def test_under_fsdp_parameters_and_optimiser_lie_split(one):
    config = recipe_with()
    config.mesh.fsdp, config.mesh.min_size = 4, 8
    program = build(config, SHAPE, CLASSES, meshes.device_mesh(4))
    state = program.start()
    for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state)):
        divisible = leaf.size >= 8 and any(n % 4 == 0 for n in leaf.shape)
        share = leaf.addressable_shards[0].data.size
        assert share == (leaf.size // 4 if divisible else leaf.size)


def test_a_step_that_is_not_finite_changes_nothing_but_the_counts(one):
    _, clean, _ = one
    config = recipe_with()
    program = build(config, SHAPE, CLASSES, meshes.device_mesh(1, jax.devices()[:1]))
    state = program.start()
    poisoned = state._replace(params=jax.tree.map(lambda a: a * np.nan, state.params))
    before = jax.device_get(poisoned)
    after, metrics = program.step(poisoned, BATCHES[0])
    assert not np.isfinite(metrics.loss)
    assert metrics.skipped == after.skipped == after.step == 1
    jax.tree.map(
        np.testing.assert_array_equal,
        (before.params, before.ema, before.opt_state),
        jax.device_get((after.params, after.ema, after.opt_state)),
    )
    assert clean[-1].skipped == 0
    stood_in = np.arange(16, dtype=np.int32) % 2
    assert program.step(after, BATCHES[0] | {"replaced": stood_in})[1].replaced == 8


def first_step(config, batch):
    """The program, its first state, and what the first step measured."""
    program = build(config, SHAPE, CLASSES, meshes.device_mesh(1, jax.devices()[:1]))
    state = program.start()
    before = jax.device_get(state)
    return program, before, jax.device_get(program.step(state, batch)[1])


def test_small_images_are_noised_told_of_and_hidden():
    """The network is shown means of squares, noised from the least λ on, or zeros and λ_min."""
    config = recipe_with(batch_size=512)
    config.model.upscale, config.model.vector = 2, 3
    config.small.logsnr_min, config.small.p_uncond, config.p_uncond = 1.0, 0.2, 0.3
    batch = {
        "image": RNG.integers(0, 256, (512, *SHAPE), dtype=np.uint8),
        "label": RNG.integers(0, CLASSES, 512).astype(np.int32),
        "vector": RNG.normal(size=(512, 3)).astype(np.float32),
        "replaced": np.zeros(512, np.int32),
    }
    program = build(config, SHAPE, CLASSES, meshes.device_mesh(1, jax.devices()[:1]))
    cond = jax.device_get(jax.jit(program.prepare)(batch, jnp.int32(0))).draw.cond
    image = batch["image"].astype(np.float64) / 127.5 - 1
    small = np.mean([image[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
    z, level = cond["small"]
    hidden, told = level == -20.0, cond["label"] == CLASSES
    np.testing.assert_array_equal(told, ~cond["vector"].any(1))
    for where, p in ((hidden, 0.2), (told, 0.3), (hidden & told, 0.06)):
        assert stats.binomtest(int(where.sum()), 512, p).pvalue > 1e-3
    np.testing.assert_array_equal(z[hidden], 0.0)
    np.testing.assert_array_equal(cond["vector"][~told], batch["vector"][~told])
    level, z, small = level[~hidden].astype(np.float64), z[~hidden], small[~hidden]
    schedule = recipe.schedule(config)
    u = np.asarray(schedule.u(level)) / float(schedule.u(1.0))
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(s * level)))[:, None, None, None] for s in (-1, 1))
    noise = (z - alpha * small) / sigma
    assert stats.kstest(noise[level < 8].ravel(), "norm").pvalue > 1e-3


def test_a_network_that_enlarges_learns_from_the_squared_error():
    config = recipe_with()
    config.model.upscale, config.p_uncond, config.small.p_uncond = 2, 0.0, 0.0
    program, state, metrics = first_step(config, BATCHES[0])
    x = jnp.asarray(BATCHES[0]["image"] / 127.5 - 1, jnp.float32)
    small = np.mean([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
    cond = {"label": jnp.asarray(BATCHES[0]["label"]), "small": jnp.asarray(small)}
    key = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 0))[0]
    drawn = objective.draw(key, x, None, schedule=recipe.schedule(config))._replace(cond=cond)
    denoiser = jax.tree_util.Partial(program.network.apply, state.params)
    losses = jax.jit(objective.squared_error)(denoiser, x, drawn)
    assert metrics.loss == pytest.approx(float(losses.mean()), rel=1e-5)


def test_a_learned_variance_learns_from_the_bound():
    """At the first step ε̂ = 0 and v = 1/2: the squared error, and a thousandth of the bound."""
    config = recipe_with()
    config.model.learned_variance, config.vlb.weight, config.vlb.steps = True, 0.01, 50
    program, _, metrics = first_step(config, BATCHES[0])
    drawn = jax.jit(program.prepare)(BATCHES[0], jnp.int32(0))

    def both(z, logsnr, cond):
        return jnp.zeros_like(z), jnp.full_like(z, 0.5)

    losses = objective.hybrid(
        both, drawn.x, drawn.draw, schedule=recipe.schedule(config), steps=50, weight=0.01
    )
    assert metrics.loss == pytest.approx(float(losses.mean()), rel=1e-5)


def test_vectors_that_the_data_do_not_have_are_refused():
    config = recipe_with()
    config.model.vector = 3
    recipe.check_data(config, 3)
    with pytest.raises(ValueError, match="vector is 3, and the data digits have no vectors"):
        recipe.check_data(config, 0)


def test_the_same_seed_takes_the_same_steps_bitwise(one):
    _, trail, _ = one
    _, again, _ = run(1)
    jax.tree.map(np.testing.assert_array_equal, trail[-1], again[-1])


def test_training_learns():
    """On images of one value a class the loss falls to a fraction within 150 steps."""
    program = build(recipe_with(), SHAPE, CLASSES, meshes.device_mesh(1, jax.devices()[:1]))
    state, losses = program.start(), []
    labels = np.arange(16, dtype=np.int32) % CLASSES
    images = np.broadcast_to((labels * 25).astype(np.uint8)[:, None, None, None], (16, *SHAPE))
    for _ in range(150):
        state, metrics = program.step(
            state, {"image": images, "label": labels, "replaced": 0 * labels}
        )
        losses.append(float(metrics.loss))
    assert np.mean(losses[-20:]) < 0.3 * losses[0]
