"""Captions encoded by an encoder that others trained: read from a folder, and never changed."""

import json
import shutil

import clip_folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from recipes import tiny_captioned

import cfg_jax
from cfg_jax import recipe
from cfg_jax.conditions import Text
from cfg_jax.parts import Facts
from cfg_jax.text import CLIPText, T5Encoder, pretrained, tokenizer
from cfg_jax.training.loop import train

FACTS = Facts((8, 8, 1), texts=("text",))
COUNT = len(clip_folders.vocabulary(clip_folders.TINY_MERGES))
CONFIG = {
    "model_type": "clip_text_model",
    "vocab_size": COUNT,
    "hidden_size": 8,
    "intermediate_size": 32,
    "projection_dim": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": COUNT - 1,
}
ENCODER = CLIPText(width=8, layers=1, heads=2)
LENGTH = 12


def tensors():
    rng = np.random.default_rng(0)
    shapes = pretrained.tensor_shapes(pretrained.encoder(CONFIG))
    return {n: rng.normal(size=shape).astype(np.float32) for n, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path):
    """An encoder and its tokenizer in one folder."""
    made = clip_folders.write(tmp_path / "encoder", clip_folders.TINY_MERGES)
    (made / "config.json").write_text(json.dumps(CONFIG))
    safetensors.numpy.save_file(tensors(), made / "model.safetensors")
    return made


def bound(path, **fields):
    given = {"vocabulary": COUNT, "length": LENGTH, "encoder": ENCODER, **fields}
    return Text(pretrained=str(path), **given).bind("text", FACTS)


def states(folder, texts):
    """What the encoder, whole, says of rows of its own."""
    ids, mask = tokenizer.clip(folder, length=LENGTH)(texts)
    network = pretrained.encoder(CONFIG)
    return network.apply(pretrained.parameters(tensors(), network), ids).sequence, mask


def shown(made, texts):
    held = made.frozen()
    return made.encoded(held, made.given(texts, held))


@pytest.mark.parametrize("masked", [True, False])
def test_it_says_what_the_encoder_says(folder, masked):
    texts = ["a red fox", "we've a fox"]
    vectors, mask = shown(bound(folder, masked=masked), texts)
    wanted, padded = states(folder, texts)
    np.testing.assert_allclose(vectors, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(mask, padded if masked else np.ones_like(padded))


@pytest.mark.parametrize("weights", ["", "comfyui"])
def test_the_null_is_the_empty_caption(folder, weights):
    made = bound(folder, weights=weights)
    null = jax.tree.map(lambda leaf: np.asarray(leaf)[None], made.null)
    for got, wanted in zip(made.encoded(made.frozen(), null), states(folder, [""]), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_tokenizer_may_lie_elsewhere(folder, tmp_path):
    other = clip_folders.write(tmp_path / "tokenizer", clip_folders.TINY_MERGES)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    vectors, _ = shown(bound(folder, folder=str(other)), ["a fox"])
    np.testing.assert_allclose(vectors, states(other, ["a fox"])[0], rtol=1e-5, atol=1e-5)


def test_weights_may_lie_in_several_files(folder):
    wanted = shown(bound(folder), ["a red fox"])
    (folder / "model.safetensors").unlink()
    halves = {"one.safetensors": {}, "two.safetensors": {}}
    for number, (name, tensor) in enumerate(tensors().items()):
        halves[list(halves)[number % 2]][name] = tensor
    for name, half in halves.items():
        safetensors.numpy.save_file(half, folder / name)
    places = {name: file for file, half in halves.items() for name in half}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    jax.tree.map(np.testing.assert_array_equal, shown(bound(folder), ["a red fox"]), wanted)
    index.write_text(json.dumps({"weight_map": ["one.safetensors"]}))
    with pytest.raises(ValueError, match="has no weight_map"):
        bound(folder).frozen()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": ENCODER.clone(activation="gelu")}, "has activation quick_gelu, and .* gelu"),
        ({"encoder": ENCODER.clone(layers=2)}, "its encoder has layers 1, and encoder has 2"),
        ({"encoder": ENCODER.clone(causal=False)}, "has causal True, and encoder has False"),
        ({"encoder": T5Encoder(width=8)}, "it holds a CLIPText, and encoder is a T5Encoder"),
        ({"vocabulary": COUNT + 1}, f"has vocabulary {COUNT}, and encoder has {COUNT + 1}"),
        ({"vocabulary": COUNT - 1}, f"vocabulary must be at least the {COUNT} tokens"),
        ({"length": 78}, "length must be at most 77, got 78"),
    ],
)
def test_another_encoder_than_the_recipes_is_refused(folder, fields, message):
    with pytest.raises(ValueError, match=message):
        bound(folder, **fields).frozen()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, r"config\.json does not exist"),
        ("config.json", b"{", r"config\.json is no JSON, or cut short"),
        ("config.json", b"[]", r"config\.json holds no JSON object"),
        ("model.safetensors", None, r"the weights file .*model\.safetensors does not exist"),
        ("model.safetensors", b"half", r"model\.safetensors is damaged"),
        ("vocab.json", b"{}", r"merges\.txt makes .*, which the vocabulary has not"),
    ],
)
def test_files_that_are_missing_or_damaged_are_named(folder, name, content, message):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        bound(folder).frozen()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": []}, r"model_type must be one of clip_text_model, t5, got \[\]"),
        ({"architectures": 3}, "architectures must be a list of names, got 3"),
        ({"vocab_size": 10**5000}, r"config\.json is no JSON, or cut short: Exceeds the limit"),
    ],
)
def test_a_configuration_of_odd_kinds_is_refused(folder, changes, message):
    text = json.dumps(CONFIG | dict.fromkeys(changes))
    for name, value in changes.items():  # json.dumps writes no integer of 5,000 digits
        written = "1" + "0" * 5000 if isinstance(value, int) and value > 9 else json.dumps(value)
        text = text.replace(f'"{name}": null', f'"{name}": {written}')
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        bound(folder).frozen()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda x: x * np.nan, "final_layer_norm.bias must be finite in float32"),
        (lambda x: np.full(x.shape, 1e300), "final_layer_norm.bias must be finite in float32"),
        (lambda x: x.astype(np.int32), "final_layer_norm.bias must be of floats, got int32"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(folder, harm, message):
    held = tensors()
    held["final_layer_norm.bias"] = harm(held["final_layer_norm.bias"])
    safetensors.numpy.save_file(held, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        bound(folder).frozen()


def test_a_tensor_under_both_of_its_names_is_one_or_refused(folder):
    name = "final_layer_norm.bias"
    held = tensors()
    held[f"text_model.{name}"] = held[name].copy()
    safetensors.numpy.save_file(held, folder / "model.safetensors")
    bound(folder).frozen()
    held[f"text_model.{name}"] += 1.0
    safetensors.numpy.save_file(held, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"final_layer_norm\.bias are one tensor, and"):
        bound(folder).frozen()


@pytest.mark.slow
def test_training_leaves_it_as_it_is_and_samples_need_the_folder_no_more(folder, tmp_path):
    config = tiny_captioned()
    encoder = recipe.node(CLIPText, width=8, layers=1, heads=2)
    config.condition.text = recipe.node(
        Text, pretrained=str(folder), vocabulary=COUNT, length=40, encoder=encoder
    )
    config.train.sample_every = 0
    train(config, tmp_path / "run")
    config.train.steps += 2
    train(config, tmp_path / "run")
    shutil.rmtree(folder)
    run = cfg_jax.load(tmp_path / "run")
    assert run.step == config.train.steps
    assert "encoders" not in run.params
    held = run.condition_params["text"]["encoder"]["params"]
    network = pretrained.encoder(CONFIG)
    wanted = pretrained.parameters(tensors(), network)["params"]
    wanted["positions"] = wanted["positions"][:40]
    jax.tree.map(np.testing.assert_array_equal, held, wanted)
    key = jax.random.key(0)
    x = run.sample(key, text=["a red three"] * 2, w=2.0, negative={"text": "a blue four"}, steps=2)
    assert bool(jnp.isfinite(x).all())
