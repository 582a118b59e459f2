"""The noisy classifier of Dhariwal & Nichol (2021): p(c|z_λ) at every noise level.

The downward half of the U-Net with its middle, then attention pooling to the logits ("Diffusion
Models Beat GANs on Image Synthesis", Section 4 and Appendix I). Its gradient in z guides a
denoiser, see `guidance.classifier`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from cfg_jax.diffusion.objective import label_log_prob
from cfg_jax.networks.blocks import Levels
from cfg_jax.nn.layers import AttentionPool, GroupNorm


class Encoder(Levels):
    """Logits of p(c|z_λ), for images of the one size it was initialised with.

    The attributes are those of `blocks.Levels`; heads have head_channels channels in the pooling
    too.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.networks.encoder import Encoder
    >>> net = Encoder(channels=8, channel_mult=(1, 2), blocks=1, attention_resolutions=(4,),
    ...               head_channels=8, num_classes=10)
    >>> z, logsnr = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)
    >>> params = net.init(jax.random.key(0), z, logsnr)
    >>> net.apply(params, z, logsnr).shape
    (2, 10)
    """

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "batch height width channels"],
        logsnr: ArrayLike,
        *,
        train: bool = False,
    ) -> Float[Array, "batch classes"]:
        """Classifies noisy images.

        Args:
          z: z_λ of (batch, height, width, channels).
          logsnr: λ, a scalar or (batch,).
          train: Turns dropout on, which then needs a "dropout" rng.

        Returns:
          Logits of (batch, num_classes), float32.

        Raises:
          ValueError: num_classes is 0, or height or width cannot be halved as often as the levels
            ask.
        """
        if not self.num_classes:
            raise ValueError("the encoder needs num_classes of at least 1, got 0")
        self.check_size(z.shape, "encoder")
        level = jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1])
        h, _ = self.descend(z, nn.silu(self.embed_level(level)), train)
        h = nn.silu(GroupNorm(dtype=self.dtype, name="output_norm")(h))
        pool = AttentionPool(self.num_classes, self.head_channels, self.dtype, name="pool")
        return pool(h).astype(jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LogProb:
    """`(z, logsnr, cond) -> log p(c|z_λ)` of a noisy classifier, as `guidance.classifier` wants it.

    Attributes:
      network: `(z, logsnr) -> logits`, the Flax module.
      params: Its variables.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.networks.encoder import Encoder, LogProb
    >>> net = Encoder(channels=8, channel_mult=(1,), blocks=1, head_channels=8, num_classes=10)
    >>> z = jnp.ones((2, 8, 8, 1))
    >>> log_prob = LogProb(network=net, params=net.init(jax.random.key(0), z, 0.0))
    >>> log_prob(z, 0.0, jnp.array([3, 7])).shape
    (2,)
    """

    network: Any = dataclasses.field(metadata={"static": True})
    params: Any

    def __call__(
        self, z: Float[Array, "batch ..."], logsnr: ArrayLike, cond: Int[Array, " batch"]
    ) -> Float[Array, " batch"]:
        """The log-probability of each example's own label."""
        return label_log_prob(self.network.apply(self.params, z, logsnr), cond)
