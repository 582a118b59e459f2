"""The parts that networks over images share: normalisation, convolution, attention, resampling.

Images are NHWC. Parameters are float32; activations have the module's `dtype`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion.schedules import DiscreteSchedule

Dtype = Any
LevelFeatures = Callable[[Float[Array, " batch"], int], Float[Array, "batch _"]]
"""`(logsnr, channels) -> features`, what a network is told of the noise level."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimestepFeatures:
    """Cosines and sines of the time step t(λ), for networks that were trained in discrete time.

    cos(t f_i) and sin(t f_i) with f_i = 10000^(-2 i / channels), i from 0 to channels / 2 - 1: from
    1 radian a step down (Vaswani et al. 2017, "Attention Is All You Need", Section 3.5; Ho et al.
    2020, Appendix B).

    Attributes:
      schedule: The discrete schedule of T levels that makes t of λ.
      rescaled: Take 1000 t / T in the place of t, so that it covers the same range for every T.
    """

    schedule: DiscreteSchedule
    rescaled: bool = False

    def __call__(
        self, logsnr: Float[Array, " batch"], channels: int
    ) -> Float[Array, "batch {channels}"]:
        """The features of λ; t is whole on the schedule's own levels, and not between them."""
        t = self.schedule.time(logsnr) * (1000.0 / self.schedule.steps if self.rescaled else 1.0)
        frequencies = 10000.0 ** (-2.0 / channels * jnp.arange(channels // 2))
        angles = t[:, None] * frequencies
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


@jax.custom_jvp
def _seam(x: Array) -> Array:
    """Returns x; XLA does not fuse its derivative with what uses that.

    Left alone on a CPU, it strings the gradients by the inputs of one norm after another together
    along the residual path, and computes the string again wherever a part of it is needed.
    """
    return x


@_seam.defjvp
def _seam_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return primals[0], jax.lax.optimization_barrier(tangents[0])


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
        x32 = _seam(x).astype(jnp.float32)
        mean = over_group(x32.mean((1, 2)))
        variance = over_group(jnp.square(x32).mean((1, 2))) - jnp.square(mean)
        a = gamma * jax.lax.rsqrt(jnp.maximum(variance, 0.0) + self.epsilon)
        b = beta - mean * a
        if scale is not None and shift is not None:
            a, b = a * (1.0 + scale), b * (1.0 + scale) + shift
        return (x32 * a[:, None, None, :] + b[:, None, None, :]).astype(self.dtype)


class Conv(nn.Module):
    """A convolution that keeps height and width, or halves them; `zero` makes it start at zero.

    With stride 2 the first window is centred on the first entry, as in torch with padding 1.
    """

    features: int
    size: int = 3
    stride: int = 1
    zero: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width _"]) -> Float[Array, "batch _ _ _"]:
        """Convolves x."""
        init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        return nn.Conv(
            self.features,
            (self.size, self.size),
            strides=self.stride,
            padding=self.size // 2,
            kernel_init=init,
            dtype=self.dtype,
        )(x)


def downsample(
    x: Float[Array, "batch height width _"], factor: int = 2
) -> Float[Array, "batch _ _ _"]:
    """Divides height and width by a factor: the mean of each square of so many entries a side."""
    batch, height, width, channels = x.shape
    squares = (batch, height // factor, factor, width // factor, factor, channels)
    return x.reshape(squares).mean((2, 4))


def upsample(x: Float[Array, "batch height width _"]) -> Float[Array, "batch _ _ _"]:
    """Doubles height and width: each entry becomes a 2×2 square."""
    batch, height, width, channels = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return wide.reshape(batch, 2 * height, 2 * width, channels)


class SelfAttention(nn.Module):
    """Residual self-attention over all positions.

    Attributes:
      head_channels: Channels of a head.
      heads: The number of heads, which then decides how many channels each has; 0 leaves that to
        head_channels.
      dtype: Of the activations.
    """

    head_channels: int = 64
    heads: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Attends and adds.

        Raises:
          ValueError: heads, or else head_channels, does not divide the channels.
        """
        batch, height, width, channels = x.shape
        each = head_size(channels, self.head_channels, self.heads)
        h = GroupNorm(dtype=self.dtype)(x).reshape(batch, height * width, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype)(h)
        q, k, v = jnp.split(qkv.reshape(batch, height * width, -1, each), 3, axis=2)
        h = jax.nn.dot_product_attention(q, k, v).reshape(batch, height, width, channels)
        return x + nn.Dense(channels, kernel_init=nn.initializers.zeros, dtype=self.dtype)(h)


class AttentionPool(nn.Module):
    """One vector of an image: what its mean attends to among all positions.

    Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
    Section 2.4; the pooling of ADM's noisy classifiers. The learned positions fix the image's size.

    Attributes:
      features: Length of the vector.
      head_channels: Channels of a head.
      dtype: Of the activations.
    """

    features: int
    head_channels: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch _"]:
        """Pools.

        Raises:
          ValueError: head_channels does not divide the channels.
        """
        batch, height, width, channels = x.shape
        each = head_size(channels, self.head_channels)
        places = x.reshape(batch, height * width, channels)
        places = jnp.concatenate([places.mean(1, keepdims=True), places], axis=1)
        init = nn.initializers.normal(channels**-0.5)
        places = places + self.param("positions", init, places.shape[1:]).astype(self.dtype)
        qkv = nn.Dense(3 * channels, dtype=self.dtype)(places)
        q, k, v = jnp.split(qkv.reshape(batch, height * width + 1, -1, each), 3, axis=2)
        pooled = jax.nn.dot_product_attention(q[:, :1], k, v).reshape(batch, channels)
        return nn.Dense(self.features, dtype=self.dtype)(pooled)


def head_size(channels: int, head_channels: int, heads: int = 0) -> int:
    """Channels of an attention head: head_channels, unless a number of heads is given.

    Raises:
      ValueError: They do not divide the channels.
    """
    if channels % (heads or head_channels):
        name = "heads" if heads else "head_channels"
        raise ValueError(
            f"{name} must divide the channels wherever there is attention: {channels} "
            f"channels are not a multiple of {heads or head_channels}"
        )
    return channels // heads if heads else head_channels
