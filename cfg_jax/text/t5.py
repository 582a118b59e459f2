"""T5's encoder: a transformer that knows the distances of its tokens, not their places."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cfg_jax.diffusion.checks import whole
from cfg_jax.nn import Dtype, dtype_name
from cfg_jax.nn.fields import flag, one_of
from cfg_jax.parts import BOUND
from cfg_jax.text.clip import LARGEST, MOST_LAYERS, padding
from cfg_jax.text.encoded import Encoded

EPSILON = 1e-6
"""Added to the mean square in every norm."""

FEED_FORWARDS = ("gated_gelu", "relu")


class T5Block(nn.Module):
    """Residual self-attention without scaling, then a feed-forward layer, each after an RMS norm.

    Attributes:
      heads: Attention heads.
      head_channels: Channels of a head.
      hidden: Features of the feed-forward layer.
      feed_forward: "gated_gelu", down(gelu(gate(h)) · up(h)), or "relu", down(relu(up(h))).
      dtype: Of the activations; what is added up stays float32.
    """

    heads: int
    head_channels: int
    hidden: int
    feed_forward: str = "gated_gelu"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        bias: Float[Array, "1 heads length length"],
        mask: Bool[Array, "batch 1 1 length"] | None,
    ) -> Float[Array, "batch length width"]:
        """Transforms x; the bias is added to the logits of attention.

        Positions where the mask is False are attended to by none.
        """
        width, inner = x.shape[-1], self.heads * self.head_channels

        def dense(name: str, features: int, deviation: float, dtype: Any = self.dtype) -> nn.Dense:
            init = nn.initializers.normal(deviation)
            return nn.Dense(features, use_bias=False, kernel_init=init, dtype=dtype, name=name)

        def heads(name: str, deviation: float) -> Float[Array, "batch length heads each"]:
            return dense(name, inner, deviation)(h).reshape(*h.shape[:2], self.heads, -1)

        h = _norm(self.dtype, "norm_1")(x)
        q = heads("q", (width * self.head_channels) ** -0.5)
        k, v = heads("k", width**-0.5), heads("v", width**-0.5)
        h = jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=1.0)
        x = x + dense("out", width, inner**-0.5)(h.reshape(*x.shape[:2], inner))
        h = _norm(self.dtype, "norm_2")(x)
        # float16 ends at 65,504, which published weights exceed here.
        wide = "float32" if self.dtype == "float16" else self.dtype
        up = dense("up", self.hidden, width**-0.5)(h).astype(wide)
        if self.feed_forward == "gated_gelu":
            gate = dense("gate", self.hidden, width**-0.5)(h).astype(wide)
            h = jax.nn.gelu(gate, approximate=True) * up
        else:
            h = jax.nn.relu(up)
        return x + dense("down", width, self.hidden**-0.5, wide)(h)


class T5Encoder(nn.Module):
    """T5's encoder (Raffel et al. 2020, "Exploring the Limits of Transfer Learning", Section 2.1).

    Attention adds to its logits a number for each head and bucket of distances, the same in every
    layer; the first distances have buckets of their own, longer ones share them by their logarithm.

    Attributes:
      vocabulary: Entries of the table of token embeddings.
      width: Channels of a state.
      layers: How many blocks there are.
      heads: Attention heads of a block.
      head_channels: Channels of a head; heads times this may differ from the width.
      hidden: Features of a block's feed-forward layer.
      feed_forward: "gated_gelu" of T5 1.1 (Shazeer 2020, "GLU Variants", with the GELU of tanh), or
        the first T5's "relu".
      buckets: Buckets of distances, forwards and backwards together; a multiple of 4.
      distance: From here on, all distances share the last bucket; above a quarter of the buckets.
      masked: Whether padding is hidden from attention; Stable Diffusion 3 attends to it.
      dtype: Of the activations: "float32", "bfloat16" or "float16"; norms, softmax, what the layers
        add up and the results are float32.
      remat: Whether the backward pass computes each block again instead of keeping its activations.

    Raises:
      ValueError: A field is out of its range.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.text import T5Encoder
    >>> encoder = T5Encoder(vocabulary=9, width=8, layers=1, heads=2, head_channels=4, hidden=16)
    >>> ids, mask = jnp.array([[5, 6, 1, 0]]), jnp.array([[True, True, True, False]])
    >>> params = encoder.init(jax.random.key(0), ids, mask)
    >>> found = encoder.apply(params, ids, mask)
    >>> len(found.states), found.sequence.shape, found.pooled
    (2, (1, 4, 8), None)
    """

    vocabulary: int = dataclasses.field(default=32_128, metadata=BOUND)
    width: int = 512
    layers: int = 6
    heads: int = 8
    head_channels: int = 64
    hidden: int = 2048
    feed_forward: str = "gated_gelu"
    buckets: int = 32
    distance: int = 128
    masked: bool = True
    dtype: Dtype = "float32"
    remat: bool = False

    def __post_init__(self):
        self.dtype = dtype_name(self.dtype)
        for name in ("vocabulary", "width", "heads", "head_channels", "hidden"):
            whole(name, getattr(self, name), 1, LARGEST)
        whole("layers", self.layers, 1, MOST_LAYERS)
        whole("buckets", self.buckets, 4, LARGEST)
        if self.buckets % 4:
            raise ValueError(f"buckets must be a multiple of 4, got {self.buckets}")
        whole("distance", self.distance, self.buckets // 4 + 1, LARGEST)
        one_of("feed_forward", self.feed_forward, FEED_FORWARDS)
        for name in ("masked", "remat"):
            flag(name, getattr(self, name))
        super().__post_init__()

    def setup(self):
        """The parts, by the names that their parameters have."""
        normal = nn.initializers.normal
        self.tokens = nn.Embed(self.vocabulary, self.width, embedding_init=normal(1.0))
        self.distances = nn.Embed(self.buckets, self.heads, embedding_init=normal(self.width**-0.5))
        kind = nn.remat(T5Block) if self.remat else T5Block
        fields: dict[str, Any] = {
            "heads": self.heads,
            "head_channels": self.head_channels,
            "hidden": self.hidden,
            "feed_forward": self.feed_forward,
            "dtype": self.dtype,
        }
        self.blocks = [kind(**fields) for _ in range(self.layers)]
        self.norm = _norm("float32")

    def __call__(
        self,
        ids: Int[Array | np.ndarray, "batch length"],
        mask: Bool[Array | np.ndarray, "batch length"] | None = None,
        embedded: Float[Array, "batch length width"] | None = None,
    ) -> Encoded:
        """Encodes rows of token ids, of any length; there is no pooled vector.

        Args:
          ids: The rows, see `Tokenizer`.
          mask: True for the text; only where the encoder is `masked`, which then needs it.
          embedded: Embeddings of the tokens, in the place of those that the table has.

        Raises:
          ValueError: The mask is missing.
        """
        hidden = padding(self.masked, mask)
        places = np.arange(ids.shape[1])
        apart = bucket(places[None, :] - places[:, None], self.buckets, self.distance)
        bias = self.distances(jnp.asarray(apart)).transpose(2, 0, 1)[None]
        states = [self.embed(ids) if embedded is None else embedded]
        for block in self.blocks:
            states.append(block(states[-1], bias, hidden))
        last = self.norm(states[-1])
        return Encoded(tuple(states), last, last, None)

    def embed(self, ids: Int[Array | np.ndarray, "..."]) -> Float[Array, "... width"]:
        """The token embeddings of ids."""
        return self.tokens(jnp.asarray(ids))


def bucket(relative: Int[np.ndarray, "..."], buckets: int, distance: int) -> Int[np.ndarray, "..."]:
    """The bucket of each distance j - i of a token j from the token i that attends to it.

    Half of the buckets are for j > i. Of a half with n buckets, the distances below n / 2 have one
    each, and d >= n / 2 is in n/2 + floor(n/2 · log(2d/n) / log(2 · distance / n)), at most n - 1.

    >>> import numpy as np
    >>> from cfg_jax.text.t5 import bucket
    >>> bucket(np.array([-200, -9, -8, -1, 0, 1, 8, 200]), 32, 128).tolist()
    [15, 8, 8, 1, 0, 17, 24, 31]
    """
    n = buckets // 2
    exact = n // 2
    d = np.abs(relative)
    # In float32 as where T5 was trained, so that the borders of buckets are the same.
    share = np.log(np.maximum(d, exact).astype(np.float32) / np.float32(exact))
    share = share / np.float32(math.log(distance / exact)) * np.float32(n - exact)
    long = np.minimum(exact + share.astype(np.int32), n - 1)
    return np.where(relative > 0, n, 0) + np.where(d < exact, d, long)


def _norm(dtype: Dtype, name: str | None = None) -> nn.RMSNorm:
    """RMS norm, x γ / √(mean x² + ε), in float32 (Zhang & Sennrich 2019)."""
    return nn.RMSNorm(epsilon=EPSILON, dtype=dtype, name=name)
