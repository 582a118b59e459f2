"""A noisy classifier trained by the mechanism that trains diffusion models."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipes import tiny, tiny_classifier

import cfg_jax
from cfg_jax.run import load_noisy_classifier
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.training import config as recipe
from cfg_jax.training import metrics
from cfg_jax.training.loop import train
from cfg_jax.training.program import build
from cfg_jax.training.replay import replay

SHAPE, CLASSES = (8, 8, 1), 10
RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.integers(0, 256, (16, *SHAPE), dtype=np.uint8),
    "label": RNG.integers(0, CLASSES, 16).astype(np.int32),
    "replaced": np.zeros(16, np.int32),
}


def program_on(devices, **train):
    config = tiny_classifier()
    for name, value in train.items():
        config.train[name] = value
    mesh = meshes.device_mesh(1, jax.devices()[:devices])
    return build(config, SHAPE, CLASSES, mesh), meshes.global_batch(BATCH, mesh)


@pytest.fixture(scope="module")
def one():
    program, batch = program_on(1)
    start = program.start()
    return program.network, jax.device_get(start), *program.step(start, batch)


def test_the_loss_is_the_cross_entropy_of_the_noised_images(one):
    network, start, _, measured = one
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))[0]
    x = jnp.asarray(BATCH["image"] / 127.5 - 1, jnp.float32)
    drawn = cfg_jax.objective.draw(
        key, x, jnp.asarray(BATCH["label"]), schedule=recipe.schedule(tiny()), null=10, p_uncond=0.0
    )
    lam = np.asarray(drawn.logsnr, np.float64).reshape(-1, 1, 1, 1)
    z = np.sqrt(1 / (1 + np.exp(-lam))) * x + np.sqrt(1 / (1 + np.exp(lam))) * drawn.eps
    logits = network.apply(start.params, jnp.asarray(z, jnp.float32), drawn.logsnr)
    logits = np.asarray(logits, np.float64)
    own = logits[np.arange(16), BATCH["label"]]
    want = np.log(np.exp(logits).sum(1)) - own
    assert measured.loss == pytest.approx(want.mean(), rel=1e-4)
    place = ((lam.ravel() + 20) / 4).astype(int)
    np.testing.assert_allclose(
        measured.bin_loss, np.bincount(place, want, minlength=10), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(("devices", "accumulate"), [(8, 1), (2, 4)])
def test_devices_and_parts_take_the_same_step(one, devices, accumulate):
    program, batch = program_on(devices, accumulate=accumulate)
    _, measured = program.step(program.start(), batch)
    assert measured.loss == pytest.approx(float(one[3].loss), rel=1e-4)
    assert measured.grad_norm == pytest.approx(float(one[3].grad_norm), rel=1e-3)


def test_weight_decay_is_adamws():
    """θ - lr (Adam's direction + decay θ), in NumPy; without it the state is Adam's."""
    config = tiny_classifier()
    config.optim.clip_norm = 1e9
    theta, gradient = RNG.normal(size=(2, 5)).astype(np.float32)
    state = (optimizer := recipe.optimizer(config)).init(theta)
    for _ in range(2):  # the same gradient twice: both moments, corrected, stay g and g²
        updates, state = optimizer.update(gradient, state, theta)
        want = -config.optim.learning_rate * (np.sign(gradient) + 0.1 * theta)
        np.testing.assert_allclose(updates, want, rtol=1e-4)
    config.optim.weight_decay = 0.0
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.constant_schedule(1e-3)))
    assert jax.tree.structure(recipe.optimizer(config).init(theta)) == jax.tree.structure(
        plain.init(theta)
    )


def test_it_learns():
    """Images of one value a class: within 150 steps the loss where λ > 4 falls to a fraction."""
    program, _ = program_on(1)
    state, clean = program.start(), []
    labels = np.arange(16, dtype=np.int32) % CLASSES
    images = np.broadcast_to((labels * 25).astype(np.uint8)[:, None, None, None], (16, *SHAPE))
    for _ in range(150):
        state, measured = program.step(
            state, {"image": images, "label": labels, "replaced": 0 * labels}
        )
        clean.append((measured.bin_loss[6:].sum(), measured.bin_count[6:].sum()))
    loss, count = np.sum(clean[-50:], axis=0)
    assert loss / count < 0.3 * np.log(CLASSES)


def test_it_goes_on_bitwise_and_leaves_checkpoints_and_metrics(noisy, tmp_path):
    config = tiny_classifier()
    config.train.steps = 3
    train(config, tmp_path)
    config.train.steps = 6
    train(config, tmp_path)
    program = build(config, SHAPE, CLASSES, meshes.device_mesh())
    states = []
    for workdir in (noisy, tmp_path):
        with Checkpoints(workdir) as checkpoints:
            states.append(jax.device_get(checkpoints.restore(6, program.state)))
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert [row["step"] for row in metrics.read(noisy / "metrics.jsonl")] == [2, 3, 4, 6]
    assert not (noisy / "samples").exists()


def test_a_step_can_be_made_again(noisy):
    found = replay(tiny_classifier(), noisy, 5)
    assert found.loss == pytest.approx(np.mean([row["loss"] for row in found.examples]), rel=1e-4)
    assert not any(row["hidden"] for row in found.examples)


def test_it_is_loaded_as_the_average_and_as_nothing_else(noisy, trained):
    held = load_noisy_classifier(noisy, step=3)
    z = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    program = build(tiny_classifier(), SHAPE, CLASSES, meshes.device_mesh())
    with Checkpoints(noisy) as checkpoints:
        ema = checkpoints.restore(3, program.state).ema[0]
    logits = np.asarray(held.network.apply(ema, z, 0.5), np.float64)
    want = logits[[0, 1], [3, 7]] - np.log(np.exp(logits).sum(1))
    np.testing.assert_allclose(held.log_prob(z, 0.5, jnp.array([3, 7])), want, rtol=1e-4)
    assert not np.allclose(load_noisy_classifier(noisy).log_prob(z, 0.5, jnp.array([3, 7])), want)
    with pytest.raises(ValueError, match="holds a noisy classifier, not a diffusion model"):
        cfg_jax.load(noisy)
    with pytest.raises(ValueError, match="holds a diffusion model, not a noisy classifier"):
        load_noisy_classifier(trained)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("p_uncond", 0.1, "config.p_uncond must be 0 where config.objective is classifier"),
        ("train.sample_every", 5, "config.train.sample_every must be 0"),
        ("model.upscale", 2, "config.model.upscale must be 0"),
        ("model.conditional", False, "config.model.conditional must be True"),
        ("optim.weight_decay", -1.0, "config.optim.weight_decay must be at least 0"),
        ("objective", "gan", "config.objective must be one of diffusion, classifier; got 'gan'"),
    ],
)
def test_a_recipe_that_says_what_has_no_meaning_is_refused(field, value, message):
    config = tiny_classifier()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        recipe.check(config)


def test_data_without_labels_are_refused():
    with pytest.raises(ValueError, match="objective=classifier needs data with labels"):
        build(tiny_classifier(), SHAPE, 0, meshes.device_mesh())


def test_an_objective_is_part_of_what_is_trained():
    other = tiny_classifier()
    assert "objective: diffusion -> classifier" in recipe.differences(tiny(), other)
