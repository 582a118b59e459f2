"""Layers of transformers against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import attended, dense, double, normed, random_variables
from scipy import special

from cfg_jax.nn import Attention, FeedForward, Modulation, Projections, SpatialTransformer
from cfg_jax.nn.transformer import geglu

RNG = np.random.default_rng(0)


def single(x):
    return jnp.asarray(x, jnp.float32)


def gated(x):
    value, gate = np.split(x, 2, axis=-1)
    return value * gate * special.ndtr(gate)


def test_geglu_is_gated_by_the_exact_gelu():
    x = RNG.normal(size=(3, 2, 8)) * 3
    np.testing.assert_allclose(geglu(single(x)), gated(x), rtol=1e-4, atol=1e-5)


def test_projections_are_normalised_in_each_head():
    x, context = RNG.normal(size=(2, 3, 8)), RNG.normal(size=(2, 5, 6))
    module = Projections(4, norm=True)
    variables = random_variables(module, single(x), single(context))
    p = double(variables["params"])

    def rms(h, scale):
        heads = h.reshape(*h.shape[:2], 2, 4)
        mean = np.square(heads).mean(-1, keepdims=True)
        return (heads / np.sqrt(mean + 1e-6) * scale).reshape(h.shape)

    want = (
        rms(dense(p["query"], x), p["query_norm"]["scale"]),
        rms(dense(p["key"], context), p["key_norm"]["scale"]),
        dense(p["value"], context),
    )
    for got, exact in zip(module.apply(variables, single(x), single(context)), want, strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)


def test_modulation_is_dense_in_float32_and_begins_at_zero():
    embedding = RNG.normal(size=(2, 3))
    module = Modulation(4)
    variables = random_variables(module, single(embedding))
    want = np.split(dense(double(variables["params"])["dense"], embedding), 4, axis=-1)
    got = module.apply(variables, single(embedding))
    np.testing.assert_allclose(np.stack(got), np.stack(want), rtol=1e-4, atol=1e-5)
    start, _ = module.init_with_output(jax.random.key(0), single(embedding))
    np.testing.assert_array_equal(np.stack(start), 0.0)


def spatial(p, x, context, mask, each, layers):
    """Of (rows, places, channels); the context has as many rows."""

    def layer_normed(q, h):
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return h * q["scale"] + q["bias"]

    def attention(q, h, seen, allowed=True):
        parts = [
            a @ q["projections"][n]["kernel"]
            for n, a in (("query", h), ("key", seen), ("value", seen))
        ]
        return dense(q["output"], attended(*parts, each, allowed))

    h = dense(p["input"], x)
    for i in range(layers):
        q = p[f"block{i}"]
        seen = layer_normed(q["self_norm"], h)
        h = h + attention(q["self"], seen, seen)
        h = h + attention(
            q["cross"], layer_normed(q["cross_norm"], h), context, mask[:, None, None]
        )
        hidden = dense(q["forward"]["hidden"], layer_normed(q["forward_norm"], h))
        h = h + dense(q["forward"]["output"], gated(hidden))
    return dense(p["output"], h)


SHAPES = {"sound": (2, 6, 8), "picture": (2, 2, 3, 8), "video": (2, 3, 2, 2, 8)}


@pytest.mark.parametrize("data", SHAPES)
def test_a_spatial_transformer_is_its_layers(data):
    """Over the places of each frame of a video, which all see the example's context."""
    x, context = RNG.normal(size=SHAPES[data]), RNG.normal(size=(2, 5, 3))
    mask = np.array([[1, 1, 0, 1, 0], [0, 1, 0, 0, 0]], bool)
    axes = (2, 3) if data == "video" else None
    module = SpatialTransformer(head_channels=4, layers=2, axes=axes)
    args = single(x), single(context), jnp.asarray(mask)
    variables = random_variables(module, *args)
    p = double(variables["params"])
    frames = 3 if data == "video" else 1
    # normed's epsilon is 1e-5, this norm's 1e-6: the same to the tolerance below.
    h = normed(p["norm"], x).reshape(2 * frames, -1, 8)
    h = spatial(p, h, context.repeat(frames, 0), mask.repeat(frames, 0), 4, 2)
    got = jax.jit(module.apply)(variables, *args)
    np.testing.assert_allclose(got, x + h.reshape(x.shape), rtol=0, atol=2e-4 * np.abs(h).max())


def test_it_starts_as_the_identity_and_needs_no_context():
    x = single(RNG.normal(size=(2, 2, 3, 8)))
    module = SpatialTransformer(heads=2, dropout=0.5, train=True)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    got, variables = module.init_with_output(keys, x)
    np.testing.assert_array_equal(got, x)
    assert "cross" not in variables["params"]["block0"]


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match=r"^heads must.*8 channels are not a multiple of 3"):
        SpatialTransformer(heads=3).init(jax.random.key(0), jnp.ones((1, 2, 2, 8)))


def test_bfloat16_is_near_float32():
    x, context = single(RNG.normal(size=(2, 2, 3, 8))), single(RNG.normal(size=(2, 5, 3)))
    module = SpatialTransformer(head_channels=4)
    variables = random_variables(module, x, context)
    want = module.apply(variables, x, context)
    got = module.clone(dtype="bfloat16").apply(variables, x, context)
    assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


@pytest.mark.parametrize("module", [Attention(4), FeedForward(5)])
def test_places_do_not_mix_but_by_attention(module):
    x = single(RNG.normal(size=(2, 3, 8)))
    variables = random_variables(module, x)
    base, changed = (module.apply(variables, a) for a in (x, x.at[:, 1].add(1.0)))
    mixed = isinstance(module, Attention)
    assert (np.abs(base - changed)[:, 0].max() > 1e-4) == mixed
    assert np.abs(base - changed)[:, 1].max() > 1e-4
