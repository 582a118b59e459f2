"""Attention: of positions to each other, to a sequence beside them, and of their mean to them."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cfg_jax.nn.fields import Dtype
from cfg_jax.nn.norm import GroupNorm


def attend(
    q: Float[Array, "batch places channels"],
    k: Float[Array, "batch length channels"],
    v: Float[Array, "batch length channels"],
    each: int,
    mask: Bool[Array, "batch length"] | None = None,
) -> Float[Array, "batch places channels"]:
    """Attention of several heads, softmax(q kᵀ / √each) v in each; the softmax is float32.

    Vaswani et al. 2017, "Attention Is All You Need", Section 3.2. Head i has the channels from
    i · each up to (i + 1) · each.

    Args:
      q: Queries.
      k: Keys.
      v: Values.
      each: Channels of a head, a divisor of the channels.
      mask: Which keys may be attended to; None for all. Where there is none, the result is 0.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn import attend
    >>> v = jnp.array([[[1.0], [3.0], [9.0]]])
    >>> attend(jnp.zeros((1, 1, 1)), v, v, 1, jnp.array([[True, True, False]])).item()
    2.0
    """

    def heads(x):
        return x.reshape(*x.shape[:2], -1, each)

    if mask is None:
        return jax.nn.dot_product_attention(heads(q), heads(k), heads(v)).reshape(q.shape)
    h = jax.nn.dot_product_attention(heads(q), heads(k), heads(v), mask=mask[:, None, None])
    return h.reshape(q.shape) * mask.any(-1)[:, None, None]


class SelfAttention(nn.Module):
    """Residual self-attention among the positions along some axes, or along all.

    Over a video it is factorised as one along `space_axes` and then one along the frames, (1,) (Ho
    et al. 2022, "Video Diffusion Models", Section 3).

    Attributes:
      head_channels: Channels of a head.
      heads: The number of heads, which then decides how many channels each has; 0 leaves that to
        head_channels.
      dtype: Of the activations.
      axes: Positions that differ along these axes attend to each other; None for all axes between
        batch and channels.
      epsilon: The norm's.
      groups: The norm's.
      at_once: How many positions attend at a time, which bounds the memory of their weights; 0 for
        all.
    """

    head_channels: int = 64
    heads: int = 0
    dtype: Dtype = "float32"
    axes: tuple[int, ...] | None = None
    epsilon: float = 1e-5
    groups: int = 32
    at_once: int = 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *sides channels"]
    ) -> Float[Array, "batch *sides channels"]:
        """Attends and adds.

        Raises:
          ValueError: heads, or else head_channels, does not divide the channels.
        """
        channels = x.shape[-1]
        each = head_size(channels, self.head_channels, self.heads)
        h, put_back = rows(GroupNorm(self.epsilon, self.dtype, self.groups)(x), self.axes)
        qkv = nn.Dense(3 * channels, dtype=self.dtype)(h)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        h = _some_at_once(q, k, v, each, self.at_once)
        h = nn.Dense(channels, kernel_init=nn.initializers.zeros, dtype=self.dtype)(h)
        return x + put_back(h)


def rows(
    x: Float[Array, "batch *sides channels"], axes: tuple[int, ...] | None
) -> tuple[Float[Array, "rows places channels"], Callable[[Array], Array]]:
    """The places along the axes as rows, one for each place along the others; and the way back.

    None are all axes between batch and channels.
    """
    axes = tuple(range(1, x.ndim - 1)) if axes is None else axes
    others = [axis for axis in range(x.ndim - 1) if axis not in axes]
    order = [*others, *axes, x.ndim - 1]
    moved = x.transpose(order)
    back = sorted(range(x.ndim), key=lambda axis: order[axis])

    def put_back(h):
        return h.reshape(moved.shape).transpose(back)

    return moved.reshape(-1, math.prod(x.shape[axis] for axis in axes), x.shape[-1]), put_back


def _some_at_once(
    q: Float[Array, "rows places channels"],
    k: Float[Array, "rows places channels"],
    v: Float[Array, "rows places channels"],
    each: int,
    at_once: int,
) -> Float[Array, "rows places channels"]:
    """`attend`, of some places at a time; so is its gradient, which keeps no weights."""
    count, places, channels = q.shape
    if not at_once or places <= at_once:
        return attend(q, k, v, each)
    parts = -(-places // at_once)
    padded = jnp.pad(q, ((0, 0), (0, parts * at_once - places), (0, 0)))

    @jax.checkpoint
    def of(part):
        return attend(part, k, v, each)

    found = jax.lax.map(of, padded.reshape(count, parts, at_once, channels).swapaxes(0, 1))
    return found.swapaxes(0, 1).reshape(count, -1, channels)[:, :places]


class CrossAttention(nn.Module):
    """Residual attention of every position to a sequence; it starts as the identity.

    The attributes are those of `SelfAttention`.
    """

    head_channels: int = 64
    heads: int = 0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *sides channels"],
        sequence: Float[Array, "batch length _"],
        mask: Bool[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch *sides channels"]:
        """Attends and adds.

        Args:
          x: What attends.
          sequence: What is attended to.
          mask: Which vectors of the sequence count; None for all.

        Raises:
          ValueError: heads, or else head_channels, does not divide the channels.
        """
        batch, *_, channels = x.shape
        each = head_size(channels, self.head_channels, self.heads)
        h = GroupNorm(dtype=self.dtype)(x).reshape(batch, -1, channels)
        q = nn.Dense(channels, dtype=self.dtype)(h)
        kv = nn.Dense(2 * channels, dtype=self.dtype)(sequence)
        k, v = jnp.split(kv, 2, axis=-1)
        h = attend(q, k, v, each, mask)
        h = nn.Dense(channels, kernel_init=nn.initializers.zeros, dtype=self.dtype)(h)
        return x + h.reshape(x.shape)


class AttentionPool(nn.Module):
    """One vector of an array: what the mean of its positions attends to among them all.

    Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
    Section 2.4; the pooling of ADM's noisy classifiers. The learned positions fix the sides.

    Attributes:
      features: Length of the vector.
      head_channels: Channels of a head.
      dtype: Of the activations.
    """

    features: int
    head_channels: int = 64
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sides channels"]) -> Float[Array, "batch features"]:
        """Pools.

        Raises:
          ValueError: head_channels does not divide the channels.
        """
        channels = x.shape[-1]
        each = head_size(channels, self.head_channels)
        places = x.reshape(len(x), -1, channels)
        places = jnp.concatenate([places.mean(1, keepdims=True), places], axis=1)
        init = nn.initializers.normal(channels**-0.5)
        places = places + self.param("positions", init, places.shape[1:]).astype(self.dtype)
        qkv = nn.Dense(3 * channels, dtype=self.dtype)(places)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        return nn.Dense(self.features, dtype=self.dtype)(attend(q[:, :1], k, v, each)[:, 0])


def head_size(channels: int, head_channels: int, heads: int = 0) -> int:
    """Channels of an attention head: head_channels, unless a number of heads is given.

    Raises:
      ValueError: They do not divide the channels.
    """
    if channels % (heads or head_channels):
        name = "heads" if heads else "head_channels"
        raise ValueError(
            f"{name} must divide the channels wherever there is attention: {channels} "
            f"channels are not a multiple of {heads or head_channels}"
        )
    return channels // heads if heads else head_channels
