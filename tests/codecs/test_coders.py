"""Encoder and decoder, put together by hand from the layers that other tests check."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from networks import random_variables

from cfg_jax.codecs.coders import Decoder, Encoder
from cfg_jax.networks.blocks import ResidualBlock
from cfg_jax.nn import Conv, GroupNorm, SelfAttention, upsample

FIELDS = {"channels": 4, "channel_mult": (1, 2), "blocks": 1, "groups": 2}
NORM = {"epsilon": 1e-6, "groups": 2}
RNG = np.random.default_rng(0)


class Parts:
    """The parts of a coder, each on its own parameters."""

    def __init__(self, variables):
        self.params = variables["params"]

    def run(self, module, path, x):
        params = self.params
        for name in path.split("/"):
            params = params[name]
        return module.apply({"params": params}, x)

    def block(self, features, path, x):
        return self.run(ResidualBlock(features, **NORM), path, x)

    def attention(self, path, x, axes=None):
        return self.run(SelfAttention(heads=1, axes=axes, **NORM), path, x)

    def end(self, features, x):
        h = nn.silu(self.run(GroupNorm(1e-6, groups=2), "output_norm", x))
        return self.run(Conv(features), "output", h)


def test_the_encoder_of_a_video_is_its_layers():
    """Attention is within frames, then over them, and frames are as many as before."""
    module = Encoder(**FIELDS, outputs=3, attention_factors=(2,))
    x = jnp.asarray(RNG.normal(size=(2, 3, 4, 6, 2)), jnp.float32)
    variables = random_variables(module, x)
    parts = Parts(variables)
    h = parts.run(Conv(4), "input", x)
    h = parts.block(4, "levels_0/block_0", h)
    h = parts.run(Conv(4, stride=2, ahead=True), "downsamples_0", h)
    h = parts.block(8, "levels_1/block_0", h)
    h = parts.attention("levels_1/attention_0", h, (2, 3))
    h = parts.attention("levels_1/frames_attention_0", h, (1,))
    h = parts.block(8, "middle/block_0", h)
    h = parts.attention("middle/attention_0", h, (2, 3))
    h = parts.attention("middle/frames_attention_0", h, (1,))
    h = parts.block(8, "middle/block_1", h)
    want = parts.end(3, h)
    assert want.shape == (2, 3, 2, 3, 3)
    got = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_the_decoder_of_a_sound_is_its_layers():
    """One block more a level than the encoder; no attention where none is asked for."""
    module = Decoder(**FIELDS, outputs=2, middle_attention=False)
    z = jnp.asarray(RNG.normal(size=(2, 5, 3)), jnp.float32)
    variables = random_variables(module, z)
    parts = Parts(variables)
    h = parts.run(Conv(8), "input", z)
    h = parts.block(8, "middle/block_1", parts.block(8, "middle/block_0", h))
    h = parts.block(8, "levels_0/block_1", parts.block(8, "levels_0/block_0", h))
    h = parts.run(Conv(8), "upsamples_0", upsample(h))
    h = parts.block(4, "levels_1/block_1", parts.block(4, "levels_1/block_0", h))
    want = parts.end(2, h)
    assert want.shape == (2, 10, 2)
    got = jax.jit(module.apply)(variables, z)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_with_windows_of_one_places_are_coded_alike_wherever_they_lie():
    """Neither encoder nor decoder knows which patch is beside which."""
    fields = {"channels": 4, "channel_mult": (1,), "groups": 2, "patch": 2, "window": 1}
    coder = {**fields, "middle_attention": False}
    x = jnp.asarray(RNG.normal(size=(1, 4, 4, 2)), jnp.float32)
    encoder, decoder = Encoder(**coder, outputs=3), Decoder(**coder, outputs=2)
    to_z = random_variables(encoder, x)
    z = encoder.apply(to_z, x)
    to_x = random_variables(decoder, z)
    assert z.shape == (1, 2, 2, 3)

    def turned(patches, side):
        """The rows of patches changed for each other."""
        return jnp.roll(patches, side, axis=1)

    np.testing.assert_allclose(encoder.apply(to_z, turned(x, 2)), turned(z, 1), atol=1e-5)
    back = decoder.apply(to_x, z)
    np.testing.assert_allclose(decoder.apply(to_x, turned(z, 1)), turned(back, 2), atol=1e-5)
    wide = Encoder(**coder | {"window": 3}, outputs=3)
    variables = random_variables(wide, x)
    apart = wide.apply(variables, turned(x, 2)) - turned(wide.apply(variables, x), 1)
    assert jnp.abs(apart).max() > 1e-2
