"""The Inception network whose features are those of FID: the published graph of 2015-12-05.

It is Inception-v3 (Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer
Vision") with what that graph has of its own, and every FID, KID and Inception score since Heusel et
al. 2017 with it: 1,008 classes, averages over the border that leave its padding out, a maximum in
place of the last block's average, and images resized as TensorFlow 1 did. Layers have the names
under which PyTorch's copies of its weights are spread.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

CLASSES = 1008
SPATIAL_CHANNELS = 7
"""Channels of sFID's map, the first of the seventh mixed block (Nash et al. 2021)."""


class Activations(NamedTuple):
    """What the network finds in a batch of images.

    Attributes:
      pool: (batch, 2048), the mean over the last block: the features of FID and KID.
      spatial: (batch, 2023), 7 channels at 17 × 17 places: the features of sFID.
      logits: (batch, 1008), without the last layer's bias, as the Inception score is computed.
    """

    pool: Float[Array, "batch 2048"]
    spatial: Float[Array, "batch places"]
    logits: Float[Array, "batch 1008"]


class InceptionV3(nn.Module):
    """The Inception network of FID; everything is computed in float32 at the highest precision.

    Attributes:
      size: Side of the square that images are resized to, in pixels, at least 75. The published
        features are those of 299.
    """

    size: int = 299

    @nn.compact
    def __call__(self, images: Num[Array, "batch height width 3"]) -> Activations:
        """The activations of images with values in [0, 255], of any size."""
        x = (resize(images.astype(jnp.float32), self.size) - 128.0) / 128.0
        x = _chain(
            x,
            Conv2d_1a_3x3=(32, 3, 3, 2, "VALID"),
            Conv2d_2a_3x3=(32, 3, 3, 1, "VALID"),
            Conv2d_2b_3x3=(64, 3, 3),
        )
        x = _halved(x)
        x = _chain(x, Conv2d_3b_1x1=(80, 1, 1), Conv2d_4a_3x3=(192, 3, 3, 1, "VALID"))
        x = _halved(x)
        x = _Block(partial(_five, pool=32), name="Mixed_5b")(x)
        x = _Block(partial(_five, pool=64), name="Mixed_5c")(x)
        x = _Block(partial(_five, pool=64), name="Mixed_5d")(x)
        x = _Block(_to_six, name="Mixed_6a")(x)
        x = _Block(partial(_six, width=128), name="Mixed_6b")(x)
        x = _Block(partial(_six, width=160), name="Mixed_6c")(x)
        x = _Block(partial(_six, width=160), name="Mixed_6d")(x)
        spatial = x[..., :SPATIAL_CHANNELS].reshape(len(x), -1)
        x = _Block(partial(_six, width=192), name="Mixed_6e")(x)
        x = _Block(_to_seven, name="Mixed_7a")(x)
        x = _Block(partial(_seven, pool=_average), name="Mixed_7b")(x)
        x = _Block(partial(_seven, pool=_maximum), name="Mixed_7c")(x)
        pool = x.mean((1, 2))
        head = nn.Dense(CLASSES, use_bias=False, precision=jax.lax.Precision.HIGHEST, name="fc")
        return Activations(pool, spatial, head(pool))


def resize(
    images: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch {size} {size} channels"]:
    """Resizes to a square, bilinearly, exactly as TensorFlow 1 does by default.

    Output pixel i lies at i · height / size of the input: corners, not centres, are aligned at the
    top left, and nothing is smoothed before shrinking.
    """
    rows, columns = (_neighbours(n, size) for n in images.shape[1:3])
    return _between(_between(images, *columns, axis=2), *rows, axis=1)


def _neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output pixel, the inputs before and after it and how far it lies between them."""
    places = np.arange(size, dtype=np.float32) * np.float32(length / size)
    before = places.astype(np.int32)
    return before, np.minimum(before + 1, length - 1), places - before.astype(np.float32)


def _between(x: Array, before: np.ndarray, after: np.ndarray, share: np.ndarray, axis: int):
    low, high = jnp.take(x, before, axis), jnp.take(x, after, axis)
    return low + (high - low) * jnp.expand_dims(share, [i for i in range(4) if i != axis])


class _Conv(nn.Module):
    """A convolution, batch normalisation by fixed moments, and the positive part."""

    features: int
    height: int
    width: int
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.Conv(
            self.features,
            (self.height, self.width),
            strides=self.stride,
            padding=self.padding,
            use_bias=False,
            precision=jax.lax.Precision.HIGHEST,
            name="conv",
        )(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(h))


class _Block(nn.Module):
    """Layers under one name."""

    layers: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return self.layers(x)


def _chain(x: Array, **layers: tuple) -> Array:
    """One convolution after the other: name=(features, height, width[, stride, padding])."""
    for name, layer in layers.items():
        x = _Conv(*layer, name=name)(x)
    return x


def _join(*branches: Array) -> Array:
    return jnp.concatenate(branches, axis=-1)


def _halved(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2))


def _average(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


def _maximum(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")


def _five(x: Array, pool: int) -> Array:
    """At 35 × 35 places."""
    return _join(
        _chain(x, branch1x1=(64, 1, 1)),
        _chain(x, branch5x5_1=(48, 1, 1), branch5x5_2=(64, 5, 5)),
        _chain(x, branch3x3dbl_1=(64, 1, 1), branch3x3dbl_2=(96, 3, 3), branch3x3dbl_3=(96, 3, 3)),
        _chain(_average(x), branch_pool=(pool, 1, 1)),
    )


def _to_six(x: Array) -> Array:
    """From 35 × 35 to 17 × 17 places."""
    return _join(
        _chain(x, branch3x3=(384, 3, 3, 2, "VALID")),
        _chain(
            x,
            branch3x3dbl_1=(64, 1, 1),
            branch3x3dbl_2=(96, 3, 3),
            branch3x3dbl_3=(96, 3, 3, 2, "VALID"),
        ),
        _halved(x),
    )


def _six(x: Array, width: int) -> Array:
    """At 17 × 17 places."""
    return _join(
        _chain(x, branch1x1=(192, 1, 1)),
        _chain(x, branch7x7_1=(width, 1, 1), branch7x7_2=(width, 1, 7), branch7x7_3=(192, 7, 1)),
        _chain(
            x,
            branch7x7dbl_1=(width, 1, 1),
            branch7x7dbl_2=(width, 7, 1),
            branch7x7dbl_3=(width, 1, 7),
            branch7x7dbl_4=(width, 7, 1),
            branch7x7dbl_5=(192, 1, 7),
        ),
        _chain(_average(x), branch_pool=(192, 1, 1)),
    )


def _to_seven(x: Array) -> Array:
    """From 17 × 17 to 8 × 8 places."""
    return _join(
        _chain(x, branch3x3_1=(192, 1, 1), branch3x3_2=(320, 3, 3, 2, "VALID")),
        _chain(
            x,
            branch7x7x3_1=(192, 1, 1),
            branch7x7x3_2=(192, 1, 7),
            branch7x7x3_3=(192, 7, 1),
            branch7x7x3_4=(192, 3, 3, 2, "VALID"),
        ),
        _halved(x),
    )


def _seven(x: Array, pool: Callable[[Array], Array]) -> Array:
    """At 8 × 8 places."""
    single = _chain(x, branch3x3_1=(384, 1, 1))
    double = _chain(x, branch3x3dbl_1=(448, 1, 1), branch3x3dbl_2=(384, 3, 3))
    return _join(
        _chain(x, branch1x1=(320, 1, 1)),
        _chain(single, branch3x3_2a=(384, 1, 3)),
        _chain(single, branch3x3_2b=(384, 3, 1)),
        _chain(double, branch3x3dbl_3a=(384, 1, 3)),
        _chain(double, branch3x3dbl_3b=(384, 3, 1)),
        _chain(pool(x), branch_pool=(192, 1, 1)),
    )
