"""Layers of transformers, and the spatial transformer of latent diffusion."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cfg_jax.nn.attention import attend, head_size, rows
from cfg_jax.nn.fields import Dtype
from cfg_jax.nn.norm import GroupNorm

XAVIER = nn.initializers.xavier_uniform()
ZEROS = nn.initializers.zeros


class Modulation(nn.Module):
    """So many vectors an example, a dense layer of the embedding that starts at zero; float32.

    Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", Section 3.2, adaLN-Zero.

    Attributes:
      count: How many.
    """

    count: int

    @nn.compact
    def __call__(
        self, embedding: Float[Array, "batch channels"]
    ) -> list[Float[Array, "batch channels"]]:
        """The vectors, given the activated embedding."""
        made = nn.Dense(self.count * embedding.shape[-1], kernel_init=ZEROS, name="dense")
        return jnp.split(made(embedding), self.count, axis=-1)


class Projections(nn.Module):
    """Queries of x, and keys and values of x or of a context, each of x's channels.

    Attributes:
      each: Channels of a head, a divisor of x's channels.
      bias: Whether a bias is added to them.
      norm: Whether queries and keys are divided by their root mean square in each head, and scaled
        (Zhang & Sennrich 2019, "Root Mean Square Layer Normalization").
      dtype: Of the activations.
    """

    each: int
    bias: bool = True
    norm: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch places channels"],
        context: Float[Array, "batch length _"] | None = None,
    ) -> tuple[
        Float[Array, "batch places channels"],
        Float[Array, "batch _ channels"],
        Float[Array, "batch _ channels"],
    ]:
        """Returns q, k and v."""
        context = x if context is None else context

        def dense(name, of):
            made = nn.Dense(x.shape[-1], self.bias, self.dtype, kernel_init=XAVIER, name=name)
            return made(of)

        q, k = dense("query", x), dense("key", context)
        if self.norm:
            q, k = self._normed("query_norm", q), self._normed("key_norm", k)
        return q, k, dense("value", context)

    @nn.nowrap
    def _normed(self, name: str, x: Array) -> Array:
        heads = x.reshape(*x.shape[:2], -1, self.each)
        return nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, name=name)(heads).reshape(x.shape)


class Attention(nn.Module):
    """Attention of the places of x to each other or to a context, without norm or residual.

    Attributes:
      each: Channels of a head, a divisor of x's channels.
      bias: Whether queries, keys and values have a bias.
      norm: Whether queries and keys are normalised, see `Projections`.
      zero: Whether the result starts at zero.
      dtype: Of the activations.
    """

    each: int
    bias: bool = True
    norm: bool = False
    zero: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch places channels"],
        context: Float[Array, "batch length _"] | None = None,
        mask: Bool[Array, "batch _"] | None = None,
    ) -> Float[Array, "batch places channels"]:
        """Attends.

        Args:
          x: What attends.
          context: What is attended to; x itself if None.
          mask: Which vectors of that count; None for all.
        """
        made = Projections(self.each, self.bias, self.norm, self.dtype, name="projections")
        h = attend(*made(x, context), self.each, mask)
        init = ZEROS if self.zero else XAVIER
        return nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=init, name="output")(h)


def gelu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """GELU by its approximation with tanh (Hendrycks & Gimpel 2016)."""
    return nn.gelu(x, approximate=True)


def geglu(x: Float[Array, "*any both"]) -> Float[Array, "*any _"]:
    """The first half of the channels times the exact GELU of the second.

    Shazeer 2020, "GLU Variants Improve Transformer".

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn.transformer import geglu
    >>> geglu(jnp.array([[2.0, 3.0, 0.0, 10.0]])).tolist()
    [[0.0, 30.0]]
    """
    value, gate = jnp.split(x, 2, axis=-1)
    return value * nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
    """Two dense layers with an activation between them, back to x's channels.

    Attributes:
      features: Channels of the first layer.
      activation: What lies between; it may change the number of channels.
      dropout: The rate after it.
      train: Whether dropout is on.
      dtype: Of the activations.
    """

    features: int
    activation: Callable[[Array], Array] = gelu
    dropout: float = 0.0
    train: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch places channels"]
    ) -> Float[Array, "batch places channels"]:
        """Transforms each place by itself."""
        h = nn.Dense(self.features, dtype=self.dtype, kernel_init=XAVIER, name="hidden")(x)
        h = nn.Dropout(self.dropout, deterministic=not self.train)(self.activation(h))
        return nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=XAVIER, name="output")(h)


class TransformerBlock(nn.Module):
    """Self-attention, attention to a context and GEGLU layers of four times the width.

    Each is added to x and sees it layer-normalised. Without a context, places attend to each other
    alone.

    Attributes:
      each: Channels of a head.
      dropout: The rate after each attention and inside the GEGLU layers.
      train: Whether dropout is on.
      dtype: Of the activations.
    """

    each: int
    dropout: float = 0.0
    train: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch places channels"],
        context: Float[Array, "batch length _"] | None = None,
        mask: Bool[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch places channels"]:
        """Transforms x, see `Attention` for context and mask."""

        def normed(name):
            return nn.LayerNorm(1e-5, self.dtype, use_fast_variance=False, name=f"{name}_norm")(x)

        def attention(name, *seen):
            attended = Attention(self.each, bias=False, dtype=self.dtype, name=name)
            return self._dropped(attended(normed(name), *seen))

        x = x + attention("self")
        if context is not None:
            x = x + attention("cross", context, mask)
        width = 8 * x.shape[-1]
        forward = FeedForward(width, geglu, self.dropout, self.train, self.dtype, name="forward")
        return x + forward(normed("forward"))

    @nn.nowrap
    def _dropped(self, x: Array) -> Array:
        return nn.Dropout(self.dropout, deterministic=not self.train)(x)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the places of an array, added to it; they start as the identity.

    Group normalisation, a dense layer, the blocks, a dense layer (Rombach et al. 2022,
    "High-Resolution Image Synthesis with Latent Diffusion Models", Appendix E.2.1). A dense layer
    is a convolution of size 1: checkpoints have either.

    Attributes:
      head_channels: Channels of a head.
      heads: The number of heads, which then decides how many channels each has; 0 leaves that to
        head_channels.
      layers: The number of blocks.
      dropout: The rate inside the blocks.
      train: Whether dropout is on.
      dtype: Of the activations.
      axes: Places that differ along these axes attend to each other; None for all axes between
        batch and channels.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.nn import SpatialTransformer
    >>> x, context = jnp.ones((2, 4, 4, 8)), jnp.ones((2, 3, 5))
    >>> h, _ = SpatialTransformer(head_channels=4).init_with_output(jax.random.key(0), x, context)
    >>> bool((h == x).all())
    True
    """

    head_channels: int = 64
    heads: int = 0
    layers: int = 1
    dropout: float = 0.0
    train: bool = False
    dtype: Dtype = "float32"
    axes: tuple[int, ...] | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *sides channels"],
        context: Float[Array, "batch length _"] | None = None,
        mask: Bool[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch *sides channels"]:
        """Attends and adds.

        Args:
          x: An array of one to three sides.
          context: What is attended to beside x.
          mask: Which vectors of the context count; None for all.

        Raises:
          ValueError: heads, or else head_channels, does not divide the channels.
        """
        channels = x.shape[-1]
        each = head_size(channels, self.head_channels, self.heads)
        h, put_back = rows(GroupNorm(1e-6, self.dtype, name="norm")(x), self.axes)

        def for_rows(a):
            """What belongs to an example, once for each of its rows."""
            return None if a is None else jnp.repeat(a, len(h) // len(x), axis=0)

        context, mask = for_rows(context), for_rows(mask)
        h = nn.Dense(channels, dtype=self.dtype, kernel_init=XAVIER, name="input")(h)
        for i in range(self.layers):
            block = TransformerBlock(each, self.dropout, self.train, self.dtype, name=f"block{i}")
            h = block(h, context, mask)
        h = nn.Dense(channels, dtype=self.dtype, kernel_init=ZEROS, name="output")(h)
        return x + put_back(h)
