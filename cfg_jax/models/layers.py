"""The parts that networks over images share: normalisation, convolution, attention, resampling.

Images are NHWC. Parameters are float32; activations have the module's `dtype`.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Dtype = Any


def noise_level_features(
    logsnr: Float[Array, " batch"], channels: int
) -> Float[Array, "batch {channels}"]:
    """Sines and cosines of λ, at frequencies from 10 to 0.01 radians per unit of λ.

    The fastest resolves a hundredth of the usual range of λ, the slowest is monotonic over all of
    it.
    """
    frequencies = jnp.logspace(1.0, -2.0, channels // 2)
    angles = logsnr.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class GroupNorm(nn.Module):
    """Group normalisation, optionally with a scale and shift from outside (Wu & He 2018).

    y = (1 + scale) · (γ (x - μ) / σ + β) + shift, formed as one multiplication and one addition per
    entry. There are 32 groups, or as many as divide both 32 and the channels. Statistics are
    float32.
    """

    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        scale: Float[Array, "batch channels"] | None = None,
        shift: Float[Array, "batch channels"] | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Normalises x; `scale` and `shift` come together or not at all."""
        batch, _, _, channels = x.shape
        groups = math.gcd(32, channels)
        gamma = self.param("scale", nn.initializers.ones, (channels,))
        beta = self.param("bias", nn.initializers.zeros, (channels,))

        def over_group(per_channel):
            mean = per_channel.reshape(batch, groups, -1).mean(-1)
            return jnp.repeat(mean, channels // groups, axis=-1)

        # Sums over space first: the channels stay contiguous, and the groups' part is tiny.
        x32 = x.astype(jnp.float32)
        mean = over_group(x32.mean((1, 2)))
        variance = over_group(jnp.square(x32).mean((1, 2))) - jnp.square(mean)
        a = gamma * jax.lax.rsqrt(jnp.maximum(variance, 0.0) + self.epsilon)
        b = beta - mean * a
        if scale is not None and shift is not None:
            a, b = a * (1.0 + scale), b * (1.0 + scale) + shift
        return (x32 * a[:, None, None, :] + b[:, None, None, :]).astype(self.dtype)


class Conv(nn.Module):
    """A convolution that keeps height and width; `zero` initialises it to give zero."""

    features: int
    size: int = 3
    zero: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width _"]
    ) -> Float[Array, "batch height width _"]:
        """Convolves x."""
        init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        return nn.Conv(
            self.features,
            (self.size, self.size),
            padding="SAME",
            kernel_init=init,
            dtype=self.dtype,
        )(x)


def downsample(x: Float[Array, "batch height width _"]) -> Float[Array, "batch _ _ _"]:
    """Halves height and width: the mean of each 2×2 square."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def upsample(x: Float[Array, "batch height width _"]) -> Float[Array, "batch _ _ _"]:
    """Doubles height and width: each entry becomes a 2×2 square."""
    batch, height, width, channels = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return wide.reshape(batch, 2 * height, 2 * width, channels)


class SelfAttention(nn.Module):
    """Residual self-attention over all positions, `head_channels` channels a head."""

    head_channels: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Attends and adds.

        Raises:
          ValueError: head_channels does not divide the channels.
        """
        batch, height, width, channels = x.shape
        if channels % self.head_channels:
            raise ValueError(
                f"head_channels must divide the channels wherever there is attention: {channels} "
                f"channels are not a multiple of {self.head_channels}"
            )
        h = GroupNorm(dtype=self.dtype)(x).reshape(batch, height * width, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype)(h)
        q, k, v = jnp.split(qkv.reshape(batch, height * width, -1, self.head_channels), 3, axis=2)
        h = jax.nn.dot_product_attention(q, k, v).reshape(batch, height, width, channels)
        return x + nn.Dense(channels, kernel_init=nn.initializers.zeros, dtype=self.dtype)(h)
