"""The parts of networks against NumPy and Flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from cfg_jax.models import layers

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


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="8 channels are not a multiple of 3"):
        layers.SelfAttention(3).init(jax.random.key(0), jnp.ones((1, 2, 2, 8)))


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
