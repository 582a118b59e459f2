"""Attention against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import cross_attention, double, random_variables, self_attention
from scipy import special

from cfg_jax.nn import AttentionPool, CrossAttention, GroupNorm, SelfAttention

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("head_channels", [4, 8])
def test_self_attention_is_the_softmax_of_scaled_products(head_channels):
    x = jnp.asarray(RNG.normal(size=(2, 3, 5, 8)), jnp.float32)
    attention = SelfAttention(head_channels)
    variables = random_variables(attention, x)
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    normed = GroupNorm().apply({"params": variables["params"]["GroupNorm_0"]}, x)
    h = np.asarray(normed, np.float64).reshape(2, 15, 8)
    qkv = h @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    q, k, v = (qkv[..., i * 8 : (i + 1) * 8].reshape(2, 15, -1, head_channels) for i in range(3))
    weights = special.softmax(np.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(head_channels), axis=-1)
    mixed = np.einsum("bhqk,bkhc->bqhc", weights, v).reshape(2, 15, 8)
    want = mixed @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    got = attention.apply(variables, x)
    np.testing.assert_allclose(got - x, want.reshape(2, 3, 5, 8), rtol=1e-4, atol=1e-4)


def test_heads_may_be_counted_instead_of_their_channels():
    x = jnp.asarray(RNG.normal(size=(2, 2, 2, 8)), jnp.float32)
    counted, sized = SelfAttention(heads=2), SelfAttention(4)
    variables = random_variables(counted, x)
    np.testing.assert_array_equal(counted.apply(variables, x), sized.apply(variables, x))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (SelfAttention(3), "head_channels"),
        (SelfAttention(8, heads=3), "heads"),
        (AttentionPool(5, 3), "head_channels"),
    ],
)
def test_heads_that_do_not_divide_the_channels_are_refused(module, name):
    with pytest.raises(ValueError, match=f"^{name} must.*8 channels are not a multiple of 3"):
        module.init(jax.random.key(0), jnp.ones((1, 2, 2, 8)))


def test_attention_pooling_is_what_the_mean_attends_to():
    x = RNG.normal(size=(2, 3, 5, 8))
    pool = AttentionPool(7, head_channels=4)
    variables = random_variables(pool, jnp.asarray(x, jnp.float32))
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    places = x.reshape(2, 15, 8)
    places = np.concatenate([places.mean(1, keepdims=True), places], 1) + params["positions"]
    qkv = places @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    q, k, v = (qkv[..., i * 8 : (i + 1) * 8].reshape(2, 16, 2, 4) for i in range(3))
    weights = special.softmax(np.einsum("bhc,bkhc->bhk", q[:, 0], k) / 2, axis=-1)
    mixed = np.einsum("bhk,bkhc->bhc", weights, v).reshape(2, 8)
    want = mixed @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    got = pool.apply(variables, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


SIDES = {"sound": (7,), "picture": (3, 5), "video": (3, 2, 4)}


@pytest.mark.parametrize("data", SIDES)
def test_all_positions_attend_to_each_other_whatever_the_dimension(data):
    x = RNG.normal(size=(2, *SIDES[data], 8))
    module = SelfAttention(4)
    variables = random_variables(module, jnp.asarray(x, jnp.float32))
    got = module.apply(variables, jnp.asarray(x, jnp.float32))
    want = self_attention(double(variables["params"]), x, 4)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("axes", "same"), [((2, 3), (1,)), ((1,), (2, 3)), ((1, 3), (2,))])
def test_along_some_axes_is_dense_attention_between_places_that_agree_in_the_others(axes, same):
    x = RNG.normal(size=(2, 3, 2, 4, 8))
    module = SelfAttention(4, axes=axes)
    variables = random_variables(module, jnp.asarray(x, jnp.float32))
    got = module.apply(variables, jnp.asarray(x, jnp.float32))
    want = self_attention(double(variables["params"]), x, 4, same)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("data", SIDES)
@pytest.mark.parametrize("heads", [0, 2])
def test_cross_attention_is_that_of_every_position_to_the_sequence(data, heads):
    x, sequence = RNG.normal(size=(2, *SIDES[data], 8)), RNG.normal(size=(2, 5, 3))
    args = jnp.asarray(x, jnp.float32), jnp.asarray(sequence, jnp.float32)
    module = CrossAttention(8, heads)
    variables = random_variables(module, *args)
    want = cross_attention(double(variables["params"]), x, sequence, 4 if heads else 8)
    np.testing.assert_allclose(module.apply(variables, *args), want, rtol=1e-4, atol=1e-4)
    start = module.init(jax.random.key(0), *args)
    np.testing.assert_array_equal(module.apply(start, *args), args[0])
