"""Attention against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import attended, cross_attention, dense, double, random_variables, self_attention
from scipy import special

from cfg_jax.nn import AttentionPool, CrossAttention, GroupNorm, SelfAttention, attend

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


@pytest.mark.parametrize(("places", "at_once"), [(15, 4), (15, 5), (15, 16), (6, 1)])
@pytest.mark.slow
def test_some_positions_at_a_time_are_all_of_them_and_so_are_gradients(places, at_once):
    x = jnp.asarray(RNG.normal(size=(2, places, 8)), jnp.float32)
    whole, parts = SelfAttention(4), SelfAttention(4, at_once=at_once)
    variables = random_variables(whole, x)

    def loss(module):
        return jax.value_and_grad(lambda v, x: jnp.square(module.apply(v, x)).sum(), (0, 1))

    got, want = loss(parts)(variables, x), loss(whole)(variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


def test_the_norm_of_attention_has_the_epsilon_and_groups_asked_for():
    x = jnp.asarray(0.01 * RNG.normal(size=(2, 5, 8)), jnp.float32)
    module = SelfAttention(4, epsilon=1e-2, groups=2)
    variables = random_variables(module, x)
    p = variables["params"]
    normed = GroupNorm(1e-2, groups=2).apply({"params": p["GroupNorm_0"]}, x)
    h = np.asarray(normed, np.float64)
    q, k, v = np.split(dense(double(p["Dense_0"]), h), 3, axis=-1)
    want = x + dense(double(p["Dense_1"]), attended(q, k, v, 4))
    np.testing.assert_allclose(module.apply(variables, x), want, rtol=1e-4, atol=1e-4)


MASK = np.array([[1, 1, 0, 1, 0], [0, 1, 0, 0, 0]], bool)


@pytest.mark.parametrize("each", [2, 4, 8])
def test_several_heads_attend_to_what_the_mask_lets_them(each):
    q, k, v = (RNG.normal(size=(2, n, 8)) for n in (3, 5, 5))
    told = [jnp.asarray(a, jnp.float32) for a in (q, k, v)]
    got = attend(*told, each, jnp.asarray(MASK))
    np.testing.assert_allclose(
        got, attended(q, k, v, each, MASK[:, None, None]), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(attend(*told, each), attended(q, k, v, each), rtol=1e-4, atol=1e-5)


def test_where_nothing_may_be_attended_to_the_result_is_zero_and_its_gradient_too():
    q, k, v = (jnp.asarray(RNG.normal(size=(2, n, 8)), jnp.float32) for n in (3, 5, 5))
    mask = jnp.asarray(MASK).at[1].set(False)
    got = attend(q, k, v, 4, mask)
    np.testing.assert_array_equal(got[1], 0.0)
    assert np.abs(got[0]).min() > 0
    gradients = jax.grad(lambda *a: attend(*a, 4, mask).sum(), argnums=(0, 1, 2))(q, k, v)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient[1], 0.0)


def test_products_and_softmax_are_float32_in_half_precision():
    """Logits of 256 and 257 are one in bfloat16, and the weights then equal."""
    q, k = jnp.ones((1, 1, 2), jnp.bfloat16), jnp.array([[[256, 0], [256, 1]]], jnp.bfloat16)
    got = attend(q, k, jnp.array([[[0, 0], [1, 1]]], jnp.bfloat16), 2)
    np.testing.assert_allclose(got.astype(jnp.float32), special.expit(0.5**0.5), atol=0.004)


def test_cross_attention_with_a_mask_is_that_to_what_is_left():
    x, sequence = RNG.normal(size=(2, 3, 8)), RNG.normal(size=(2, 5, 3))
    args = jnp.asarray(x, jnp.float32), jnp.asarray(sequence, jnp.float32)
    module = CrossAttention(4)
    variables = random_variables(module, *args)
    mask = np.array([[1, 1, 0, 0, 0]] * 2, bool)
    got = module.apply(variables, *args, jnp.asarray(mask))
    np.testing.assert_allclose(got, module.apply(variables, args[0], args[1][:, :2]), atol=1e-5)
