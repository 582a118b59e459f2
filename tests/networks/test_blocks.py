"""The blocks that U-Net and encoder share, against formulas in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_variables

from cfg_jax.networks.blocks import MODULATION, Levels, ResidualBlock, Shown
from cfg_jax.nn import CrossAttention, SelfAttention, SpatialTransformer
from cfg_jax.parts import Attended

RNG = np.random.default_rng(0)


def norm(h, weights):
    """One group of channels."""
    mean, var = h.mean((1, 2, 3), keepdims=True), h.var((1, 2, 3), keepdims=True)
    return (h - mean) / np.sqrt(var + 1e-5) * weights["scale"] + weights["bias"]


def conv(h, weights):
    kernel, pad = weights["Conv_0"]["kernel"], weights["Conv_0"]["kernel"].shape[0] // 2
    h = np.pad(h, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = h.shape[1] - 2 * pad, h.shape[2] - 2 * pad
    out = sum(
        h[:, i : i + rows, j : j + columns] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )
    return out + weights["Conv_0"]["bias"]


def silu(h):
    return h / (1 + np.exp(-h))


def halved(h):
    return (h[:, ::2, ::2] + h[:, 1::2, ::2] + h[:, ::2, 1::2] + h[:, 1::2, 1::2]) / 4


RESIZED = {None: lambda h: h, "down": halved, "up": lambda h: h.repeat(2, 1).repeat(2, 2)}


@pytest.mark.parametrize("modulation", MODULATION)
@pytest.mark.parametrize("resample", RESIZED)
def test_a_residual_block_is_its_formula(resample, modulation):
    x = RNG.normal(size=(2, 4, 4, 3))
    embedding = RNG.normal(size=(2, 5))
    block = ResidualBlock(5, resample, modulation=modulation)
    args = jnp.asarray(x, jnp.float32), jnp.asarray(embedding, jnp.float32)
    variables = random_variables(block, *args)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    resized = RESIZED[resample]

    h = conv(resized(silu(norm(x, p["GroupNorm_0"]))), p["Conv_0"])
    told = (embedding @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])[:, None, None]
    if modulation == "shift":
        h = norm(h + told, p["GroupNorm_1"])
    else:
        scale, shift = np.split(told, 2, axis=-1)
        h = norm(h, p["GroupNorm_1"]) * (1 + scale) + shift
    want = conv(resized(x), p["Conv_2"]) + conv(silu(h), p["Conv_1"])
    np.testing.assert_allclose(block.apply(variables, *args), want, rtol=1e-4, atol=1e-4)


class Resize(Levels):
    """One change of size alone."""

    way: str = "down"

    @nn.compact
    def __call__(self, x, embedding):
        return self.change_size("change", x, Shown(embedding), self.way)


@pytest.mark.parametrize("way", ["down", "up"])
def test_levels_change_size_by_a_convolution_where_asked(way):
    """Of every second place, or after doubling."""
    x, embedding = RNG.normal(size=(2, 4, 6, 3)), np.ones((2, 5))
    args = jnp.asarray(x, jnp.float32), jnp.asarray(embedding, jnp.float32)
    module = Resize(resample="conv", way=way)
    variables = random_variables(module, *args)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"]["change"])
    want = conv(RESIZED["up"](x), p) if way == "up" else conv(x, p)[:, ::2, ::2]
    np.testing.assert_allclose(module.apply(variables, *args), want, rtol=1e-4, atol=1e-4)


class Attend(Levels):
    """Attention alone."""

    @nn.compact
    def __call__(self, x, text, other):
        shown = Shown(jnp.zeros((len(x), 4)), {"text": text, "other": other})
        return self.attend("here", x, shown)


@pytest.mark.parametrize("sides", [(6,), (4, 6), (3, 4, 2)])
@pytest.mark.slow
def test_transformer_blocks_attend_to_the_first_sequence(sides):
    """As the spatial transformer does; over frames and to a second sequence attention is ADM's."""
    x = jnp.asarray(RNG.normal(size=(2, *sides, 8)), jnp.float32)
    text, mask = jnp.asarray(RNG.normal(size=(2, 3, 5)), jnp.float32), jnp.arange(3) < 2
    text = Attended(text, jnp.broadcast_to(mask, (2, 3)))
    other = jnp.asarray(RNG.normal(size=(2, 4, 6)), jnp.float32)
    module = Attend(transformers=2, head_channels=4)
    variables = random_variables(module, x, text, other)

    def apply(layer, name, *args):
        return layer.apply({"params": variables["params"][name]}, *args)

    video = len(sides) == 3
    layer = SpatialTransformer(4, layers=2, axes=(2, 3) if video else None)
    want = apply(layer, "here_transformer", x, *text)
    if video:
        want = apply(SelfAttention(4, axes=(1,)), "here_frames_attention", want)
    want = apply(CrossAttention(4), "here_other_cross", want, other)
    np.testing.assert_allclose(module.apply(variables, x, text, other), want, rtol=1e-4, atol=1e-5)
    assert len(variables["params"]) == 2 + video


def test_levels_change_size_in_a_residual_block_otherwise():
    args = jnp.ones((2, 4, 4, 3)), jnp.ones((2, 5))
    module, block = Resize(), ResidualBlock(3, "down")
    variables = random_variables(module, *args)
    inner = {"params": variables["params"]["change"]}
    np.testing.assert_allclose(
        module.apply(variables, *args), block.apply(inner, *args), rtol=1e-5, atol=1e-6
    )


def test_fractions_of_the_channels_are_rounded_down():
    levels = Levels(channels=6, channel_mult=(0.5, 0.75, 2))
    assert [levels.width(i) for i in range(3)] == [3, 4, 12]


def test_a_residual_block_without_an_embedding_has_plain_norms():
    x = jnp.asarray(RNG.normal(size=(2, 4, 4, 6)), jnp.float32)
    block = ResidualBlock(4, epsilon=1e-2, groups=2)
    variables = random_variables(block, x)
    assert set(variables["params"]) == {"GroupNorm_0", "GroupNorm_1", "Conv_0", "Conv_1", "Conv_2"}
    h = jnp.asarray(x)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    for i in range(2):
        flax_norm = nn.GroupNorm(2, epsilon=1e-2)
        normed = flax_norm.apply({"params": variables["params"][f"GroupNorm_{i}"]}, h)
        h = jnp.asarray(conv(silu(np.asarray(normed, np.float64)), p[f"Conv_{i}"]), jnp.float32)
    want = np.asarray(h, np.float64) + conv(np.asarray(x, np.float64), p["Conv_2"])
    np.testing.assert_allclose(block.apply(variables, x), want, rtol=1e-4, atol=1e-4)
