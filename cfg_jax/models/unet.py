"""The class-conditional U-Net of Dhariwal & Nichol (2021), asked for ε at a noise level λ.

Residual blocks with adaptive group normalisation (scale and shift from the embedding of λ and
class), residual up- and down-sampling, self-attention at chosen resolutions with a fixed number of
channels a head, zero-initialised outputs ("Diffusion Models Beat GANs on Image Synthesis", Section
3).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from cfg_jax.models.layers import (
    Conv,
    Dtype,
    GroupNorm,
    SelfAttention,
    downsample,
    noise_level_features,
    upsample,
)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, the second norm scaled and shifted by the embedding.

    Attributes:
      features: Channels of the result.
      resample: `upsample` or `downsample`, applied to both paths; None keeps the size.
      dropout: The rate before the last convolution.
      train: Whether dropout is on.
      dtype: Of the activations.
    """

    features: int
    resample: str | None = None
    dropout: float = 0.0
    train: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width _"], embedding: Float[Array, "batch _"]
    ) -> Float[Array, "batch _ _ _"]:
        """Transforms x, given the embedding of noise level and class, already activated."""
        resize = {"up": upsample, "down": downsample, None: lambda y: y}[self.resample]
        h = nn.silu(GroupNorm(dtype=self.dtype)(x))
        h = Conv(self.features, dtype=self.dtype)(resize(h))
        scale_shift = nn.Dense(2 * self.features)(embedding)
        scale, shift = jnp.split(scale_shift, 2, axis=-1)
        h = nn.silu(GroupNorm(dtype=self.dtype)(h, scale, shift))
        h = nn.Dropout(self.dropout, deterministic=not self.train)(h)
        h = Conv(self.features, zero=True, dtype=self.dtype)(h)
        x = resize(x)
        if x.shape[-1] != self.features:
            x = Conv(self.features, size=1, dtype=self.dtype)(x)
        return x + h


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("conv_general_dilated", "dot_general")


REMAT = {
    "none": ResidualBlock,
    "products": nn.remat(ResidualBlock, policy=_is_product),
    "blocks": nn.remat(ResidualBlock),
}
"""Residual blocks by what their backward pass recomputes."""


class UNet(nn.Module):
    """ε_θ(z_λ, λ, c) over images of any height and width that its levels can halve.

    Attributes:
      channels: Channels of the first level.
      channel_mult: Each level's channels as a multiple of `channels`; each level but the last
        halves height and width.
      blocks: Residual blocks a level.
      attention_resolutions: Self-attention after the blocks of a level whose shorter side is one of
        these.
      head_channels: Channels of an attention head.
      num_classes: The number of classes; label `num_classes` is the null. 0 for an unconditional
        network.
      dropout: The rate inside residual blocks.
      dtype: Of the activations; parameters and the result are float32.
      remat: What the backward pass recomputes instead of keeping: "none"; all of a residual block
        but its convolutions and matrix products, "products"; all of it, "blocks".

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.models import UNet
    >>> net = UNet(channels=8, channel_mult=(1, 2), blocks=1, attention_resolutions=(4,),
    ...            head_channels=8, num_classes=10)
    >>> z, logsnr, label = jnp.ones((2, 8, 8, 1)), jnp.zeros(2), jnp.array([3, 10])
    >>> params = net.init(jax.random.key(0), z, logsnr, label)
    >>> net.apply(params, z, logsnr, label).shape
    (2, 8, 8, 1)
    """

    channels: int = 64
    channel_mult: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16, 8)
    head_channels: int = 64
    num_classes: int = 0
    dropout: float = 0.0
    dtype: Dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "batch height width channels"],
        logsnr: ArrayLike,
        cond: Int[Array, " batch"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """Estimates ε.

        Args:
          z: z_λ of (batch, height, width, channels).
          logsnr: λ, a scalar or (batch,).
          cond: Labels in [0, num_classes], the last one the null; None where num_classes is 0.
          train: Turns dropout on, which then needs a "dropout" rng.

        Returns:
          ε̂ of z's shape, float32.

        Raises:
          ValueError: Height or width cannot be halved as often as the levels ask, or labels are
            missing, or given to an unconditional network.
        """
        self._check(z.shape, cond)
        embedding = self._embed(jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1]), cond)
        kind = REMAT[self.remat]

        # Everything has a name of its own: parameters are the same with and without remat.
        def block(name, h, features=None, resample=None):
            features = features or h.shape[-1]
            made = kind(features, resample, self.dropout, train, self.dtype, name=name)
            return made(h, embedding)

        def attend(name, h):
            return SelfAttention(self.head_channels, self.dtype, name=f"{name}_attention")(h)

        def stage(name, h, features):
            h = block(name, h, features)
            return attend(name, h) if min(h.shape[1:3]) in self.attention_resolutions else h

        h = Conv(self.channels, dtype=self.dtype, name="input")(z.astype(self.dtype))
        skips = [h]
        for level, mult in enumerate(self.channel_mult):
            if level:
                h = block(f"downsample{level}", h, resample="down")
                skips.append(h)
            for i in range(self.blocks):
                h = stage(f"down{level}_{i}", h, mult * self.channels)
                skips.append(h)

        h = block("middle_1", attend("middle", block("middle_0", h)))

        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = stage(f"up{level}_{i}", h, mult * self.channels)
            if level:
                h = block(f"upsample{level}", h, resample="up")

        h = nn.silu(GroupNorm(dtype=self.dtype, name="output_norm")(h))
        out = Conv(z.shape[-1], zero=True, dtype=self.dtype, name="output")(h)
        return out.astype(jnp.float32)

    @nn.nowrap
    def _check(self, shape: tuple[int, ...], cond: Array | None) -> None:
        _, height, width, _ = shape
        factor = 2 ** (len(self.channel_mult) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"the U-Net halves height and width {len(self.channel_mult) - 1} times, so both "
                f"must be multiples of {factor}; got {height}×{width}"
            )
        if (cond is None) == (self.num_classes > 0):
            raise ValueError(
                f"the U-Net has {self.num_classes} classes, so it needs labels"
                if cond is None
                else "the U-Net is unconditional (num_classes=0) and takes no labels"
            )

    def _embed(self, logsnr: Array, cond: Array | None) -> Array:
        """The embedding of noise level and class, activated, float32."""
        width = 4 * self.channels
        h = nn.Dense(width, name="level_0")(noise_level_features(logsnr, self.channels))
        h = nn.Dense(width, name="level_1")(nn.silu(h))
        if cond is not None:
            init = nn.initializers.normal(1.0)
            h = h + nn.Embed(self.num_classes + 1, width, embedding_init=init, name="label")(cond)
        return nn.silu(h)
