"""What the U-Net and the encoder share: residual blocks, and the way down to the coarsest level."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion.checks import whole
from cfg_jax.networks import inlets
from cfg_jax.networks.base import MOST_BLOCKS, MOST_CHANNELS, REMAT, Base
from cfg_jax.nn import (
    Conv,
    CrossAttention,
    Dtype,
    GroupNorm,
    SelfAttention,
    SpatialTransformer,
    downsample,
    space_axes,
    upsample,
)
from cfg_jax.nn.fields import one_of

RESAMPLE = ("residual", "conv")
MODULATION = ("scale_shift", "shift")
FEWEST_CHANNELS = 4
"""Fewer make a single frequency of the noise level, which does not tell levels apart."""


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, and any embedding between the two.

    Attributes:
      features: Channels of the result.
      resample: `upsample` or `downsample`, applied to both paths; None keeps the size.
      dropout: The rate before the last convolution.
      train: Whether dropout is on.
      dtype: Of the activations.
      epsilon: The norms'.
      groups: The norms'.
      size: Side of the convolutions' windows.
      modulation: How: "scale_shift", it scales and shifts the second norm's result; or "shift", it
        is added before that norm.
    """

    features: int
    resample: str | None = None
    dropout: float = 0.0
    train: bool = False
    dtype: Dtype = "float32"
    epsilon: float = 1e-5
    groups: int = 32
    size: int = 3
    modulation: str = "scale_shift"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *sides _"], embedding: Float[Array, "batch _"] | None = None
    ) -> Float[Array, "batch *_ features"]:
        """Transforms x, given any embedding of noise level and condition, already activated."""
        norm = functools.partial(GroupNorm, self.epsilon, self.dtype, self.groups)
        resize = {"up": upsample, "down": downsample, None: lambda y: y}[self.resample]
        h = nn.silu(norm()(x))
        h = Conv(self.features, self.size, dtype=self.dtype)(resize(h))
        h = nn.silu(self._modulated(norm(), h, embedding))
        h = nn.Dropout(self.dropout, deterministic=not self.train)(h)
        h = Conv(self.features, self.size, zero=True, dtype=self.dtype)(h)
        x = resize(x)
        if x.shape[-1] != self.features:
            x = Conv(self.features, size=1, dtype=self.dtype)(x)
        return x + h

    def _modulated(self, norm: GroupNorm, h: Array, embedding: Array | None) -> Array:
        """The norm of h, told of the embedding."""
        if embedding is None:
            return norm(h)
        if self.modulation == "shift":
            told = nn.Dense(self.features, dtype=self.dtype)(embedding)
            return norm(h + told.reshape(len(h), *[1] * (h.ndim - 2), self.features))
        scale, shift = jnp.split(nn.Dense(2 * self.features)(embedding), 2, axis=-1)
        return norm(h, scale, shift)


class Shown(NamedTuple):
    """What every block is shown beside its activations.

    Attributes:
      embedding: Of noise level and condition, activated, (batch, 4 · channels).
      sequences: The entries to attend to, by name, see `inlets.sequence_of`.
      train: Whether dropout is on.
    """

    embedding: Array
    sequences: Mapping[str, Any] = {}
    train: bool = False


class Levels(Base):
    """Levels of residual blocks and attention, each but the last with sides half as long as before.

    A base: the U-Net and the encoder add their own inputs and outputs. Frames are never halved, and
    attention over a video is factorised: within each frame, then over the frames.

    Attributes:
      channels: Channels of the first level, where its entry of channel_mult is 1; from 4 to
        65,536.
      channel_mult: Each level's channels as a multiple of `channels`, from 1 to 65,536 of them;
        each level but the last halves the sides of space.
      blocks: Residual blocks a level, from 1 to 128.
      attention_resolutions: Attention after the blocks of a level whose shortest side of space is
        one of these.
      head_channels: Channels of an attention head.
      heads: Attention heads; 0 for as many as head_channels make.
      resample: How levels change size: "residual", in a residual block; or "conv", by a convolution
        of stride 2 and by one after doubling.
      modulation: How residual blocks are told of noise level and condition: "scale_shift", as ADM
        has it, or "shift", as latent diffusion has it; see `ResidualBlock`.
      transformers: Transformer blocks of each attention, as latent diffusion has them, at most 128;
        0 for ADM's attention, and one to each sequence after it. See `nn.SpatialTransformer`.

    The other attributes are those of `base.Base`.

    Raises:
      ValueError: A field is out of its range.
    """

    channels: int = 64
    channel_mult: tuple[float, ...] = (1, 2, 2)
    blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16, 8)
    head_channels: int = 64
    heads: int = 0
    resample: str = "residual"
    modulation: str = "scale_shift"
    transformers: int = 0

    def __post_init__(self):
        whole("channels", self.channels, FEWEST_CHANNELS, MOST_CHANNELS)
        whole("blocks", self.blocks, 1, MOST_BLOCKS)
        whole("head_channels", self.head_channels, 1, MOST_CHANNELS)
        whole("heads", self.heads, 0, MOST_CHANNELS)
        one_of("resample", self.resample, RESAMPLE)
        one_of("modulation", self.modulation, MODULATION)
        whole("transformers", self.transformers, 0, MOST_BLOCKS)
        self.channel_mult = widths(self.channels, self.channel_mult)
        self.attention_resolutions = _sides(self.attention_resolutions)
        super().__post_init__()

    @nn.nowrap
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where the network cannot take examples of (*sides, channels)."""
        super().check(shape)
        halvings = len(self.channel_mult) - 1
        self.check_multiples(shape, 2**halvings, f"halves {{}} {halvings} times")

    @nn.nowrap
    def width(self, level: int) -> int:
        """Channels of a level."""
        return int(self.channel_mult[level] * self.channels)

    @nn.nowrap
    def embed_level(self, logsnr: Any, batch: int) -> Float[Array, "batch _"]:
        """The embedding of the noise level, float32, not activated yet."""
        return self.embedded_level(logsnr, batch, self.channels, 4 * self.channels)

    @nn.nowrap
    def block(
        self,
        name: str,
        h: Float[Array, "batch *sides _"],
        shown: Shown,
        features: int | None = None,
        resample: str | None = None,
    ) -> Float[Array, "batch *_ _"]:
        """A residual block; it keeps the channels if `features` does not tell."""
        features = features or h.shape[-1]
        fields = features, resample, self.dropout, shown.train, self.dtype
        made = REMAT[self.remat](ResidualBlock)(*fields, modulation=self.modulation, name=name)
        return made(h, shown.embedding)

    @nn.nowrap
    def attend(
        self, name: str, h: Float[Array, "batch *sides _"], shown: Shown
    ) -> Float[Array, "batch *sides _"]:
        """Self-attention, over space and then over frames if there are any; then to sequences.

        Transformer blocks over space attend to the first sequence themselves.
        """
        fields, sequences = (self.head_channels, self.heads, self.dtype), dict(shown.sequences)
        if self.transformers:
            first = next(iter(sequences), None)
            context = () if first is None else inlets.sequence_of(sequences.pop(first))
            h = self._transformer(f"{name}_transformer", h, shown.train)(h, *context)
        else:
            h = SelfAttention(*fields, space_axes(h.ndim), name=f"{name}_attention")(h)
        if h.ndim == 5:
            h = SelfAttention(*fields, (1,), name=f"{name}_frames_attention")(h)
        for entry, sequence in sequences.items():
            cross = CrossAttention(*fields, name=f"{name}_{entry}_cross")
            h = cross(h, *inlets.sequence_of(sequence))
        return h

    @nn.nowrap
    def _transformer(self, name: str, h: Array, train: bool) -> SpatialTransformer:
        return SpatialTransformer(
            head_channels=self.head_channels,
            heads=self.heads,
            layers=self.transformers,
            dropout=self.dropout,
            train=train,
            dtype=self.dtype,
            axes=space_axes(h.ndim),
            name=name,
        )

    @nn.nowrap
    def stage(
        self, name: str, h: Float[Array, "batch *sides _"], shown: Shown, features: int
    ) -> Float[Array, "batch *sides _"]:
        """A residual block, and attention where this resolution has it."""
        h = self.block(name, h, shown, features)
        side = min(h.shape[axis] for axis in space_axes(h.ndim))
        return self.attend(name, h, shown) if side in self.attention_resolutions else h

    @nn.nowrap
    def change_size(
        self, name: str, h: Float[Array, "batch *sides _"], shown: Shown, way: str
    ) -> Float[Array, "batch *_ _"]:
        """Halves the sides of space (`way` is "down"), or doubles them ("up")."""
        if self.resample == "residual":
            return self.block(name, h, shown, resample=way)
        conv = Conv(h.shape[-1], stride=2 if way == "down" else 1, dtype=self.dtype, name=name)
        return conv(h if way == "down" else upsample(h))

    @nn.nowrap
    def descend(
        self, x: Float[Array, "batch *sides _"], shown: Shown
    ) -> tuple[Float[Array, "batch *_ _"], list[Float[Array, "batch *_ _"]]]:
        """All levels down and the middle; returns that, and what the U-Net's way up is shown."""
        h = Conv(self.width(0), dtype=self.dtype, name="input")(x.astype(self.dtype))
        skips = [h]
        for level in range(len(self.channel_mult)):
            if level:
                h = self.change_size(f"downsample{level}", h, shown, "down")
                skips.append(h)
            for i in range(self.blocks):
                h = self.stage(f"down{level}_{i}", h, shown, self.width(level))
                skips.append(h)
        h = self.block("middle_0", h, shown)
        h = self.block("middle_1", self.attend("middle", h, shown), shown)
        return h, skips


def widths(channels: int, multiples: Any) -> tuple[float, ...]:
    """channel_mult, checked: numbers that give each level from 1 to `MOST_CHANNELS` channels.

    Raises:
      ValueError: They do not.
    """
    try:
        is_text = isinstance(multiples, (str, bytes))
        multiples = tuple(multiples)
        fits = not is_text and all(1 <= m * channels < MOST_CHANNELS + 1 for m in multiples)
    except TypeError:
        fits = False
    if not fits or not multiples:
        raise ValueError(
            "channel_mult must be numbers, one a level, that give each from 1 to "
            f"{MOST_CHANNELS} channels; got {multiples!r}"
        )
    return multiples


def _sides(resolutions: Any) -> tuple[int, ...]:
    """attention_resolutions, checked."""
    if not isinstance(resolutions, (tuple, list)):
        raise ValueError(f"attention_resolutions must be whole numbers, got {resolutions!r}")
    for side in resolutions:
        whole("each of attention_resolutions", side, 1)
    return tuple(resolutions)
