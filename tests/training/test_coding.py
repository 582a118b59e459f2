"""Autoencoders and what is trained in their latents, by the ordinary command."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny_codec, tiny_latent

import cfg_jax
from cfg_jax import exchange, recipe
from cfg_jax.codecs import VQ, latents
from cfg_jax.data import Digits, batches
from cfg_jax.data.windows import Windowed
from cfg_jax.model import Model
from cfg_jax.parts import through
from cfg_jax.runtime import files
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.training import loop
from cfg_jax.training.program import build

pytestmark = pytest.mark.slow

FACTS = Digits().open("train").facts
RNG = np.random.default_rng(0)
BATCH = {
    "x": RNG.integers(0, 256, (16, 8, 8, 1), dtype=np.uint8),
    "label": RNG.integers(0, 10, 16).astype(np.int32),
    "replaced": np.zeros(16, np.int32),
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Latents are kept in a place of the tests' own."""
    place = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setattr(files, "cache", lambda: place)
    return place


def stepped(config, count, steps=3):
    """The first state, and that after some steps on so many devices, with the last metrics."""
    program = build(config, FACTS, meshes.device_mesh(1, jax.devices()[:count]))
    state, first = program.start(), jax.device_get(program.start())
    frozen = jax.device_put(program.frozen, meshes.replicated(program.mesh))
    for _ in range(steps):
        state, metrics = program.step(state, frozen, meshes.global_batch(BATCH, program.mesh))
    return first, jax.device_get(state), jax.device_get(metrics)


def moved(before, after):
    """The leaves that are not what they were, by their paths."""
    pairs = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {jax.tree_util.keystr(path) for (path, a), b in pairs if bool((a != b).any())}


@pytest.mark.parametrize("config", [tiny_codec(), tiny_codec(VQ, entries=5)], ids=["KL", "VQ"])
def test_every_parameter_moves(config):
    config.objective.learned_logvar = True
    first, one, measured = stepped(config, 1)
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(first.params)}
    assert moved(first.params, one.params) == paths
    assert {"error", "psnr", "logvar", "discriminator", "logit_real"} <= set(measured.measured)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def descending(config):
    """By the gradient itself: Adam makes steps of rounding errors."""
    config.optimiser = recipe.node("optax:sgd", learning_rate=0.03)
    return config


def test_eight_devices_do_what_one_does():
    config = descending(tiny_codec(VQ, entries=5))
    _, one, _ = stepped(config, 1)
    _, eight, _ = stepped(config, 8)
    jax.tree.map(close, one.params, eight.params)


def test_the_discriminator_has_an_optimiser_of_its_own():
    """Clipping the codec's gradient by its own norm leaves the discriminator's alone."""
    states = build(tiny_codec(), FACTS).state.opt_state.inner_states
    assert set(states) == {"", "discriminator"}
    named = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(states[""])}
    assert not any("discriminator" in name for name in named)


def test_accumulated_steps_do_what_whole_ones_do():
    """Up to the adaptive weight, which is each part's own: without a discriminator."""
    config = descending(tiny_codec())
    config.network.discriminator = None
    _, whole, measured = stepped(config, 1)
    config.train.accumulate = 2
    _, parts, of_parts = stepped(config, 1)
    jax.tree.map(close, whole.params, parts.params)
    jax.tree.map(close, measured.measured, of_parts.measured)


def test_a_run_that_goes_on_is_the_same_to_the_last_bit(tmp_path):
    shapes = build(tiny_codec(VQ, entries=5), FACTS).state

    def state(workdir):
        with Checkpoints(workdir) as checkpoints:
            return jax.device_get(checkpoints.restore(6, shapes))

    for name, stops in (("whole", (6,)), ("halves", (3, 6))):
        for steps in stops:
            config = tiny_codec(VQ, entries=5)
            config.train.steps = steps
            loop.train(config, tmp_path / name)
    jax.tree.map(
        np.testing.assert_array_equal, state(tmp_path / "whole"), state(tmp_path / "halves")
    )
    row = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"perplexity", "used", "codes", "psnr"} <= set(row["measured"])
    assert (tmp_path / "whole" / "samples" / "6.png").read_bytes().startswith(b"\x89PNG")


def test_a_trained_codec_encodes_and_decodes(autoencoder, tmp_path):
    run = cfg_jax.load(autoencoder)
    x = RNG.uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    z = run.encode(x)
    assert z.shape == (2, 4, 4, 2)
    back = run.network.apply(run.params, jnp.asarray(x), method="coded").x
    np.testing.assert_allclose(run.decode(z), back, atol=1e-5)
    exchange.export(run, tmp_path / "codec.safetensors")
    again = cfg_jax.load(tmp_path / "codec.safetensors")
    np.testing.assert_array_equal(again.encode(x), z)
    with pytest.raises(ValueError, match="is a codec, which denoises nothing"):
        run.sample(jax.random.key(0), batch=1)


@pytest.fixture(scope="module")
def trained_codec(autoencoder):
    config = tiny_latent(autoencoder)
    plan = build(config, FACTS).blueprint
    return plan.codec, plan.frozen.codec


def test_its_parameters_are_those_of_its_run(autoencoder, trained_codec):
    _, variables = trained_codec
    run = cfg_jax.load(autoencoder)
    same = np.testing.assert_array_equal
    jax.tree.map(same, variables, {"params": run.params["params"]["codec"]})


def kept(trained_codec, data=None):
    codec, variables = trained_codec
    return codec.kept(variables, Digits().open("train") if data is None else data)


def test_latents_of_the_whole_set_have_a_standard_deviation_of_one(trained_codec):
    """Each channel's scale and shift are those of Var(mean) + E[variance], over all examples."""
    codec, variables = trained_codec
    data = Digits().open("train")
    statistics = latents.statistics(codec, variables, data)
    said = kept(trained_codec).arrays["latents"]
    assert said.shape == (len(data.source), 4, 4, 4)
    keys = jax.random.split(jax.random.key(0), len(said))
    z = through(codec, "drawn", {**variables, "latents": statistics}, jnp.asarray(said), keys)
    np.testing.assert_allclose(z.std((0, 1, 2)), 1.0, atol=0.02)
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0.0, atol=0.02)
    own = through(codec, "described", variables, jnp.asarray(data.floats(range(5))))
    np.testing.assert_allclose(said[:5], own, atol=1e-5)
    back = through(codec, "decode", {**variables, "latents": statistics}, z[:2])
    unscaled = z[:2] / statistics["scale"] + statistics["shift"]
    np.testing.assert_allclose(back, through(codec, "decode", variables, unscaled), atol=1e-5)


def without(name):
    return lambda folder: (folder / name).unlink()


def a_bit_is_flipped(folder):
    path = folder / "latents.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


def a_scale_is_changed(folder):
    known = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(known | {"scale": [0.0, 0.0]}))


def a_pipe_stands_there(folder):
    (folder / "latents.npy").unlink()
    os.mkfifo(folder / "latents.npy")


def a_file_stands_there(folder):
    shutil.rmtree(folder)
    folder.touch()


@pytest.mark.parametrize(
    "damage",
    [
        *(a_bit_is_flipped, a_scale_is_changed, a_pipe_stands_there, a_file_stands_there),
        pytest.param(without("latents.npy"), id="without_latents"),
        pytest.param(without("manifest.json"), id="without_manifest"),
    ],
)
def test_a_damaged_cache_is_made_again(trained_codec, damage):
    found = kept(trained_codec)
    whole = (found.folder / "latents.npy").read_bytes()
    damage(found.folder)
    again = kept(trained_codec)
    assert again.folder == found.folder
    assert (again.folder / "latents.npy").read_bytes() == whole
    assert (again.scale, again.shift) == (found.scale, found.shift)


def test_another_codec_or_other_data_have_another_cache(trained_codec):
    codec, variables = trained_codec
    first = kept(trained_codec).folder
    other = jax.tree.map(lambda leaf: leaf + 1e-3, variables)
    assert codec.kept(other, Digits().open("train")).folder != first
    assert kept(trained_codec, Digits().open("test")).folder != first
    scaled = codec.clone(scale=2.0, run="elsewhere")
    assert scaled.kept(variables, Digits().open("train")).folder == first


def test_mirrored_examples_are_encoded_as_what_they_are(trained_codec):
    """An encoder does not commute with a flip: both are kept, and each place has its own."""
    codec, variables = trained_codec
    data = dataclasses.replace(Digits().open("train"), flip=True)
    attached = codec.attached(variables, data)
    batch = next(batches(attached, batch_size=16, seed=0))
    own = through(codec, "described", variables, jnp.asarray(batch["x"] / 127.5 - 1, jnp.float32))
    np.testing.assert_allclose(batch["latents"], own, atol=1e-4)
    assert set(batch) == {"x", "label", "latents", "replaced"}


def test_pictures_that_are_cut_anew_each_time_have_none_kept(trained_codec):
    data = Digits().open("train")
    cut = dataclasses.replace(data, source=Windowed(data.source, data.shape))
    with pytest.raises(ValueError, match="cannot be kept: it shows each picture in many ways"):
        kept(trained_codec, cut)


def test_training_draws_z_anew_each_step_from_what_is_kept(autoencoder):
    """The same z whether latents are kept or encoded in the step, another in the next step."""
    drawn = []
    for cached, step in ((True, 3), (False, 3), (True, 4)):
        config = tiny_latent(autoencoder, cached=cached)
        program = build(config, FACTS, data=Digits().open("train"))
        stream = loop.stream(config, Digits().open("train"), program.blueprint, 0)
        batch = next(stream)
        stream.close()
        assert ("latents" in batch) == cached
        ready = jax.jit(program.prepare)(program.frozen, batch, jnp.int32(step))
        drawn.append(np.asarray(ready.draw.x))
    np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-4)
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3


def test_a_model_in_latents_trains_samples_and_loads_without_its_codecs_run(autoencoder, tmp_path):
    shutil.copytree(autoencoder, tmp_path / "codec")
    config = tiny_latent(tmp_path / "codec")
    config.train.sample_every = 6
    loop.train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "codec")
    run = cfg_jax.load(tmp_path / "run")
    x = run.sample(jax.random.key(0), label=[1, 2])
    z = run.sample(jax.random.key(0), label=[1, 2], decode=False)
    assert (x.shape, z.shape) == ((2, 8, 8, 1), (2, 4, 4, 2))
    np.testing.assert_allclose(run.decode(z), x, atol=1e-5)
    exchange.export(run, tmp_path / "run.safetensors")
    again = cfg_jax.load(tmp_path / "run.safetensors")
    np.testing.assert_array_equal(again.sample(jax.random.key(0), label=[1, 2]), x)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"run": "nowhere"}, "config.codec.run: nowhere is no work directory of a trained codec"),
        (
            {"latent_channels": 3},
            "did not train a codec as config.codec describes it: the checkpoint [^;]* is wanted$",
        ),
        ({"run": ""}, "must be trained first"),
    ],
)
def test_a_codec_that_is_not_there_is_told_of(autoencoder, change, line):
    config = tiny_latent(autoencoder)
    config.codec.update(change)
    with pytest.raises(ValueError, match=line):
        build(config, FACTS, data=Digits().open("train"))


def of_a_codec():
    """A model in latents, untrained."""
    plan = build(tiny_latent(""), FACTS).blueprint
    codec = plan.codec.init(jax.random.key(0), jnp.zeros((1, *FACTS.shape)))
    return Model(**plan._replace(frozen=plan.frozen._replace(codec=codec)).model({}))


@pytest.mark.parametrize(
    ("way", "shape", "dtype", "line"),
    [
        ("encode", (8, 8, 1), "float32", r"x must be \(batch, 8, 8, 1\), or of other sides, got"),
        ("encode", (2, 8, 8, 3), "float32", r"x must be \(batch, 8, 8, 1\), .* got \(2, 8, 8, 3\)"),
        ("encode", (0, 8, 8, 1), "float32", r"x must be \(batch, 8, 8, 1\)"),
        ("encode", (2, 7, 8, 1), "float32", "takes multiples of it: not 7×8"),
        ("encode", (2, 8, 8, 1), "uint8", r"x must lie in \[-1, 1\], got bytes: x / 127.5 - 1"),
        ("decode", (4, 4, 2), "float32", r"z must be \(batch, 4, 4, 2\), or of other sides, got"),
        ("decode", (2, 4, 4, 3), "float32", r"z must be \(batch, 4, 4, 2\)"),
    ],
)
def test_what_is_no_data_or_latents_is_refused(monkeypatch, way, shape, dtype, line):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=line):
        getattr(of_a_codec(), way)(np.zeros(shape, dtype))


def test_a_plan_needs_no_trained_codec():
    config = tiny_latent("")
    assert build(config, FACTS).blueprint.shape == (4, 4, 2)
