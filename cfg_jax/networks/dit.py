"""The diffusion transformer of Peebles & Xie (2023), asked for its prediction at a noise level λ.

Patches of z are tokens; each block is modulated by the embedding of λ and the condition, and starts
as the identity ("Scalable Diffusion Models with Transformers", Section 3.2, adaLN-Zero).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.networks import inlets
from cfg_jax.networks.base import REMAT
from cfg_jax.networks.patchwork import Embedding, Patchwork, Tokens, gated
from cfg_jax.nn import Attention, Dtype, FeedForward, Modulation, layer_norm
from cfg_jax.parts import Condition, Prediction


class DiTBlock(nn.Module):
    """Self-attention, attention to each sequence, and two dense layers, each added to its input.

    Self-attention and dense layers see their input layer-normalised, scaled and shifted by the
    embedding, and are scaled by it.

    Attributes:
      each: Channels of a head.
      hidden: Channels between the dense layers.
      dropout: The rate after attention and between the dense layers.
      train: Whether dropout is on.
      dtype: Of the activations.
    """

    each: int
    hidden: int
    dropout: float = 0.0
    train: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Tokens, embedding: Embedding, sequences: Mapping[str, Any]
    ) -> Float[Array, "batch places channels"]:
        """Transforms x.

        Args:
          x: Tokens.
          embedding: Of noise level and condition, activated.
          sequences: Entries to attend to, by name, see `inlets.sequence_of`.
        """
        shift, scale, gate, *of_layers = Modulation(6, name="modulation")(embedding)
        h = layer_norm(x, scale, shift, dtype=self.dtype)
        h = self._dropped(Attention(self.each, dtype=self.dtype, name="attention")(h))
        x = x + gated(gate, h, self.dtype)
        for name, entry in sequences.items():
            cross = Attention(self.each, zero=True, dtype=self.dtype, name=f"{name}_cross")
            h = cross(layer_norm(x, dtype=self.dtype), *inlets.sequence_of(entry))
            x = x + self._dropped(h)
        shift, scale, gate = of_layers
        h = layer_norm(x, scale, shift, dtype=self.dtype)
        forward = FeedForward(
            self.hidden, dropout=self.dropout, train=self.train, dtype=self.dtype, name="forward"
        )
        return x + gated(gate, forward(h), self.dtype)

    @nn.nowrap
    def _dropped(self, h: Array) -> Array:
        return nn.Dropout(self.dropout, deterministic=not self.train)(h)


class DiT(Patchwork):
    """A prediction from z_λ, λ and c, over data of any sides that its patches divide.

    z is cut into patches, whose places are told by fixed sines and cosines. The condition c is a
    dictionary of the entries that `inlets` name, each shown by its kind:

    - `Classes`: a learned vector a class, added to the embedding of λ;
    - `Vector`: added to it after two dense layers, which are also told whether any of it is not 0;
    - `Beside`: resized to z and laid beside it along the channels; if it is noised, its own noise
      level is added to the embedding after two dense layers;
    - `Sequence`: attended to after the self-attention of every block.

    The published sizes have patches of 2, 4 or 8 and

    - S: width 384, depth 12, heads 6; the default;
    - B: 768, 12, 12;
    - L: 1024, 24, 16;
    - XL: 1152, 28, 16.

    The attributes are those of `patchwork.Patchwork` and `base.Predictor`.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.networks import DiT
    >>> from cfg_jax.parts import Classes
    >>> net = DiT(width=16, depth=1, heads=2, inlets=(("label", Classes(11)),))
    >>> z, logsnr, cond = jnp.ones((2, 8, 6, 1)), jnp.zeros(2), {"label": jnp.array([3, 10])}
    >>> params = net.init(jax.random.key(0), z, logsnr, cond)
    >>> net.apply(params, z, logsnr, cond).shape
    (2, 8, 6, 1)
    """

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "batch *sides channels"],
        logsnr: ArrayLike,
        cond: Condition | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch *sides channels"] | Prediction:
        """Predicts what it was trained on.

        Args:
          z: z_λ of (batch, *sides, channels).
          logsnr: λ, a scalar or (batch,).
          cond: As above.
          train: Turns dropout on, which then needs a "dropout" rng.

        Returns:
          The prediction, of z's shape, float32; with a learned variance a `parts.Prediction`.

        Raises:
          ValueError: Patches do not divide the sides; or an entry of the condition is missing, of
            another shape, or not taken.
        """
        self.check(z.shape[1:])
        cond = inlets.entries(self.who, self.shown, cond, len(z))
        embedding = self.embed(logsnr, len(z), cond)
        sequences = inlets.sequences(self.shown, cond)
        h = self.tokens(z, cond)
        made = REMAT[self.remat](DiTBlock)
        each = self.width // self.heads
        for i in range(self.depth):
            block = made(each, self.hidden, self.dropout, train, self.dtype, name=f"block{i}")
            h = block(h, embedding, sequences)
        return self.put_together(h, embedding, z.shape)
