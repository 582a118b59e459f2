"""The parts of networks against NumPy and Flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from scipy import special

from cfg_jax import schedules
from cfg_jax.networks import layers

RNG = np.random.default_rng(0)


def randomised(variables):
    """New values for every parameter: zero-initialised ones would make a comparison empty."""
    leaves, structure = jax.tree.flatten(variables)
    fresh = [jnp.asarray(RNG.normal(size=leaf.shape) * 0.5, jnp.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, fresh)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (24, 8), (6, 2), (5, 1)])
def test_group_norm_is_flaxs(channels, groups):
    x = jnp.asarray(RNG.normal(3.0, 2.0, size=(2, 4, 6, channels)), jnp.float32)
    ours, theirs = layers.GroupNorm(), nn.GroupNorm(groups, epsilon=1e-5)
    variables = randomised(ours.init(jax.random.key(0), x))
    np.testing.assert_allclose(
        ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-4, atol=1e-4
    )


def test_adaptive_group_norm_scales_and_shifts_the_normalised():
    x = jnp.asarray(RNG.normal(size=(2, 4, 4, 8)), jnp.float32)
    scale, shift = (jnp.asarray(RNG.normal(size=(2, 8)), jnp.float32) for _ in range(2))
    norm = layers.GroupNorm()
    variables = randomised(norm.init(jax.random.key(0), x))
    plain = norm.apply(variables, x)
    want = plain * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(norm.apply(variables, x, scale, shift), want, rtol=1e-4, atol=1e-5)


def test_group_norm_of_a_constant_is_finite():
    x = jnp.full((1, 4, 4, 8), 1e3)
    norm = layers.GroupNorm()
    assert np.abs(norm.apply(norm.init(jax.random.key(0), x), x)).max() < 1.0


def normalised(x):
    """x̂ and 1 / σ, of float64 images whose groups are one axis more: (…, groups, channels / 32)."""
    mean = x.mean((1, 2, 4), keepdims=True)
    inverse = 1 / np.sqrt(x.var((1, 2, 4), keepdims=True) + 1e-5)
    return (x - mean) * inverse, inverse


def grouped(x):
    return x.reshape(*x.shape[:-1], np.gcd(32, x.shape[-1]), -1)


def reference(x, gamma, beta, scale, shift):
    """Group norm in float64."""
    x_hat = normalised(grouped(x))[0].reshape(x.shape)
    return (x_hat * gamma + beta) * (1 + scale)[:, None, None] + shift[:, None, None]


def reference_gradients(cotangent, x, gamma, beta, scale, shift):
    """By x, γ, β, scale and shift, of Σ cotangent · y."""
    x_hat, inverse = normalised(grouped(x))
    inner = cotangent * (1 + scale)[:, None, None]
    g = grouped(inner * gamma)
    along = (g * x_hat).mean((1, 2, 4), keepdims=True)
    by_x = inverse * (g - g.mean((1, 2, 4), keepdims=True) - x_hat * along)
    x_hat = x_hat.reshape(x.shape)
    by_gamma, by_beta = (inner * x_hat).sum((0, 1, 2)), inner.sum((0, 1, 2))
    by_scale = (cotangent * (x_hat * gamma + beta)).sum((1, 2))
    return by_x.reshape(x.shape), by_gamma, by_beta, by_scale, cotangent.sum((1, 2))


def moved(f, at, along, step=1e-5):
    """The derivative of a float64 function along a direction, by central differences."""
    ahead, behind = (
        f(*(a + sign * step * d for a, d in zip(at, along, strict=True))) for sign in (1, -1)
    )
    return jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)


def draws(channels, batch=3):
    """Images and their norm's parameters, in float64."""
    shapes = [(batch, 4, 6, channels), (channels,), (channels,), (batch, channels)]
    x, *rest = (RNG.normal(size=shape) for shape in [*shapes, shapes[-1]])
    return 2.0 * x + 1.0, *rest


def apply_norm(x, gamma, beta, scale, shift):
    params = {"params": {"scale": gamma, "bias": beta}}
    return layers.GroupNorm().apply(params, x, scale, shift)


def single(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def assert_near(got, want, tolerance=1e-5):
    """Every entry of every array within a tolerance relative to the largest one."""
    for mine, its in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=tolerance * np.abs(its).max())


@pytest.mark.parametrize("channels", [64, 24, 5])
def test_group_norm_and_its_gradients_are_those_in_float64(channels):
    at, along = draws(channels), draws(channels)
    cotangent = along[0]
    got, back = jax.vjp(apply_norm, *single(at))
    assert_near(got, reference(*at))
    assert_near(back(*single((cotangent,))), reference_gradients(cotangent, *at))
    assert_near(
        jax.jvp(apply_norm, single(at), single(along))[1], moved(reference, at, along), 2e-5
    )


def test_second_derivatives_of_group_norm_are_those_in_float64():
    at, along = draws(8), draws(8)
    cotangent = RNG.normal(size=at[0].shape)

    def gradients(*at):
        return jax.vjp(apply_norm, *at)[1](*single((cotangent,)))

    want = moved(lambda *at: reference_gradients(cotangent, *at), at, along)
    got = jax.jvp(gradients, single(at), single(along))[1]
    assert_near(got, want, 1e-4)


@pytest.mark.parametrize("how", ["remat", "vmap", "shard_map"])
def test_gradients_of_group_norm_are_the_same_under(how):
    at, cotangent = draws(8, batch=4), RNG.normal(size=(4, 4, 6, 8))

    def mapped(x, gamma, beta, scale, shift):
        each = jax.vmap(apply_norm, in_axes=(0, None, None, 0, 0))
        return each(x[:, None], gamma, beta, scale[:, None], shift[:, None])[:, 0]

    split, whole = PartitionSpec("data"), PartitionSpec()
    changed = {
        "remat": jax.checkpoint(apply_norm),
        "vmap": mapped,
        "shard_map": jax.shard_map(
            apply_norm,
            mesh=jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
            in_specs=(split, whole, whole, split, split),
            out_specs=split,
        ),
    }[how]

    @jax.jit
    def gradients(*at):
        return jax.vjp(changed, *at)[1](*single((cotangent,)))

    assert_near(gradients(*single(at)), reference_gradients(cotangent, *at))


def test_group_norm_in_bfloat16_keeps_its_statistics_in_float32():
    x, gamma, beta, scale, shift = draws(64)
    x = jnp.asarray(100.0 + x, jnp.bfloat16)
    params = {"params": single({"scale": gamma, "bias": beta})}
    got = layers.GroupNorm(dtype=jnp.bfloat16).apply(params, x, *single((scale, shift)))
    assert got.dtype == jnp.bfloat16
    want = reference(np.asarray(x, np.float64), gamma, beta, scale, shift)
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=2**-8, atol=2e-3)


@pytest.mark.parametrize("head_channels", [4, 8])
def test_self_attention_is_the_softmax_of_scaled_products(head_channels):
    x = jnp.asarray(RNG.normal(size=(2, 3, 5, 8)), jnp.float32)
    attention = layers.SelfAttention(head_channels)
    variables = randomised(attention.init(jax.random.key(0), x))
    params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    normed = layers.GroupNorm().apply({"params": variables["params"]["GroupNorm_0"]}, x)
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
    counted, sized = layers.SelfAttention(heads=2), layers.SelfAttention(4)
    variables = randomised(counted.init(jax.random.key(0), x))
    np.testing.assert_array_equal(counted.apply(variables, x), sized.apply(variables, x))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (layers.SelfAttention(3), "head_channels"),
        (layers.SelfAttention(8, heads=3), "heads"),
        (layers.AttentionPool(5, 3), "head_channels"),
    ],
)
def test_heads_that_do_not_divide_the_channels_are_refused(module, name):
    with pytest.raises(ValueError, match=f"^{name} must.*8 channels are not a multiple of 3"):
        module.init(jax.random.key(0), jnp.ones((1, 2, 2, 8)))


def test_attention_pooling_is_what_the_mean_attends_to():
    x = RNG.normal(size=(2, 3, 5, 8))
    pool = layers.AttentionPool(7, head_channels=4)
    variables = randomised(pool.init(jax.random.key(0), jnp.asarray(x, jnp.float32)))
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


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_convolutions_are_sums_over_windows_centred_on_what_they_keep(size, stride):
    x = RNG.normal(size=(2, 6, 4, 3))
    conv = layers.Conv(5, size=size, stride=stride)
    variables = randomised(conv.init(jax.random.key(0), jnp.asarray(x, jnp.float32)))
    kernel, bias = (np.asarray(variables["params"]["Conv_0"][n]) for n in ("kernel", "bias"))
    reach = size // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    want = np.zeros((2, 6 // stride, 4 // stride, 5))
    for i in range(6 // stride):
        for j in range(4 // stride):
            window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
            want[:, i, j] = np.tensordot(window, kernel, 3) + bias
    got = conv.apply(variables, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_resampling_is_means_and_copies():
    x = jnp.asarray(RNG.normal(size=(2, 4, 6, 3)), jnp.float32)
    up = layers.upsample(x)
    np.testing.assert_array_equal(up, np.asarray(x).repeat(2, 1).repeat(2, 2))
    np.testing.assert_allclose(layers.downsample(up), x, rtol=1e-6)
    corner = np.asarray(x)[:, :2, :2].mean((1, 2))
    np.testing.assert_allclose(layers.downsample(x)[:, 0, 0], corner, rtol=1e-5, atol=1e-6)


def test_noise_level_features_tell_levels_apart():
    lam = np.linspace(-20, 20, 401).astype(np.float32)
    features = np.asarray(layers.noise_level_features(jnp.asarray(lam), 32), np.float64)
    assert features.shape == (401, 32)
    angles = lam.astype(np.float64)[:, None] * np.logspace(1, -2, 16)
    np.testing.assert_allclose(
        features, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=3e-5
    )
    apart = np.linalg.norm(features[:, None] - features[None], axis=-1) + 10 * np.eye(401)
    assert apart.min() > 0.1


@pytest.mark.parametrize("rescaled", [False, True])
def test_time_step_features_are_those_of_the_step(rescaled):
    schedule = schedules.LinearBeta(steps=200)
    t = np.array([0, 1, 57, 199])
    features = layers.TimestepFeatures(schedule=schedule, rescaled=rescaled)
    got = features(jnp.asarray(schedule.levels[t], jnp.float32), 16)
    told = t * (5.0 if rescaled else 1.0)
    angles = told[:, None] / 10_000.0 ** (np.arange(8) / 8)
    np.testing.assert_allclose(got, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=2e-4)
    assert hash(features) == hash(layers.TimestepFeatures(schedule=schedule, rescaled=rescaled))
