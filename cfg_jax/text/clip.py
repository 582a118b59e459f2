"""CLIP's text encoder: a causal transformer whose state at the text's end is the pooled vector."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cfg_jax.diffusion.checks import whole
from cfg_jax.nn import Dtype, dtype_name, head_size
from cfg_jax.nn.fields import flag, one_of
from cfg_jax.parts import BOUND
from cfg_jax.text.encoded import Encoded

EPSILON = 1e-5
"""Added to the variance in every norm."""

LARGEST = 1_000_000
"""No size of an encoder may be larger."""

MOST_LAYERS = 256
"""More take too long to compile."""


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The approximation x · sigmoid(1.702 x) of GELU that CLIP was trained with.

    Hendrycks & Gimpel 2016, "Gaussian Error Linear Units", Section 2.
    """
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The exact GELU, x · Φ(x)."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}
POOLS = ("first_eos", "argmax")


class CLIPBlock(nn.Module):
    """Residual self-attention, then two dense layers, each after a norm.

    Attributes:
      heads: Attention heads.
      hidden: Features between the dense layers.
      layers: Of the whole encoder: the more there are, the less each adds at the start.
      activation: Between the dense layers, one of `ACTIVATIONS`.
      causal: Whether a position attends to itself and those before it alone.
      dtype: Of the activations; what is added up stays float32.
    """

    heads: int
    hidden: int
    layers: int
    activation: str = "quick_gelu"
    causal: bool = True
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length width"],
        mask: Bool[Array, "batch 1 1 length"] | None,
    ) -> Float[Array, "batch length width"]:
        """Transforms x; positions where the mask is False are attended to by none."""
        width = x.shape[-1]
        # As Radford et al. 2021 start: what is added up at each layer shrinks with their number.
        inward, outward = width**-0.5, width**-0.5 * (2 * self.layers) ** -0.5

        def dense(name: str, features: int, deviation: float) -> nn.Dense:
            init = nn.initializers.normal(deviation)
            return nn.Dense(features, kernel_init=init, dtype=self.dtype, name=name)

        h = _norm(self.dtype, "norm_1")(x)
        q, k, v = (
            dense(name, width, inward)(h).reshape(*h.shape[:2], self.heads, -1) for name in "qkv"
        )
        h = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=self.causal)
        x = x + dense("out", width, outward)(h.reshape(x.shape))
        h = dense("up", self.hidden, (2 * width) ** -0.5)(_norm(self.dtype, "norm_2")(x))
        return x + dense("down", width, outward)(ACTIVATIONS[self.activation](h))


class CLIPText(nn.Module):
    """CLIP's text encoder.

    Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
    Section 2.4.

    Attributes:
      vocabulary: Entries of the table of token embeddings.
      width: Channels of a state.
      layers: How many blocks there are.
      heads: Attention heads of a block; they divide the width.
      length: The most tokens a row may have.
      hidden: Features between a block's dense layers; four times the width if None.
      activation: Between them, "quick_gelu" or "gelu".
      projection: Length of the pooled vector, made by a matrix; None leaves it a state.
      pool: The state that is pooled: at the "first_eos" of a row, or where its id is the largest,
        "argmax", which is wrong once tokens are added behind the end's.
      eos: The id of a text's end, which "first_eos" looks for.
      masked: Whether padding is hidden from attention; Stable Diffusion's encoders attend to it.
      causal: Whether a token's state tells of what stands before it alone, as in CLIP. Where it is
        trained along, False lets it tell of what follows too: whether "a red three" is to be left
        or right of something.
      layer: Which state a network attends to: -1 the last, -2 the one before it, and so on to the
        embeddings.
      final_norm: Whether that state goes through the final norm.
      dtype: Of the activations: "float32", "bfloat16" or "float16"; norms, softmax, what the layers
        add up and the results are float32.
      remat: Whether the backward pass computes each block again instead of keeping its activations.

    Raises:
      ValueError: A field is out of its range.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.text import CLIPText
    >>> encoder = CLIPText(vocabulary=9, width=8, layers=2, heads=2, length=5, eos=8, projection=3)
    >>> ids = jnp.array([[7, 1, 2, 8, 8]])
    >>> params = encoder.init(jax.random.key(0), ids)
    >>> found = encoder.apply(params, ids)
    >>> len(found.states), found.sequence.shape, found.pooled.shape
    (3, (1, 5, 8), (1, 3))
    """

    vocabulary: int = dataclasses.field(default=49_408, metadata=BOUND)
    width: int = 512
    layers: int = 12
    heads: int = 8
    length: int = dataclasses.field(default=77, metadata=BOUND)
    hidden: int | None = None
    activation: str = "quick_gelu"
    projection: int | None = None
    pool: str = "first_eos"
    eos: int = dataclasses.field(default=49_407, metadata=BOUND)
    masked: bool = False
    causal: bool = True
    layer: int = -1
    final_norm: bool = True
    dtype: Dtype = "float32"
    remat: bool = False

    def __post_init__(self):
        self.dtype = dtype_name(self.dtype)
        for name in ("vocabulary", "width", "heads", "length"):
            whole(name, getattr(self, name), 1, LARGEST)
        for name in ("hidden", "projection"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1, LARGEST)
        whole("layers", self.layers, 1, MOST_LAYERS)
        whole("eos", self.eos, 0, self.vocabulary - 1)
        whole("layer", self.layer, -self.layers - 1, -1)
        head_size(self.width, 1, self.heads)
        one_of("activation", self.activation, ACTIVATIONS)
        one_of("pool", self.pool, POOLS)
        for name in ("masked", "causal", "final_norm", "remat"):
            flag(name, getattr(self, name))
        super().__post_init__()

    def setup(self):
        """The parts, by the names that their parameters have."""
        normal = nn.initializers.normal
        self.tokens = nn.Embed(self.vocabulary, self.width, embedding_init=normal(0.02))
        self.positions = self.param("positions", normal(0.01), (self.length, self.width))
        kind = nn.remat(CLIPBlock) if self.remat else CLIPBlock
        fields: dict[str, Any] = {
            "heads": self.heads,
            "hidden": self.hidden or 4 * self.width,
            "layers": self.layers,
            "activation": self.activation,
            "causal": self.causal,
            "dtype": self.dtype,
        }
        self.blocks = [kind(**fields) for _ in range(self.layers)]
        self.norm = _norm("float32")
        if self.projection is not None:
            init = normal(self.width**-0.5)
            self.project = nn.Dense(self.projection, use_bias=False, kernel_init=init)

    def __call__(
        self,
        ids: Int[Array | np.ndarray, "batch length"],
        mask: Bool[Array | np.ndarray, "batch length"] | None = None,
        embedded: Float[Array, "batch length width"] | None = None,
    ) -> Encoded:
        """Encodes rows of token ids.

        Args:
          ids: The rows, see `Tokenizer`.
          mask: True for the text; only where the encoder is `masked`, which then needs it.
          embedded: Embeddings of the tokens, in the place of those that the table has; the ids
            still say where the end is.

        Raises:
          ValueError: The rows are longer than `length`, or the mask is missing.
        """
        if ids.shape[1] > self.length:
            raise ValueError(f"ids must be at most {self.length} a row, got {ids.shape[1]}")
        hidden = padding(self.masked, mask)
        x = self.embed(ids) if embedded is None else embedded
        states = [x + self.positions[: ids.shape[1]]]
        for block in self.blocks:
            states.append(block(states[-1], hidden))
        last = self.norm(states[-1])
        chosen = states[self.layer]
        sequence = self.norm(chosen) if self.final_norm else chosen
        return Encoded(tuple(states), last, sequence, self._pooled(last, jnp.asarray(ids)))

    def embed(self, ids: Int[Array | np.ndarray, "..."]) -> Float[Array, "... width"]:
        """The token embeddings of ids, without positions."""
        return self.tokens(jnp.asarray(ids))

    def _pooled(
        self, last: Float[Array, "batch length width"], ids: Int[Array, "batch length"]
    ) -> Float[Array, "batch _"]:
        end = jnp.argmax(ids if self.pool == "argmax" else ids == self.eos, axis=1)
        pooled = jnp.take_along_axis(last, end[:, None, None], axis=1)[:, 0]
        return pooled if self.projection is None else self.project(pooled)


def padding(
    masked: bool, mask: Bool[Array | np.ndarray, "batch length"] | None
) -> Bool[Array, "batch 1 1 length"] | None:
    """The mask of an encoder's attention: that of the rows, or none where padding is not hidden.

    Raises:
      ValueError: Padding is hidden, and there is no mask.
    """
    if not masked:
        return None
    if mask is None:
        raise ValueError("the encoder hides padding: it needs a mask beside the ids")
    return jnp.asarray(mask)[:, None, None, :]


def _norm(dtype: Dtype, name: str | None = None) -> nn.LayerNorm:
    """A layer norm whose statistics are float32, from two passes over the channels."""
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, dtype=dtype, name=name)
