"""The discriminator of patches, which learns to tell data from what an autoencoder makes of them.

Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks", Section 3.2.2
and Appendix 6.1.2.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks
from cfg_jax.networks.base import MOST_BLOCKS, MOST_CHANNELS
from cfg_jax.nn import Dtype, GroupNorm, dtype_name, space_axes


class PatchDiscriminator(nn.Module):
    """A logit for every patch of an example: above 0 for what looks like data.

    Convolutions of four entries a side with leaky ReLUs of slope 0.2, the first `layers` of which
    halve the sides of space; a video is judged frame by frame. The norms are of groups, not of the
    batch, so that no example's logits depend on the others.

    Attributes:
      channels: Channels of the first layer, doubled from layer to layer up to eightfold; from 1 to
        65,536.
      layers: Layers that halve the sides, from 1 to 128: each logit of three sees 70 entries a
        side, of two 34, of one 16.
      dtype: Of the activations: "float32", "bfloat16" or "float16"; the logits are float32.

    Raises:
      ValueError: A field is out of its range. When called: the sides are too small for so many
        layers.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.networks import PatchDiscriminator
    >>> net, x = PatchDiscriminator(channels=8, layers=1), jnp.zeros((2, 16, 16, 3))
    >>> net.apply(net.init(jax.random.key(0), x), x).shape
    (2, 6, 6)
    """

    channels: int = 64
    layers: int = 3
    dtype: Dtype = "float32"

    def __post_init__(self):
        self.dtype = dtype_name(self.dtype)
        checks.whole("channels", self.channels, 1, MOST_CHANNELS)
        checks.whole("layers", self.layers, 1, MOST_BLOCKS)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sides channels"]) -> Float[Array, "batch *patches"]:
        """The logits."""
        sides = [x.shape[axis] for axis in space_axes(x.ndim)]
        if min(sides) < 3 * 2**self.layers:
            raise ValueError(
                f"a PatchDiscriminator of {self.layers} layers needs sides of at least "
                f"{3 * 2**self.layers}, got {'×'.join(map(str, sides))}"
            )
        frames = x.shape[: x.ndim - len(sides) - 1]
        h = x.reshape(-1, *x.shape[len(frames) :]).astype(self.dtype)
        for number in range(self.layers + 2):
            last = number == self.layers + 1
            features = 1 if last else self.channels * min(2**number, 8)
            h = nn.Conv(
                features,
                (4,) * len(sides),
                strides=2 if number < self.layers else 1,
                padding=1,
                dtype=self.dtype,
                name=f"layer_{number}",
            )(h)
            if 0 < number <= self.layers:
                h = GroupNorm(dtype=self.dtype, name=f"norm_{number}")(h)
            h = h if last else nn.leaky_relu(h, 0.2)
        return h.astype(jnp.float32).reshape(*frames, *h.shape[1:-1])
