"""Names, shapes and configurations of the text encoders of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_variables

from cfg_jax.text import CLIPText, T5Encoder, pretrained

CLIP = {
    "model_type": "clip_text_model",
    "architectures": ["CLIPTextModel"],
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "projection_dim": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 7,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 2,
}
PROJECTING = CLIP | {"architectures": ["CLIPTextModelWithProjection"]}
T5 = {
    "model_type": "t5",
    "vocab_size": 20,
    "d_model": 8,
    "d_kv": 3,
    "d_ff": 12,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": 1e-6,
}
KINDS = {"clip": CLIP, "projection": PROJECTING, "t5": T5}
RNG = np.random.default_rng(0)


def tensors_of(config):
    encoder = pretrained.encoder(config)
    shapes = pretrained.tensor_shapes(encoder)
    return encoder, {
        name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
    }


def assert_trees_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_configurations_are_read():
    network = pretrained.encoder(CLIP)
    assert network == CLIPText(
        vocabulary=20, width=8, layers=2, heads=2, length=7, hidden=12, eos=2, pool="argmax"
    )
    newer = pretrained.encoder(PROJECTING | {"eos_token_id": 19, "hidden_act": "gelu"})
    fields = newer.pool, newer.eos, newer.projection, newer.activation
    assert fields == ("first_eos", 19, 8, "gelu")
    network = pretrained.encoder(T5)
    assert network == T5Encoder(
        vocabulary=20,
        width=8,
        layers=2,
        heads=2,
        head_channels=3,
        hidden=12,
        buckets=8,
        distance=20,
        masked=False,
    )
    first = {k: v for k, v in T5.items() if k != "feed_forward_proj"}
    assert pretrained.encoder(first).feed_forward == "relu"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "model_type must be one of clip_text_model, t5, got None"),
        (CLIP | {"model_type": "bert"}, "model_type must be one of"),
        ({"model_type": "t5"}, "the configuration of the text encoder lacks 'vocab_size'"),
        (CLIP | {"layer_norm_eps": 1e-6}, "layer_norm_eps must be 1e-05, got 1e-06"),
        (CLIP | {"hidden_act": "relu"}, "activation must be one of quick_gelu, gelu"),
        (CLIP | {"hidden_size": 0}, "width must be a whole number"),
        (T5 | {"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon must be 1e-06"),
        (T5 | {"feed_forward_proj": "gated-silu"}, "feed_forward_proj must be one of gated-gelu"),
    ],
)
def test_what_the_encoders_do_not_do_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        pretrained.encoder(config)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_lands_in_its_place(kind):
    encoder, tensors = tensors_of(KINDS[kind])
    variables = pretrained.parameters(tensors, encoder)
    ids, mask = jnp.ones((1, 5), int), jnp.ones((1, 5), bool)
    want = jax.eval_shape(encoder.init, jax.random.key(0), ids, mask)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, want)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    total = sum(float(leaf.sum()) for leaf in jax.tree.leaves(variables))
    assert total == pytest.approx(sum(float(t.sum()) for t in tensors.values()), rel=1e-4)


def test_a_square_projection_is_transposed():
    """A linear layer's matrix is (out, in); of a square one its shape does not tell."""
    encoder, tensors = tensors_of(PROJECTING)
    variables = pretrained.parameters(tensors, encoder)
    ids = jnp.array([[3, 4, 19, 0]])
    found = encoder.apply(variables, ids)
    want = np.asarray(found.last)[0, 2] @ tensors["text_projection.weight"].T
    np.testing.assert_allclose(found.pooled[0], want, atol=1e-5)


def test_names_with_and_without_their_prefix_are_the_same():
    encoder, tensors = tensors_of(PROJECTING)
    assert "embeddings.token_embedding.weight" in tensors
    old = {
        name if name == "text_projection.weight" else f"text_model.{name}": tensor
        for name, tensor in tensors.items()
    }
    old["text_model.embeddings.position_ids"] = np.arange(7)[None]
    want = pretrained.parameters(tensors, encoder)
    assert_trees_equal(pretrained.parameters(old, encoder), want)
    halves = {name: tensor.astype(np.float16) for name, tensor in old.items()}
    rounded = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    assert_trees_equal(
        pretrained.parameters(halves, encoder),
        pretrained.parameters(
            {name: tensor.astype(np.float32) for name, tensor in rounded.items()}, encoder
        ),
    )


def test_t5s_table_has_either_name_or_both():
    encoder, tensors = tensors_of(T5)
    want = pretrained.parameters(tensors, encoder)
    other = dict(tensors)
    other["encoder.embed_tokens.weight"] = other.pop("shared.weight")
    assert_trees_equal(pretrained.parameters(other, encoder), want)
    both = other | {"shared.weight": tensors["shared.weight"]}
    assert_trees_equal(pretrained.parameters(both, encoder), want)
    both["shared.weight"] = both["shared.weight"] + 1
    with pytest.raises(ValueError, match="are one tensor, and differ"):
        pretrained.parameters(both, encoder)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_and_surplus_tensors_are_one_error_with_counts(kind):
    encoder, tensors = tensors_of(KINDS[kind])
    first, second, *_ = tensors
    damaged = {name: tensor for name, tensor in tensors.items() if name != first}
    damaged |= {f"surplus{i}": np.ones(1) for i in range(5)}
    damaged[second] = np.ones((1, 2, 3))
    with pytest.raises(ValueError, match="of another architecture") as raised:
        pretrained.parameters(damaged, encoder)
    said = str(raised.value)
    assert f"1 missing ({first})" in said
    assert "5 unexpected (surplus0, surplus1, surplus2 and 2 more)" in said
    assert f"1 of another shape ({second} (1, 2, 3) for {tensors[second].shape})" in said


def test_a_projection_too_many_is_an_error():
    encoder, _ = tensors_of(CLIP)
    _, tensors = tensors_of(PROJECTING)
    with pytest.raises(ValueError, match=r"1 unexpected \(text_projection.weight\)"):
        pretrained.parameters(tensors, encoder)


@pytest.mark.parametrize(
    ("count", "width", "layers", "heads", "projection"),
    [
        (123_060_480, 768, 12, 12, None),
        (123_650_304, 768, 12, 12, 768),
        pytest.param(340_387_840, 1024, 23, 16, None, marks=pytest.mark.slow),
        pytest.param(694_659_840, 1280, 32, 20, 1280, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts_are_the_published_ones(count, width, layers, heads, projection):
    """CLIP-L without and with its projection, OpenCLIP-H of 23 layers, bigG with its projection."""
    config = CLIP | {
        "vocab_size": 49_408,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 77,
        "projection_dim": projection,
        "architectures": [f"CLIPTextModel{'WithProjection' if projection else ''}"],
    }
    shapes = pretrained.tensor_shapes(pretrained.encoder(config))
    assert sum(np.prod(shape) for shape in shapes.values()) == count


def test_t5_attends_to_padding_as_in_stable_diffusion_3():
    encoder, _ = tensors_of(T5)
    ids = jnp.array([[3, 4, 1, 0]])
    variables = random_variables(encoder, ids)
    np.testing.assert_array_equal(
        encoder.apply(variables, ids).last, encoder.apply(variables, ids, ids > 0).last
    )
