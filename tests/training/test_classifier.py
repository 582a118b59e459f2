"""A noisy classifier trained by the mechanism that trains diffusion models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny, tiny_classifier
from scipy.special import expit

import cfg_jax
from cfg_jax import recipe, schedules
from cfg_jax.objectives.draw import draw
from cfg_jax.parts import Facts, Setting
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.training import metrics
from cfg_jax.training.loop import train
from cfg_jax.training.program import build
from cfg_jax.training.replay import replay

pytestmark = pytest.mark.slow

SHAPE, CLASSES = (8, 8, 1), 10
FACTS = Facts(SHAPE, tuple("0123456789"), {"label": jax.ShapeDtypeStruct((), jnp.int32)})
RNG = np.random.default_rng(0)
BATCH = {
    "x": RNG.integers(0, 256, (16, *SHAPE), dtype=np.uint8),
    "label": RNG.integers(0, CLASSES, 16).astype(np.int32),
    "replaced": np.zeros(16, np.int32),
}


def program_on(devices, **train):
    config = tiny_classifier()
    for name, value in train.items():
        config.train[name] = value
    mesh = meshes.device_mesh(1, jax.devices()[:devices])
    return build(config, FACTS, mesh), meshes.global_batch(BATCH, mesh)


@pytest.fixture(scope="module")
def one():
    program, batch = program_on(1)
    start = program.start()
    held = jax.device_get(start)
    return program, held, *program.step(start, program.frozen, batch)


def test_the_loss_is_the_cross_entropy_of_the_noised_images(one):
    program, start, _, measured = one
    network = program.blueprint.network
    key = jax.random.fold_in(jax.random.key(0), 0)
    x = jnp.asarray(BATCH["x"] / 127.5 - 1, jnp.float32)
    setting = Setting(schedules.Cosine(), {"label": 10}, {"label": 0.0}, {"label": True})
    drawn = draw(key, x, {"label": jnp.asarray(BATCH["label"])}, setting)
    lam = np.asarray(drawn.logsnr, np.float64).reshape(-1, 1, 1, 1)
    z = np.sqrt(expit(lam)) * x + np.sqrt(expit(-lam)) * drawn.eps
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
    _, measured = program.step(program.start(), program.frozen, batch)
    assert measured.loss == pytest.approx(float(one[3].loss), rel=1e-4)
    assert measured.grad_norm == pytest.approx(float(one[3].grad_norm), rel=1e-3)


def test_it_learns(one):
    """Images of one value a class: within 150 steps the loss where λ > 4 falls to a fraction."""
    program, *_ = one
    state, clean = program.start(), []
    labels = np.arange(16, dtype=np.int32) % CLASSES
    images = np.broadcast_to((labels * 25).astype(np.uint8)[:, None, None, None], (16, *SHAPE))
    batch = {"x": images, "label": labels, "replaced": 0 * labels}
    for _ in range(150):
        state, measured = program.step(state, program.frozen, batch)
        clean.append((measured.bin_loss[6:].sum(), measured.bin_count[6:].sum()))
    loss, count = np.sum(clean[-50:], axis=0)
    assert loss / count < 0.3 * np.log(CLASSES)


def test_it_goes_on_bitwise_and_leaves_checkpoints_and_metrics(noisy, tmp_path):
    config = tiny_classifier()
    config.train.steps = 3
    train(config, tmp_path)
    config.train.steps = 6
    train(config, tmp_path)
    program = build(config, FACTS, meshes.device_mesh())
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
    held = cfg_jax.load(noisy, step=3)
    z = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    labels = held.condition(label=[3, 7])
    program = build(tiny_classifier(), FACTS, meshes.device_mesh())
    with Checkpoints(noisy) as checkpoints:
        ema = checkpoints.restore(3, program.state).ema[0]
    logits = np.asarray(held.network.apply(ema, z, 0.5), np.float64)
    want = logits[[0, 1], [3, 7]] - np.log(np.exp(logits).sum(1))
    np.testing.assert_allclose(held.log_prob(z, 0.5, labels), want, rtol=1e-4)
    assert not np.allclose(cfg_jax.load(noisy).log_prob(z, 0.5, labels), want)
    with pytest.raises(ValueError, match="is a noisy classifier, which denoises nothing"):
        _ = held.denoiser
    with pytest.raises(ValueError, match="is a noisy classifier, which denoises nothing"):
        held.sample(jax.random.key(0), label=[3])
    with pytest.raises(ValueError, match="is a diffusion model, not a noisy classifier"):
        _ = cfg_jax.load(trained).log_prob


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("condition.label.p_uncond", 0.1, "a classifier always sees label: its p_uncond must be 0"),
        ("train.sample_every", 5, "config.train.sample_every must be 0: .* CrossEntropy"),
        ("optimiser.weight_decay", -1.0, "config.optimiser.weight_decay must lie in"),
        ("condition.label", None, "of must name an entry of the condition, one of none"),
        ("objective.of", "small", "of must name an entry of the condition, one of label"),
    ],
)
def test_a_recipe_that_says_what_has_no_meaning_is_refused(field, value, message, tmp_path):
    config = tiny_classifier()
    *outer, name = field.split(".")
    place = config
    for part in outer:
        place = place[part]
    place[name] = value
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_data_without_labels_are_refused():
    with pytest.raises(ValueError, match=r"config.condition.label: .* the data have no classes"):
        build(tiny_classifier(), Facts(SHAPE), meshes.device_mesh())


def test_an_objective_is_part_of_what_is_trained():
    found = recipe.differences(tiny(), tiny_classifier())
    assert any("Denoising" in told and "CrossEntropy" in told for told in found)
