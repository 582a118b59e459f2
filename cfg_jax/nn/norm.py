"""Normalisation: of groups of channels, and of all channels of a place."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.nn.fields import Dtype


@jax.custom_jvp
def _seam(x: Array) -> Array:
    """Returns x; XLA does not fuse its derivative with what uses that.

    Left alone on a CPU, it strings the gradients by the inputs of one norm after another together
    along the residual path, and computes the string again wherever a part of it is needed.
    """
    return x


@_seam.defjvp
def _seam_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return primals[0], jax.lax.optimization_barrier(tangents[0])


class Statistics(NamedTuple):
    """Mean and variance of each group, both float32 (batch, groups)."""

    mean: Float[Array, "batch groups"]
    variance: Float[Array, "batch groups"]


class GroupNorm(nn.Module):
    """Group normalisation, optionally with a scale and shift from outside (Wu & He 2018).

    y = (1 + scale) · (γ (x - μ) / σ + β) + shift. There are `groups` groups, or as many as divide
    both that and the channels. Statistics are float32, from one pass over the distances from an
    entry of the group: those are as large as the group's deviation, however far its mean is from
    zero, so that their mean square less the square of their mean keeps its digits (Chan, Golub &
    LeVeque 1983, "Algorithms for Computing the Sample Variance", Section 2).

    Attributes:
      epsilon: Added to the variance; positive.
      dtype: Of the result.
      groups: The number of groups, where it divides the channels.
    """

    epsilon: float = 1e-5
    dtype: Dtype = "float32"
    groups: int = 32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *sides channels"],
        scale: Float[Array, "batch channels"] | None = None,
        shift: Float[Array, "batch channels"] | None = None,
        statistics: Statistics | None = None,
    ) -> Float[Array, "batch *sides channels"]:
        """Normalises x.

        Args:
          x: An array of (batch, *sides, channels).
          scale: Comes together with `shift` or not at all.
          shift: Likewise.
          statistics: Of the whole that x is a part of; those of x itself if None.
        """
        batch, *sides, channels = x.shape
        groups = math.gcd(self.groups, channels)
        gamma = self.param("scale", nn.initializers.ones, (channels,))
        beta = self.param("bias", nn.initializers.zeros, (channels,))
        axes = tuple(range(1, x.ndim - 1))

        def of_channels(per_group):
            return jnp.repeat(per_group, channels // groups, axis=-1)

        def over_group(per_channel):
            return of_channels(per_channel.reshape(batch, groups, -1).mean(-1))

        def everywhere(per_channel):
            return jnp.expand_dims(per_channel, axes)

        x32 = _seam(x).astype(jnp.float32)
        if statistics is None:
            middle = (slice(None), *(side // 2 for side in sides))
            # The result does not depend on where distances are measured from, nor do its
            # derivatives.
            origin = over_group(jax.lax.stop_gradient(x32[middle]))
            distance = x32 - everywhere(origin)
            # Sums over the sides first: the channels stay contiguous, the groups' part is tiny.
            mean = over_group(distance.mean(axes))
            variance = over_group(jnp.square(distance).mean(axes)) - jnp.square(mean)
        else:
            distance = x32 - everywhere(of_channels(statistics.mean))
            mean, variance = 0.0, of_channels(statistics.variance)
        a = gamma * jax.lax.rsqrt(jnp.maximum(variance, 0.0) + self.epsilon)
        b = beta - mean * a
        if scale is not None and shift is not None:
            a, b = a * (1.0 + scale), b * (1.0 + scale) + shift
        return (distance * everywhere(a) + everywhere(b)).astype(self.dtype)


def layer_norm(
    x: Float[Array, "batch places channels"],
    scale: Float[Array, "batch channels"] | float = 0.0,
    shift: Float[Array, "batch channels"] | float = 0.0,
    *,
    epsilon: float = 1e-6,
    dtype: Dtype = "float32",
) -> Float[Array, "batch places channels"]:
    """Layer normalisation with a scale and shift from outside, (1 + scale) (x - μ) / σ + shift.

    It has no parameters of its own (Ba et al. 2016, "Layer Normalization"; Peebles & Xie 2023,
    "Scalable Diffusion Models with Transformers", Section 3.2). Computed in float32.

    Args:
      x: What is normalised, each place by itself.
      scale: One for all places of an example; 0 for none.
      shift: Likewise.
      epsilon: Added to the variance; positive.
      dtype: Of the result.

    >>> import jax.numpy as jnp, numpy as np
    >>> from cfg_jax.nn import layer_norm
    >>> h = layer_norm(jnp.array([[[1.0, 3.0]]]), shift=jnp.array([[5.0, 5.0]]))
    >>> print(np.asarray(h).round(3))
    [[[4. 6.]]]
    """
    x32 = x.astype(jnp.float32)
    distance = x32 - x32.mean(-1, keepdims=True)
    variance = jnp.square(distance).mean(-1, keepdims=True)
    scale, shift = (jnp.asarray(a)[..., None, :] if jnp.ndim(a) else a for a in (scale, shift))
    h = distance * jax.lax.rsqrt(variance + epsilon)
    return (h * (1.0 + scale) + shift).astype(dtype)
