"""What the U-Net and the encoder share: residual blocks, and the way down to the coarsest level."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.nn.layers import (
    Conv,
    Dtype,
    GroupNorm,
    LevelFeatures,
    SelfAttention,
    downsample,
    noise_level_features,
    upsample,
)

RESAMPLE = ("residual", "conv")


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


class Levels(nn.Module):
    """Levels of residual blocks and attention, each but the last half as high and wide as before.

    A base: the U-Net and the encoder add their own inputs and outputs. Everything has a name of its
    own, so that parameters are the same with and without remat.

    Attributes:
      channels: Channels of the first level, where its entry of channel_mult is 1.
      channel_mult: Each level's channels as a multiple of `channels`; each level but the last
        halves height and width.
      blocks: Residual blocks a level.
      attention_resolutions: Self-attention after the blocks of a level whose shorter side is one of
        these.
      head_channels: Channels of an attention head.
      heads: Attention heads; 0 for as many as head_channels make.
      num_classes: The number of classes.
      resample: How levels change size: "residual", in a residual block; or "conv", by a convolution
        of stride 2 and by one after doubling.
      level_features: `(logsnr, channels) -> features`, what the network is told of the noise level.
      dropout: The rate inside residual blocks.
      dtype: Of the activations; parameters and the result are float32.
      remat: What the backward pass recomputes instead of keeping: "none"; all of a residual block
        but its convolutions and matrix products, "products"; all of it, "blocks".
    """

    channels: int = 64
    channel_mult: tuple[float, ...] = (1, 2, 2)
    blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16, 8)
    head_channels: int = 64
    heads: int = 0
    num_classes: int = 0
    resample: str = "residual"
    level_features: LevelFeatures = noise_level_features
    dropout: float = 0.0
    dtype: Dtype = jnp.float32
    remat: str = "none"

    @nn.nowrap
    def inputs(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        """What the network takes for one image of (height, width, channels), in shapes."""
        z = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        return z, jax.ShapeDtypeStruct((1,), jnp.float32)

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of the condition that the network sees in training, by their names."""
        return ("label",) if self.num_classes else ()

    @nn.nowrap
    def nulls(self, *, null_logsnr: float) -> dict[str, Any]:
        """What stands for none, of each of these parts.

        Args:
          null_logsnr: What an augmented network is told of small images that are hidden.
        """
        return {"label": self.num_classes} if self.num_classes else {}

    @nn.nowrap
    def shapes(self, shape: tuple[int, ...]) -> Any:
        """The shapes of its variables, for images of (height, width, channels)."""
        return jax.eval_shape(self.init, jax.random.key(0), *self.inputs(shape))

    @nn.nowrap
    def width(self, level: int) -> int:
        """Channels of a level."""
        return int(self.channel_mult[level] * self.channels)

    @nn.nowrap
    def check_size(self, shape: tuple[int, ...], name: str) -> None:
        """Raises ValueError where the levels cannot halve an image's height or width."""
        _, height, width, _ = shape
        halvings = len(self.channel_mult) - 1
        if height % 2**halvings or width % 2**halvings:
            raise ValueError(
                f"the {name} halves height and width {halvings} times, so both "
                f"must be multiples of {2**halvings}; got {height}×{width}"
            )

    @nn.nowrap
    def embed_level(self, logsnr: Float[Array, " batch"]) -> Float[Array, "batch _"]:
        """The embedding of the noise level, float32, not activated yet."""
        return self.embed("level", self.level_features(logsnr, self.channels))

    @nn.nowrap
    def embed(self, name: str, features: Float[Array, "batch _"]) -> Float[Array, "batch _"]:
        """Two dense layers of the embedding's width."""
        h = nn.silu(nn.Dense(4 * self.channels, name=f"{name}_0")(features))
        return nn.Dense(4 * self.channels, name=f"{name}_1")(h)

    @nn.nowrap
    def block(
        self,
        name: str,
        h: Float[Array, "batch _ _ _"],
        embedding: Float[Array, "batch _"],
        train: bool,
        features: int | None = None,
        resample: str | None = None,
    ) -> Float[Array, "batch _ _ _"]:
        """A residual block; it keeps the channels if `features` does not tell."""
        features = features or h.shape[-1]
        made = REMAT[self.remat](features, resample, self.dropout, train, self.dtype, name=name)
        return made(h, embedding)

    @nn.nowrap
    def attend(self, name: str, h: Float[Array, "batch _ _ _"]) -> Float[Array, "batch _ _ _"]:
        """Self-attention."""
        return SelfAttention(self.head_channels, self.heads, self.dtype, name=f"{name}_attention")(
            h
        )

    @nn.nowrap
    def stage(
        self,
        name: str,
        h: Float[Array, "batch _ _ _"],
        embedding: Float[Array, "batch _"],
        train: bool,
        features: int,
    ) -> Float[Array, "batch _ _ _"]:
        """A residual block, and attention where this resolution has it."""
        h = self.block(name, h, embedding, train, features)
        return self.attend(name, h) if min(h.shape[1:3]) in self.attention_resolutions else h

    @nn.nowrap
    def change_size(
        self,
        name: str,
        h: Float[Array, "batch _ _ _"],
        embedding: Float[Array, "batch _"],
        train: bool,
        way: str,
    ) -> Float[Array, "batch _ _ _"]:
        """Halves height and width (`way` is "down"), or doubles them ("up")."""
        if self.resample == "residual":
            return self.block(name, h, embedding, train, resample=way)
        conv = Conv(h.shape[-1], stride=2 if way == "down" else 1, dtype=self.dtype, name=name)
        return conv(h if way == "down" else upsample(h))

    @nn.nowrap
    def descend(
        self,
        x: Float[Array, "batch _ _ _"],
        embedding: Float[Array, "batch _"],
        train: bool,
    ) -> tuple[Float[Array, "batch _ _ _"], list[Float[Array, "batch _ _ _"]]]:
        """All levels down and the middle; returns that, and what the U-Net's way up is shown."""
        h = Conv(self.width(0), dtype=self.dtype, name="input")(x.astype(self.dtype))
        skips = [h]
        for level in range(len(self.channel_mult)):
            if level:
                h = self.change_size(f"downsample{level}", h, embedding, train, "down")
                skips.append(h)
            for i in range(self.blocks):
                h = self.stage(f"down{level}_{i}", h, embedding, train, self.width(level))
                skips.append(h)
        h = self.block("middle_0", h, embedding, train)
        h = self.block("middle_1", self.attend("middle", h), embedding, train)
        return h, skips
