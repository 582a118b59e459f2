"""A small convolutional network that finds the digits of a scene, and their colours.

It looks at a scene as a grid of cells of 4×4 pixels, after CenterNet (Zhou et al. 2019, "Objects as
Points"): each cell says how near the centre of a digit is, which digit in which colour that is, and
where exactly. Each stage is a 3×3 convolution and a pre-activated residual one.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.nn import Conv, GroupNorm

CELL = 4
"""Height and width of a cell, in pixels."""


class Cells(NamedTuple):
    """What each cell says.

    Attributes:
      near: Logits of how near the centre of a digit is: 1 at the cell's own centre, 0 far away.
      digit: Logits of the digits.
      colour: Logits of the colours.
      offset: Rows and columns from the cell's centre to the digit's, in cells.
      features: The layer that all of these are read from.
    """

    near: Float[Array, "batch rows columns"]
    digit: Float[Array, "batch rows columns digits"]
    colour: Float[Array, "batch rows columns colours"]
    offset: Float[Array, "batch rows columns 2"]
    features: Float[Array, "batch rows columns features"]


class Detector(nn.Module):
    """Finds digits in pictures whose sides are multiples of 4.

    Attributes:
      digits: How many digits there are.
      colours: How many colours there are.
      channels: Channels of the first stage; the second has twice as many, the last four times.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.evaluation.detector_network import Detector
    >>> net, x = Detector(digits=10, colours=6, channels=8), jnp.zeros((2, 32, 32, 3))
    >>> net.apply(net.init(jax.random.key(0), x), x).digit.shape
    (2, 8, 8, 10)
    """

    digits: int
    colours: int
    channels: int = 16

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Cells:
        """What each cell of pictures in [-1, 1] says, float32."""
        width = self.channels
        h = nn.silu(Conv(width)(jnp.concatenate([x, x.max(-1, keepdims=True)], -1)))
        h = self._stage(h, 2 * width)
        h = self._stage(h, 4 * width)
        h = h + Conv(4 * width)(nn.silu(GroupNorm()(h)))
        h = nn.silu(GroupNorm()(h))
        said = nn.Dense(self.digits + self.colours + 3)(h)
        near, offset, digit, colour = jnp.split(said, (1, 3, 3 + self.digits), axis=-1)
        return Cells(near[..., 0], digit, colour, offset, h)

    def _stage(self, h: Array, channels: int) -> Array:
        h = Conv(channels, stride=2)(h)
        return h + Conv(channels)(nn.silu(GroupNorm()(h)))
