"""A small convolutional classifier of clean images, whose penultimate layer serves as features.

Each stage is a 3×3 convolution and a pre-activated residual one (He et al. 2016, "Identity Mappings
in Deep Residual Networks"). Between stages the image is halved, until its shorter side is at most
4; the mean over what is left goes through one dense layer to the features.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.nn import Conv, Dtype, GroupNorm

SMALLEST_SIDE = 8


class Classifier(nn.Module):
    """p(y|x) of images of any height and width from 8 up, and any number of channels.

    Attributes:
      num_classes: The number of classes.
      channels: Channels of the first stage; each later stage has twice as many, at most four times.
      features: Length of the feature vector.
      dtype: Of the activations; parameters and the results are float32.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.evaluation.scorer import Classifier
    >>> net, x = Classifier(num_classes=10), jnp.zeros((2, 8, 8, 1))
    >>> logits, features = net.apply(net.init(jax.random.key(0), x), x)
    >>> logits.shape, features.shape
    ((2, 10), (2, 64))
    """

    num_classes: int
    channels: int = 32
    features: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch features"]]:
        """Classifies clean images.

        Args:
          x: Images of (batch, height, width, channels) in [-1, 1].

        Returns:
          Logits of (batch, num_classes) and the penultimate layer of (batch, features), float32.

        Raises:
          ValueError: Height or width is below 8.
        """
        if min(x.shape[1:3]) < SMALLEST_SIDE:
            raise ValueError(
                f"the classifier needs images of at least {SMALLEST_SIDE}×{SMALLEST_SIDE}, "
                f"got {x.shape[1]}×{x.shape[2]}"
            )
        width = self.channels
        h = self._stage(x.astype(self.dtype), width)
        while min(h.shape[1:3]) > SMALLEST_SIDE // 2:
            width = min(2 * width, 4 * self.channels)
            h = self._stage(nn.max_pool(h, (2, 2), strides=(2, 2), padding="SAME"), width)
        pooled = h.astype(jnp.float32).mean((1, 2))
        features = nn.silu(nn.Dense(self.features)(pooled))
        return nn.Dense(self.num_classes)(features), features

    def _stage(self, h: Array, channels: int) -> Array:
        h = Conv(channels, dtype=self.dtype)(h)
        residual = nn.silu(GroupNorm(dtype=self.dtype)(h))
        return h + Conv(channels, dtype=self.dtype)(residual)
