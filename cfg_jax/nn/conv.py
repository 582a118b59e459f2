"""Convolution over one, two or three dimensions."""

import flax.linen as nn
from jaxtyping import Array, Float

from cfg_jax.nn.fields import Dtype
from cfg_jax.nn.resampling import space_axes


class Conv(nn.Module):
    """A convolution that keeps the sides, or divides those of space by its stride.

    That of a video is factorised: over height and width of every frame, then over the frames at
    every place, both of the same size ((2 + 1)-dimensional, Tran et al. 2018, "A Closer Look at
    Spatiotemporal Convolutions for Action Recognition"). With stride 2 the first window is centred
    on the first entry, as in torch with padding 1.

    Attributes:
      features: Channels of the result.
      size: Side of the window; odd.
      stride: By how much the sides of space are divided; frames are kept.
      zero: Whether the result starts at zero.
      dtype: Of the activations.
      ahead: Whether the windows of space begin at what they stand for, and are not centred on it:
        only the far ends are padded.
      patch: Side of the patch of space that each place of the result stands for, `features` an
        entry, see `unpatched`.
    """

    features: int
    size: int = 3
    stride: int = 1
    zero: bool = False
    dtype: Dtype = "float32"
    ahead: bool = False
    patch: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sides _"]) -> Float[Array, "batch *_ features"]:
        """Convolves x."""
        usual = nn.initializers.lecun_normal()
        last = nn.initializers.zeros if self.zero else usual
        over_frames = x.ndim == 5 and self.size > 1
        reach = self.size // 2
        axes = space_axes(x.ndim)
        features = self.features * self.patch ** len(axes)
        around = (0, self.size - self.stride) if self.ahead else (reach, reach)
        h = nn.Conv(
            features,
            (self.size,) * len(axes),
            strides=self.stride,
            padding=(around,) * len(axes),
            kernel_init=usual if over_frames else last,
            dtype=self.dtype,
        )(x)
        if not over_frames:
            return h
        batch, frames, *_ = h.shape
        places = h.reshape(batch, frames, -1, features)
        mixed = nn.Conv(
            features,
            (self.size, 1),
            padding=((reach, reach), (0, 0)),
            kernel_init=last,
            dtype=self.dtype,
        )(places)
        return mixed.reshape(h.shape)
