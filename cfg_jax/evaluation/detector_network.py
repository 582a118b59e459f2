"""A small convolutional network that says what stands in each cell of a scene.

Scenes are grids of cells, and a digit fills one (see `data.scenes`): so each cell is looked at by
itself, and what stands beside it cannot mislead. Each stage is a 3×3 convolution and a
pre-activated residual one.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.data.scenes import DIGIT_SIDE
from cfg_jax.nn import Conv, GroupNorm


class Cells(NamedTuple):
    """What each cell says.

    Attributes:
      there: Logits of whether there is a digit.
      digit: Logits of the digits.
      colour: Logits of the colours.
      features: The layer that all of these are read from.
    """

    there: Float[Array, "batch rows columns"]
    digit: Float[Array, "batch rows columns digits"]
    colour: Float[Array, "batch rows columns colours"]
    features: Float[Array, "batch rows columns features"]


class Detector(nn.Module):
    """Reads the cells of pictures whose sides are multiples of a digit's.

    Attributes:
      digits: How many digits there are.
      colours: How many colours there are.
      channels: Channels of the first stage; the second has twice as many, the last four times.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.evaluation.detector_network import Detector
    >>> net, x = Detector(digits=10, colours=6, channels=8), jnp.zeros((2, 32, 24, 3))
    >>> net.apply(net.init(jax.random.key(0), x), x).digit.shape
    (2, 4, 3, 10)
    """

    digits: int
    colours: int
    channels: int = 16

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Cells:
        """What each cell of pictures in [-1, 1] says, float32."""
        side, width = DIGIT_SIDE, self.channels
        batch, rows, columns = x.shape[0], x.shape[1] // side, x.shape[2] // side
        h = x.reshape(batch, rows, side, columns, side, -1).swapaxes(2, 3)
        h = h.reshape(-1, side, side, x.shape[-1])
        h = nn.silu(Conv(width)(jnp.concatenate([h, h.max(-1, keepdims=True)], -1)))
        h = self._stage(h, 2 * width)
        h = self._stage(h, 4 * width)
        h = nn.silu(GroupNorm()(h)).reshape(batch, rows, columns, -1)
        h = nn.silu(nn.Dense(4 * width)(h))
        said = nn.Dense(1 + self.digits + self.colours)(h)
        there, digit, colour = jnp.split(said, (1, 1 + self.digits), axis=-1)
        return Cells(there[..., 0], digit, colour, h)

    def _stage(self, h: Array, channels: int) -> Array:
        h = Conv(channels, stride=2)(h)
        return h + Conv(channels)(nn.silu(GroupNorm()(h)))
