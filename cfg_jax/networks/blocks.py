"""What the U-Net and the encoder share: residual blocks, and the way down to the coarsest level."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion.checks import whole
from cfg_jax.networks import inlets
from cfg_jax.nn import (
    Conv,
    CrossAttention,
    Dtype,
    GroupNorm,
    LevelFeatures,
    LogSNRFeatures,
    SelfAttention,
    downsample,
    dtype_name,
    space_axes,
    upsample,
)
from cfg_jax.nn.fields import one_of
from cfg_jax.parts import Condition, Inlets

RESAMPLE = ("residual", "conv")
FEWEST_CHANNELS, MOST_CHANNELS = 4, 65_536
"""Fewer make a single frequency of the noise level, which does not tell levels apart; XLA ends the
process where it is given a billion."""

MOST_BLOCKS = 128
"""More take too long to compile."""

SIDES = {1: "the length", 2: "height and width", 3: "height and width"}
"""What is halved, by the number of sides."""


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
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *sides _"], embedding: Float[Array, "batch _"]
    ) -> Float[Array, "batch *_ features"]:
        """Transforms x, given the embedding of noise level and condition, already activated."""
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


class Shown(NamedTuple):
    """What every block is shown beside its activations.

    Attributes:
      embedding: Of noise level and condition, activated, (batch, 4 · channels).
      sequences: What there is to attend to, by the names of the entries, (batch, length, width).
      train: Whether dropout is on.
    """

    embedding: Array
    sequences: Mapping[str, Array] = {}
    train: bool = False


class Levels(nn.Module):
    """Levels of residual blocks and attention, each but the last with sides half as long as before.

    A base: the U-Net and the encoder add their own inputs and outputs. z is (batch, length,
    channels), (batch, height, width, channels) or (batch, frames, height, width, channels); frames
    are never halved, and attention over a video is factorised: within each frame, then over the
    frames. Everything has a name of its own, so that parameters are the same with and without
    remat.

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
      level_features: `(logsnr, channels) -> features`, what the network is told of the noise level.
      dropout: The rate inside residual blocks, in [0, 1).
      dtype: Of the activations: "float32", "bfloat16" or "float16"; parameters and the result are
        float32.
      remat: What the backward pass recomputes instead of keeping: "none"; all of a residual block
        but its convolutions and matrix products, "products"; all of it, "blocks".

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
    level_features: LevelFeatures = LogSNRFeatures()
    dropout: float = 0.0
    dtype: Dtype = "float32"
    remat: str = "none"

    def __post_init__(self):
        self.dtype = dtype_name(self.dtype)
        whole("channels", self.channels, FEWEST_CHANNELS, MOST_CHANNELS)
        whole("blocks", self.blocks, 1, MOST_BLOCKS)
        whole("head_channels", self.head_channels, 1, MOST_CHANNELS)
        whole("heads", self.heads, 0, MOST_CHANNELS)
        one_of("resample", self.resample, RESAMPLE)
        one_of("remat", self.remat, REMAT)
        self.channel_mult = _widths(self.channels, self.channel_mult)
        self.attention_resolutions = _sides(self.attention_resolutions)
        if not callable(self.level_features):
            raise ValueError(
                "level_features must be (logsnr, channels) -> features, such as LogSNRFeatures(), "
                f"got {self.level_features!r}"
            )
        if not isinstance(self.dropout, int | float) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")
        super().__post_init__()

    @property
    def shown(self) -> Inlets:
        """The inlets of the entries that the network is shown."""
        return ()

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of the entries that the network takes in its condition."""
        return tuple(name for name, _ in self.shown)

    @nn.nowrap
    def inputs(self, shape: tuple[int, ...]) -> tuple[Any, Any, Condition]:
        """z, λ and condition of one example of (*sides, channels), in shapes and dtypes."""
        z = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        return z, jax.ShapeDtypeStruct((1,), jnp.float32), inlets.spec(self.shown)

    @nn.nowrap
    def shapes(self, shape: tuple[int, ...]) -> Any:
        """The shapes of its variables, for examples of (*sides, channels).

        Raises:
          ValueError: It cannot take that size.
        """
        return jax.eval_shape(self.init, jax.random.key(0), *self.inputs(shape))

    @nn.nowrap
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where the network cannot take examples of (*sides, channels)."""
        who = f"the {type(self).__name__}"
        if len(shape) - 1 not in SIDES:
            raise ValueError(
                f"{who} takes (length, channels), (height, width, channels) or "
                f"(frames, height, width, channels); got {shape}"
            )
        halvings = len(self.channel_mult) - 1
        sides = [shape[axis - 1] for axis in space_axes(len(shape) + 1)]
        if any(side % 2**halvings or not side for side in sides):
            raise ValueError(
                f"{who} halves {SIDES[len(shape) - 1]} {halvings} times: it needs multiples of "
                f"{2**halvings}; got {'×'.join(map(str, sides))}"
            )

    @nn.nowrap
    def width(self, level: int) -> int:
        """Channels of a level."""
        return int(self.channel_mult[level] * self.channels)

    @nn.nowrap
    def embed_level(self, logsnr: Float[Array, " batch"]) -> Float[Array, "batch _"]:
        """The embedding of the noise level, float32, not activated yet."""
        features = self.level_features(logsnr, self.channels)
        return inlets.dense_layers("level", features, 4 * self.channels)

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
        made = REMAT[self.remat](
            features, resample, self.dropout, shown.train, self.dtype, name=name
        )
        return made(h, shown.embedding)

    @nn.nowrap
    def attend(
        self, name: str, h: Float[Array, "batch *sides _"], shown: Shown
    ) -> Float[Array, "batch *sides _"]:
        """Self-attention, over space and then over frames if there are any; then to sequences."""
        fields = self.head_channels, self.heads, self.dtype
        h = SelfAttention(*fields, space_axes(h.ndim), name=f"{name}_attention")(h)
        if h.ndim == 5:
            h = SelfAttention(*fields, (1,), name=f"{name}_frames_attention")(h)
        for entry, sequence in shown.sequences.items():
            h = CrossAttention(*fields, name=f"{name}_{entry}_cross")(h, sequence)
        return h

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


def _widths(channels: int, multiples: Any) -> tuple[float, ...]:
    """channel_mult, checked."""
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
