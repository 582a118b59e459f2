"""What the transformers share: patches of z as tokens, the embedding, and the way out."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from cfg_jax.diffusion.checks import number, truth, whole
from cfg_jax.networks import inlets
from cfg_jax.networks.base import MOST_BLOCKS, MOST_CHANNELS, Predictor
from cfg_jax.nn import (
    Dtype,
    Modulation,
    grid_of,
    layer_norm,
    patched,
    sincos_positions,
    space_axes,
    unpatched,
)
from cfg_jax.nn.transformer import XAVIER, ZEROS
from cfg_jax.parts import Condition, Prediction

FREQUENCIES = 256
"""Features of the noise level, whatever the width."""

FEWEST_CHANNELS = 8
"""Fewer cannot tell places along three sides apart."""

Embedding = Float[Array, "batch channels"]
Tokens = Float[Array, "batch places channels"]


class Patchwork(Predictor):
    """A transformer over patches of z, which all attend to each other. A base.

    Patches lie in space: those of a video are of one frame, and all its frames' patches are places.

    Attributes:
      patch: Entries along each side of a patch.
      width: Channels of a token, from 8 to 65,536.
      depth: The number of blocks, from 1 to 128.
      heads: Attention heads, a divisor of the width.
      mlp_ratio: Channels between the two dense layers of a block over the width, from 0.01 to 64.
      period: The longest wavelength of the patches' fixed positions, over 2π, from 1 to 1e9; the
        published 10,000. With few patches a side take about as many: else what a network is told
        of neighbours hardly differs.
      pooled: Whether the mean of each sequence is added to the embedding of λ as well, after two
        dense layers.

    The other attributes are those of `base.Predictor`.

    Raises:
      ValueError: A field is out of its range.
    """

    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    period: float = 10_000.0
    pooled: bool = False

    def __post_init__(self):
        whole("patch", self.patch, 1, MOST_CHANNELS)
        whole("width", self.width, FEWEST_CHANNELS, MOST_CHANNELS)
        whole("depth", self.depth, 1, MOST_BLOCKS)
        whole("heads", self.heads, 1, MOST_CHANNELS)
        number("mlp_ratio", self.mlp_ratio, 0.01, 64.0)
        number("period", self.period, 1.0, 1e9)
        truth("pooled", self.pooled)
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, {self.width}; got {self.heads}")
        super().__post_init__()

    @nn.nowrap
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where the network cannot take examples of (*sides, channels)."""
        super().check(shape)
        self.check_multiples(shape, self.patch, f"cuts {{}} into patches of {self.patch}")

    @property
    def hidden(self) -> int:
        """Channels between the two dense layers of a block."""
        return max(1, int(self.mlp_ratio * self.width))

    @nn.nowrap
    def embed(self, logsnr: Any, batch: int, cond: Condition, marked: bool = True) -> Embedding:
        """The activated embedding of the noise level and of what is no sequence; float32.

        Args:
          logsnr: λ.
          batch: The number of examples.
          cond: The condition.
          marked: Whether the dense layers of vectors are told that any of a vector is not 0.
        """
        embedding = self.embedded_level(logsnr, batch, FREQUENCIES, self.width)
        for name, inlet in self.shown:
            embedding += inlets.embedded(
                *(name, inlet, cond[name], self.width, FREQUENCIES),
                marked=marked,
                deviation=0.02,
                pooled=self.pooled,
            )
        return nn.silu(embedding)

    @nn.nowrap
    def places(self, grid: tuple[int, ...]) -> Float[Array, "*grid channels"]:
        """What is added to the tokens of a grid of patches, by their places; float32."""
        return sincos_positions(grid, self.width, self.period)

    @nn.nowrap
    def tokens(self, z: Float[Array, "batch *sides _"], cond: Condition) -> Tokens:
        """The patches of z, and of what is laid beside it, with their positions."""
        h = patched(inlets.beside(self.shown, cond, z).astype(self.dtype), self.patch)
        h = nn.Dense(self.width, dtype=self.dtype, kernel_init=XAVIER, name="input")(h)
        h = h + self.places(h.shape[1:-1]).astype(self.dtype)
        return h.reshape(len(z), -1, self.width)

    @nn.nowrap
    def put_together(
        self, h: Tokens, embedding: Embedding, shape: tuple[int, ...]
    ) -> Float[Array, "batch *sides _"] | Prediction:
        """The prediction for z of (batch, *sides, channels), given the last tokens."""
        batch, *sides, channels = shape
        shift, scale = Modulation(2, name="output_modulation")(embedding)
        h = layer_norm(h, scale, shift, dtype=self.dtype)
        grid = grid_of(sides, self.patch)
        entries = self.outputs(channels) * self.patch ** len(space_axes(len(shape)))
        h = nn.Dense(entries, dtype=self.dtype, kernel_init=ZEROS, name="output")(h)
        return self.predicted(unpatched(h.reshape(batch, *grid, entries), self.patch))


def gated(gate: Embedding, h: Tokens, dtype: Dtype) -> Tokens:
    """What a branch adds to its tokens, times the example's gate."""
    return gate[:, None].astype(dtype) * h
