"""A CLIP trained by the mechanism that trains diffusion models, and what its run can do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import smallest, tiny_towers

import cfg_jax
from cfg_jax import cli, exchange, guidance, recipe
from cfg_jax.data import Scenes
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.training.loop import stream, train
from cfg_jax.training.program import build

pytestmark = pytest.mark.slow

CAPTIONS = ["a red three left of a blue seven", "a white zero"]
Z = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))


@pytest.fixture(scope="module")
def data():
    return Scenes(scenes=64).open("train")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    place = tmp_path_factory.mktemp("towers") / "run"
    train(tiny_towers(noisy=True), place)
    return place


@pytest.fixture(scope="module")
def run(workdir):
    return cfg_jax.load(workdir)


def first_step(config, data, devices):
    mesh = meshes.device_mesh(1, jax.devices()[:devices])
    program = build(config, data.facts, mesh, data=data)
    read = stream(config, data, program.blueprint, 0)
    batch = meshes.global_batch(next(read), mesh)
    read.close()
    return program.step(program.start(), program.frozen, batch)[1]


def test_the_negatives_are_those_of_all_devices(data):
    one, eight = (first_step(tiny_towers(), data, devices) for devices in (1, 8))
    assert eight.loss == pytest.approx(float(one.loss), rel=1e-4)
    assert eight.grad_norm == pytest.approx(float(one.grad_norm), rel=1e-3)
    assert 0.5 * np.log(16) < one.loss < 3 * np.log(16)
    assert one.bin_count.tolist() == [0] * 9 + [16]


def test_it_goes_on_bitwise(workdir, data, tmp_path):
    config = tiny_towers(noisy=True)
    config.train.steps = 3
    train(config, tmp_path)
    config.train.steps = 6
    train(config, tmp_path)
    program = build(config, data.facts, meshes.device_mesh(), data=data)
    states = []
    for place in (workdir, tmp_path):
        with Checkpoints(place) as checkpoints:
            states.append(jax.device_get(checkpoints.restore(6, program.state)))
    jax.tree.map(np.testing.assert_array_equal, *states)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), states[0].params, jax.device_get(program.start().params)
    )
    assert moved["params"]["logit_scale"]
    assert moved["params"]["projection"]["kernel"]
    assert moved["encoders"]["text"]["encoder"]["params"]["tokens"]["embedding"]


def test_a_loaded_run_embeds_and_compares(run):
    agreement = run.agreement
    cond = run.condition(text=CAPTIONS)
    image, text = agreement.images(Z, 0.5), agreement.texts(cond)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1.0, rtol=1e-5)
    want = float(agreement.scale) * np.sum(np.asarray(image) * text, axis=1)
    np.testing.assert_allclose(agreement(Z, 0.5, cond), want, rtol=1e-4, atol=1e-5)
    again = agreement.texts(run.condition(text=CAPTIONS[::-1]))
    np.testing.assert_allclose(again, text[::-1], atol=1e-5)
    assert np.abs(agreement.images(Z) - image).max() > 1e-4


def test_it_guides_a_model_of_other_conditions(run):
    """By its own embeddings of the captions, whatever the denoiser is shown."""
    text = run.agreement.texts(run.condition(text=CAPTIONS))
    guided = guidance.agreement(
        lambda z, logsnr, cond: 0.1 * z, run.agreement.images, text=text, w=run.agreement.scale
    )
    up = jax.grad(lambda z: run.agreement(z, 0.5, run.condition(text=CAPTIONS)).sum())(Z)
    want = 0.1 * Z - jnp.sqrt(jax.nn.sigmoid(-0.5)) * up
    np.testing.assert_allclose(guided(Z, 0.5, None).eps, want, rtol=1e-3, atol=1e-5)


def test_it_travels_as_one_file(run, tmp_path):
    exchange.export(run, tmp_path / "clip.safetensors")
    held = cfg_jax.load(tmp_path / "clip.safetensors")
    want = run.agreement(Z, 0.5, run.condition(text=CAPTIONS))
    np.testing.assert_array_equal(held.agreement(Z, 0.5, held.condition(text=CAPTIONS)), want)


def test_it_is_no_other_model(run, noisy, trained):
    with pytest.raises(ValueError, match="is a pair of towers, which denoises nothing"):
        _ = run.denoiser
    with pytest.raises(ValueError, match="is a pair of towers, not a noisy classifier"):
        _ = run.log_prob
    with pytest.raises(ValueError, match="is a noisy classifier, not a pair of towers"):
        _ = cfg_jax.load(noisy).agreement
    with pytest.raises(ValueError, match="is a pair of towers, not a noisy classifier"):
        cfg_jax.load(trained).sample(jax.random.key(0), label=[3], classifier=run)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("condition.text.p_uncond", 0.1, "Contrastive always sees text: its p_uncond must be 0"),
        ("train.sample_every", 5, "config.train.sample_every must be 0: .* Contrastive"),
        ("train.accumulate", 2, "config.train.accumulate must be 1: Contrastive compares all"),
        ("network", "UNet", "Contrastive needs a network that embeds data and sentences"),
        ("condition.text", None, "config.network.inlets must be those of one .* got none"),
    ],
)
def test_a_recipe_that_says_what_has_no_meaning_is_refused(field, value, message, tmp_path):
    config = tiny_towers()
    *outer, name = field.split(".")
    place = config
    for part in outer:
        place = place[part]
    place[name] = value
    if name == "network":
        place[name] = recipe.node(value)
        smallest(config)
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run")
    assert not any(tmp_path.glob("run/checkpoints/[0-9]*"))


def test_the_commands_that_score_samples_say_what_it_is(workdir, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", "--workdir", str(workdir)])
    assert "holds a pair of towers, of which there is no report" in capsys.readouterr().err
