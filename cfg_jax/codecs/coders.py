"""The encoder and decoder of latent diffusion's autoencoders: data ↔ moments or vectors of z.

Residual convolutions whose sides halve from level to level, with attention in the middle (Rombach
et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", Appendix G; Esser et
al. 2021, "Taming Transformers for High-Resolution Image Synthesis", Table 7).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks
from cfg_jax.networks.base import MOST_BLOCKS, MOST_CHANNELS, REMAT
from cfg_jax.networks.blocks import ResidualBlock, widths
from cfg_jax.nn import (
    Conv,
    Dtype,
    GroupNorm,
    SelfAttention,
    dtype_name,
    patched,
    space_axes,
    unpatched,
    upsample,
)
from cfg_jax.nn.fields import one_of

EPSILON = 1e-6
"""Of every norm."""

AT_ONCE = 1024
"""So many positions attend at a time: the weights of 1,024² pictures would fill a gigabyte."""


class Coder(nn.Module):
    """What encoder, decoder and the autoencoders made of them have in common; a base.

    Attributes:
      channels: Channels of the first level, where its entry of channel_mult is 1; from 1 to 65,536.
      patch: Sides of the squares of space whose entries are the channels of one place at the first
        level, from 1 to 64: 2 spares small pictures most of the work. The published autoencoders
        have 1.
      window: Side of the windows of the convolutions, odd, from 1 to 31; those that halve the sides
        have 3. With 1 a place knows of the others by norms and attention alone: for patches that
        have little to do with each other.
      channel_mult: Each level's channels as a multiple of `channels`; each level but the last
        halves the sides of space.
      blocks: Residual blocks a level on the way down, from 1 to 128; there is one more on the way
        up.
      attention_factors: Attention after the blocks of a level whose sides are those of the first
        divided by one of these powers of two.
      middle_attention: Whether there is attention between the two blocks of the middle. All
        attention has a single head; over a video it is factorised: within each frame, then over the
        frames.
      groups: Groups of the norms, or as many as divide both that and the channels; from 1 to
        65,536.
      dropout: The rate inside residual blocks, in [0, 1).
      dtype: Of the activations: "float32", "bfloat16" or "float16"; parameters, norms, the softmax
        and the result are float32.
      remat: What the backward pass recomputes instead of keeping: "none"; all of a residual block
        but its convolutions, "products"; all of it, "blocks".

    Raises:
      ValueError: A field is out of its range.
    """

    channels: int = 128
    patch: int = 1
    window: int = 3
    channel_mult: tuple[float, ...] = (1, 2, 4, 4)
    blocks: int = 2
    attention_factors: tuple[int, ...] = ()
    middle_attention: bool = True
    groups: int = 32
    dropout: float = 0.0
    dtype: Dtype = "float32"
    remat: str = "none"

    def __post_init__(self):
        self.dtype = dtype_name(self.dtype)
        checks.whole("channels", self.channels, 1, MOST_CHANNELS)
        checks.whole("patch", self.patch, 1, 64)
        checks.whole("window", self.window, 1, 31)
        if not self.window % 2:
            raise ValueError(f"window must be odd, got {self.window}")
        checks.whole("blocks", self.blocks, 1, MOST_BLOCKS)
        checks.truth("middle_attention", self.middle_attention)
        checks.whole("groups", self.groups, 1, MOST_CHANNELS)
        checks.number("dropout", self.dropout, 0.0, 1.0, "[)")
        one_of("remat", self.remat, REMAT)
        self.channel_mult = widths(self.channels, self.channel_mult)
        self.attention_factors = _factors(self.attention_factors, len(self.channel_mult))
        super().__post_init__()

    @property
    def factor(self) -> int:
        """By how much the sides of space are divided: by the patch, and by 2 a level after one."""
        return self.patch * 2 ** (len(self.channel_mult) - 1)

    @property
    def shared(self) -> dict[str, Any]:
        """The fields above, by name."""
        names = {field.name for field in dataclasses.fields(Coder)} - {"parent", "name"}
        return {name: getattr(self, name) for name in names}

    @nn.nowrap
    def norm(self) -> GroupNorm:
        """A group norm."""
        return GroupNorm(EPSILON, self.dtype, self.groups)

    @nn.nowrap
    def conv(self, features: int, **fields: Any) -> Conv:
        """A convolution of windows as wide as `window`, unless `fields` say otherwise."""
        return Conv(features, **{"size": self.window, "dtype": self.dtype, **fields})

    @nn.nowrap
    def level(self, number: int, blocks: int) -> "Level":
        """The level whose sides were halved so many times."""
        width = int(self.channel_mult[number] * self.channels)
        attends = (2**number in self.attention_factors,) * blocks
        return self.stage(width, attends)

    @nn.nowrap
    def middle_level(self) -> "Level":
        """Two blocks at the coarsest sides, attention between them."""
        width = int(self.channel_mult[-1] * self.channels)
        return self.stage(width, (self.middle_attention, False))

    @nn.nowrap
    def stage(self, features: int, attends: tuple[bool, ...]) -> "Level":
        """Residual blocks of so many features."""
        return Level(
            features, attends, self.window, self.groups, self.dropout, self.dtype, self.remat
        )


class Level(nn.Module):
    """Residual blocks of one size, with self-attention behind some of them.

    Attributes:
      features: Channels of the result.
      attends: For each block, whether there is attention behind it.

    The other attributes are those of `Coder`.
    """

    features: int
    attends: tuple[bool, ...]
    window: int = 3
    groups: int = 32
    dropout: float = 0.0
    dtype: Dtype = "float32"
    remat: str = "none"

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch *sides _"], train: bool = False
    ) -> Float[Array, "batch *sides features"]:
        """Transforms h."""
        norms = {"epsilon": EPSILON, "groups": self.groups, "dtype": self.dtype}
        for i, attends in enumerate(self.attends):
            block = REMAT[self.remat](ResidualBlock)(
                self.features,
                dropout=self.dropout,
                train=train,
                size=self.window,
                **norms,
                name=f"block_{i}",
            )
            h = block(h)
            axes = (space_axes(h.ndim), *([(1,)] if h.ndim == 5 else [])) if attends else ()
            for among, name in zip(axes, (f"attention_{i}", f"frames_attention_{i}"), strict=False):
                attention = SelfAttention(heads=1, axes=among, at_once=AT_ONCE, **norms, name=name)
                h = attention(h)
        return h


class Encoder(Coder):
    """Data to what describes z, float32, the sides of space divided by `factor`.

    Attributes:
      outputs: Channels of the result.

    The other attributes are those of `Coder`.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.codecs.coders import Encoder
    >>> net = Encoder(channels=8, channel_mult=(1, 2), blocks=1, outputs=6)
    >>> jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.ones((1, 8, 4, 3)))[0].shape
    (1, 4, 2, 6)
    """

    outputs: int = 8

    def setup(self):
        """Names the layers."""
        count = len(self.channel_mult)
        self.input = self.conv(int(self.channel_mult[0] * self.channels))
        self.levels = [self.level(i, self.blocks) for i in range(count)]
        self.downsamples = [
            self.conv(int(m * self.channels), size=3, stride=2, ahead=True)
            for m in self.channel_mult[:-1]
        ]
        self.middle = self.middle_level()
        self.output_norm = self.norm()
        self.output = self.conv(self.outputs)

    def __call__(
        self, x: Float[Array, "batch *sides _"], train: bool = False
    ) -> Float[Array, "batch *_ outputs"]:
        """Encodes; `train` turns dropout on, which then needs a "dropout" rng."""
        h = self.input(patched(x.astype(self.dtype), self.patch))
        for i, level in enumerate(self.levels):
            h = self.downsamples[i - 1](h) if i else h
            h = level(h, train)
        h = self.middle(h, train)
        return self.output(nn.silu(self.output_norm(h))).astype(jnp.float32)


class Decoder(Coder):
    """What stands for z to data, float32, the sides of space multiplied by `factor`.

    Attributes:
      outputs: Channels of the result.

    The other attributes are those of `Coder`.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.codecs.coders import Decoder
    >>> net = Decoder(channels=8, channel_mult=(1, 2), blocks=1, outputs=3)
    >>> jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.ones((1, 4, 2, 6)))[0].shape
    (1, 8, 4, 3)
    """

    outputs: int = 3

    def setup(self):
        """Names the layers, from the coarsest up."""
        downwards = range(len(self.channel_mult))
        self.input = self.conv(int(self.channel_mult[-1] * self.channels))
        self.middle = self.middle_level()
        self.levels = [self.level(i, self.blocks + 1) for i in reversed(downwards)]
        self.upsamples = [
            self.conv(int(m * self.channels)) for m in reversed(self.channel_mult[1:])
        ]
        self.output_norm = self.norm()
        self.output = self.conv(self.outputs, patch=self.patch)

    def __call__(
        self, h: Float[Array, "batch *sides _"], train: bool = False
    ) -> Float[Array, "batch *_ outputs"]:
        """Decodes; `train` turns dropout on, which then needs a "dropout" rng."""
        return self.finish(self.begin(h, 1, train), 1, train)

    def begin(
        self, h: Float[Array, "batch *sides _"], levels: int, train: bool = False
    ) -> Float[Array, "batch *_ _"]:
        """The middle and the first so many levels, at least one."""
        h = self.middle(self.input(h.astype(self.dtype)), train)
        return self._rise(h, range(levels), train)

    def finish(
        self, h: Float[Array, "batch *sides _"], levels: int, train: bool = False
    ) -> Float[Array, "batch *_ outputs"]:
        """All that follows upon `begin`."""
        h = self._rise(h, range(levels, len(self.levels)), train)
        h = self.output(nn.silu(self.output_norm(h))).astype(jnp.float32)
        return unpatched(h, self.patch)

    def _rise(self, h: Array, numbers: Sequence[int], train: bool) -> Array:
        for i in numbers:
            h = self.upsamples[i - 1](upsample(h)) if i else h
            h = self.levels[i](h, train)
        return h


def _factors(factors: Any, levels: int) -> tuple[int, ...]:
    """attention_factors, checked."""
    allowed = tuple(2**level for level in range(levels))
    if not isinstance(factors, (tuple, list)) or not all(
        isinstance(factor, int) and factor in allowed for factor in factors
    ):
        raise ValueError(
            "attention_factors must be some of those by which the levels divide the sides, "
            f"{', '.join(map(str, allowed))}; got {factors!r}"
        )
    return tuple(factors)
