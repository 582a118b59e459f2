"""One training step against NumPy: the loss it reports, the average it keeps, its devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipes import tiny, tiny_unet
from scipy import stats
from scipy.special import expit

from cfg_jax import recipe, schedules
from cfg_jax.conditions import Small, Vector
from cfg_jax.objectives import Hybrid
from cfg_jax.objectives.draw import draw
from cfg_jax.optim import Constant
from cfg_jax.parts import Facts, Setting
from cfg_jax.runtime import mesh as meshes
from cfg_jax.training.program import build
from cfg_jax.training.step import BINS

SHAPE, CLASSES, DECAY, SEED = (8, 8, 1), 10, 0.5, 3
FACTS = Facts(SHAPE, tuple("0123456789"), {"label": jax.ShapeDtypeStruct((), jnp.int32)})
RNG = np.random.default_rng(0)
BATCHES = [
    {
        "x": RNG.integers(0, 256, (16, *SHAPE), dtype=np.uint8),
        "label": RNG.integers(0, CLASSES, 16).astype(np.int32),
        "replaced": np.zeros(16, np.int32),
    }
    for _ in range(3)
]


def recipe_with(made=tiny, **train):
    config = made()
    config.averages.ema = recipe.node(Constant, decay=DECAY)
    config.train.seed = SEED
    for name, value in train.items():
        config.train[name] = value
    return config


def on(devices, config, fsdp=1, facts=FACTS):
    """The program of a recipe on so many devices."""
    config.mesh.fsdp = fsdp
    return build(config, facts, meshes.device_mesh(fsdp, jax.devices()[:devices]))


def run(devices, *, fsdp=1, batches=BATCHES, **train):
    """The program, the states before and after each step, and the metrics, on so many devices."""
    config = recipe_with(tiny_unet, **train)
    config.mesh.min_size = 1
    program = on(devices, config, fsdp)
    state = program.start()
    trail, metrics = [jax.device_get(state)], []
    for batch in batches:
        placed = meshes.global_batch(batch, program.mesh)
        state, measured = program.step(state, program.frozen, placed)
        trail.append(jax.device_get(state))
        metrics.append(jax.device_get(measured))
    return program, trail, metrics


@pytest.fixture(scope="module")
def one():
    return run(1)


def drawn_at(step, x, cond, p_uncond=0.1):
    """The draws of a step (counted from 0), each from (seed, step, example)."""
    setting = Setting(schedules.Cosine(), {"label": CLASSES}, {"label": p_uncond}, {"label": True})
    return draw(jax.random.fold_in(jax.random.key(SEED), step), x, cond, setting)


def error_of(network, params, drawn):
    """Each example's mean squared error of ε̂, in float64, by the process' formula."""
    lam = np.asarray(drawn.logsnr, np.float64)[:, None, None, None]
    eps = np.asarray(drawn.eps, np.float64)
    z = np.sqrt(expit(lam)) * np.asarray(drawn.x) + np.sqrt(expit(-lam)) * eps
    said = jax.jit(network.apply)(params, jnp.asarray(z, jnp.float32), drawn.logsnr, drawn.cond)
    return np.mean((np.asarray(said, np.float64) - eps) ** 2, axis=(1, 2, 3))


def test_the_loss_is_the_objectives(one):
    program, trail, metrics = one
    x = jnp.asarray(BATCHES[1]["x"] / 127.5 - 1, jnp.float32)
    drawn = drawn_at(1, x, {"label": jnp.asarray(BATCHES[1]["label"])})
    losses = error_of(program.blueprint.network, trail[1].params, drawn)
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
    clipped = min(float(metrics[0].grad_norm), tiny().optimiser.clip_norm)
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
@pytest.mark.slow
def test_eight_devices_take_the_same_steps(one, fsdp):
    same(one, run(8, fsdp=fsdp))


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.slow
def test_a_batch_in_parts_is_the_same_step(one, devices):
    same(one, run(devices, fsdp=devices, accumulate=4))


def test_under_fsdp_parameters_and_optimiser_lie_split(one):
    config = recipe_with()
    config.mesh.min_size = 8
    state = on(8, config, fsdp=4).start()
    for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state)):
        divisible = leaf.size >= 8 and any(n % 4 == 0 for n in leaf.shape)
        share = leaf.addressable_shards[0].data.size
        assert share == (leaf.size // 4 if divisible else leaf.size)


def test_a_step_that_is_not_finite_changes_nothing_but_the_counts(one):
    program, clean, _ = one
    state = program.start()
    poisoned = state._replace(params=jax.tree.map(lambda a: a * np.nan, state.params))
    before = jax.device_get(poisoned)
    after, metrics = program.step(poisoned, program.frozen, BATCHES[0])
    assert not np.isfinite(metrics.loss)
    assert metrics.skipped == after.skipped == after.step == 1
    jax.tree.map(
        np.testing.assert_array_equal,
        (before.params, before.ema, before.opt_state),
        jax.device_get((after.params, after.ema, after.opt_state)),
    )
    assert clean[-1].skipped == 0
    stood_in = BATCHES[0] | {"replaced": np.arange(16, dtype=np.int32) % 2}
    assert program.step(after, program.frozen, stood_in)[1].replaced == 8


def test_small_images_are_noised_told_of_and_hidden():
    """The network is shown means of squares, noised from the least λ on, or zeros of no level."""
    config = recipe_with(batch_size=512)
    config.condition.label.p_uncond = 0.3
    config.condition.vector = recipe.node(Vector, p_uncond=0.3)
    config.condition.small = recipe.node(Small, logsnr_min=1.0, p_uncond=0.2)
    facts = FACTS._replace(
        arrays={**FACTS.arrays, "vector": jax.ShapeDtypeStruct((3,), jnp.float32)}
    )
    batch = {
        "x": RNG.integers(0, 256, (512, *SHAPE), dtype=np.uint8),
        "label": RNG.integers(0, CLASSES, 512).astype(np.int32),
        "vector": RNG.normal(size=(512, 3)).astype(np.float32),
        "replaced": np.zeros(512, np.int32),
    }
    program = on(1, config, facts=facts)
    cond = jax.device_get(jax.jit(program.prepare)(program.frozen, batch, jnp.int32(0))).draw.cond
    image = batch["x"].astype(np.float64) / 127.5 - 1
    small = np.mean([image[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
    z, level = cond["small"]
    hidden, told = level == -9.0, cond["label"] == CLASSES
    np.testing.assert_array_equal(told, ~cond["vector"].any(1))
    for where, p in ((hidden, 0.2), (told, 0.3), (hidden & told, 0.06)):
        assert stats.binomtest(int(where.sum()), 512, p).pvalue > 1e-3
    np.testing.assert_array_equal(z[hidden], 0.0)
    np.testing.assert_array_equal(cond["vector"][~told], batch["vector"][~told])
    level, z, small = level[~hidden].astype(np.float64), z[~hidden], small[~hidden]
    schedule = schedules.Cosine()
    u = np.asarray(schedule.u(level)) / float(schedule.u(1.0))
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(s * level)))[:, None, None, None] for s in (-1, 1))
    noise = (z - alpha * small) / sigma
    assert stats.kstest(noise[level < 8].ravel(), "norm").pvalue > 1e-3


def first_step(config, batch):
    """The program, its first state, and what the first step measured."""
    program = on(1, config)
    state = program.start()
    before = jax.device_get(state)
    return program, before, jax.device_get(program.step(state, program.frozen, batch)[1])


def test_a_network_that_enlarges_learns_from_the_squared_error():
    config = recipe_with()
    config.condition.small = recipe.node(Small, p_uncond=0.0)
    config.condition.label.p_uncond = 0.0
    program, state, metrics = first_step(config, BATCHES[0])
    x = jnp.asarray(BATCHES[0]["x"] / 127.5 - 1, jnp.float32)
    small = np.mean([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
    label = {"label": jnp.asarray(BATCHES[0]["label"])}
    drawn = drawn_at(0, x, label, p_uncond=0.0)
    drawn = drawn._replace(cond={**label, "small": jnp.asarray(small)})
    losses = error_of(program.blueprint.network, state.params, drawn)
    assert metrics.loss == pytest.approx(float(losses.mean()), rel=1e-5)


def test_a_learned_variance_learns_from_the_bound():
    """At the first step ε̂ = 0 and v = 1/2: the squared error, and a thousandth of the bound."""
    config = recipe_with()
    config.network.learned_variance = True
    config.objective = recipe.node(Hybrid, bound_weight=0.01, steps=50)
    program, _, metrics = first_step(config, BATCHES[0])
    batch = meshes.global_batch(BATCHES[0], program.mesh)
    drawn = jax.device_get(jax.jit(program.prepare)(program.frozen, batch, jnp.int32(0)).draw)
    schedule, lam = schedules.Cosine(), np.asarray(drawn.logsnr, np.float64)
    u = np.asarray(schedule.u(drawn.logsnr), np.float64)
    cleaner = np.asarray(schedule.logsnr(u - np.minimum(0.02, u / 2)), np.float64)
    lam, cleaner = lam[:, None], cleaner[:, None]
    x, eps = (np.asarray(a, np.float64).reshape(16, -1) for a in (drawn.x, drawn.eps))
    x_hat = x + np.exp(-lam / 2) * eps  # z / α
    fresh = -np.expm1(lam - cleaner)
    least, most = fresh * expit(-cleaner), fresh * expit(-lam)
    ours = np.sqrt(least * most)
    shift = fresh * np.sqrt(expit(cleaner)) * (x - x_hat)
    kl = 0.5 * (least / ours - 1 + np.log(ours / least) + shift**2 / ours)
    want = (eps**2).mean(1) + 0.01 * 50 * kl.mean(1) / np.log(2)
    assert metrics.loss == pytest.approx(want.mean(), rel=1e-3)


def test_the_same_seed_takes_the_same_steps_bitwise(one):
    program, trail, _ = one
    state = program.start()
    for batch in BATCHES:
        state, _ = program.step(state, program.frozen, meshes.global_batch(batch, program.mesh))
    jax.tree.map(np.testing.assert_array_equal, trail[-1], jax.device_get(state))


def test_training_learns(one):
    """On images of one value a class the loss falls to a fraction within 150 steps."""
    program, *_ = one
    state, losses = program.start(), []
    labels = np.arange(16, dtype=np.int32) % CLASSES
    images = np.broadcast_to((labels * 25).astype(np.uint8)[:, None, None, None], (16, *SHAPE))
    batch = {"x": images, "label": labels, "replaced": 0 * labels}
    for _ in range(150):
        state, metrics = program.step(state, program.frozen, batch)
        losses.append(metrics.loss)
    losses = [float(loss) for loss in losses]
    assert np.mean(losses[-20:]) < 0.3 * losses[0]
