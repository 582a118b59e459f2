"""Group normalisation."""

import math

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


class GroupNorm(nn.Module):
    """Group normalisation, optionally with a scale and shift from outside (Wu & He 2018).

    y = (1 + scale) · (γ (x - μ) / σ + β) + shift. There are 32 groups, or as many as divide both 32
    and the channels. Statistics are float32, from one pass over the distances from an entry of the
    group: those are as large as the group's deviation, however far its mean is from zero, so that
    their mean square less the square of their mean keeps its digits (Chan, Golub & LeVeque 1983,
    "Algorithms for Computing the Sample Variance", Section 2).

    Attributes:
      epsilon: Added to the variance; positive.
      dtype: Of the result.
    """

    epsilon: float = 1e-5
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *sides channels"],
        scale: Float[Array, "batch channels"] | None = None,
        shift: Float[Array, "batch channels"] | None = None,
    ) -> Float[Array, "batch *sides channels"]:
        """Normalises x; `scale` and `shift` come together or not at all."""
        batch, *sides, channels = x.shape
        groups = math.gcd(32, channels)
        gamma = self.param("scale", nn.initializers.ones, (channels,))
        beta = self.param("bias", nn.initializers.zeros, (channels,))
        axes = tuple(range(1, x.ndim - 1))

        def over_group(per_channel):
            mean = per_channel.reshape(batch, groups, -1).mean(-1)
            return jnp.repeat(mean, channels // groups, axis=-1)

        def everywhere(per_channel):
            return jnp.expand_dims(per_channel, axes)

        x32 = _seam(x).astype(jnp.float32)
        middle = (slice(None), *(side // 2 for side in sides))
        # The result does not depend on where distances are measured from, nor do its derivatives.
        origin = over_group(jax.lax.stop_gradient(x32[middle]))
        distance = x32 - everywhere(origin)
        # Sums over the sides first: the channels stay contiguous, and the groups' part is tiny.
        mean = over_group(distance.mean(axes))
        variance = over_group(jnp.square(distance).mean(axes)) - jnp.square(mean)
        a = gamma * jax.lax.rsqrt(jnp.maximum(variance, 0.0) + self.epsilon)
        b = beta - mean * a
        if scale is not None and shift is not None:
            a, b = a * (1.0 + scale), b * (1.0 + scale) + shift
        return (distance * everywhere(a) + everywhere(b)).astype(self.dtype)
