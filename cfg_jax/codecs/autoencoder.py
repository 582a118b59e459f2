"""Latent diffusion's autoencoders: z is a small array that stands for large data.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", Section 3.1 and
Appendix G: either with Gaussian latents, kept near N(0, 1) by a KL term, or with a codebook.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cfg_jax.codecs.coders import Coder, Decoder, Encoder
from cfg_jax.codecs.moments import Moments
from cfg_jax.codecs.quantise import Quantised, nearest, quantise
from cfg_jax.diffusion import checks
from cfg_jax.networks.base import MOST_CHANNELS, SIDES
from cfg_jax.nn import Conv, space_axes

Factors = float | tuple[float, ...]
"""One number, or one a channel of z."""


class Coded(NamedTuple):
    """An autoencoder's output in training.

    Attributes:
      x: The data as they come back.
      latents: What lies between: `Moments` of a KL, `Quantised` of a VQ.
    """

    x: Float[Array, "batch *sides channels"]
    latents: Any


class Autoencoder(Coder):
    """Encoder and decoder, and z between them at a scale that diffusion works at; a base.

    Data are (batch, length, channels), (batch, height, width, channels) or (batch, frames, height,
    width, channels) in [-1, 1]; z has the sides of space divided by `factor`, and frames as many as
    the data. With ẑ for what the decoder decodes, z = (ẑ - shift) · scale and ẑ = z / scale +
    shift.

    Attributes:
      latent_channels: Channels of ẑ, from 1 to 65,536.
      data_channels: Channels of the data, from 1 to 65,536.
      scale: One over the standard deviation of ẑ, one number or one a channel: 0.18215 for Stable
        Diffusion 1 and 2, 0.13025 for XL, 0.3611 for FLUX.
      shift: The mean of ẑ, one number or one a channel: 0.1159 for FLUX.

    The other attributes are those of `coders.Coder`.
    """

    latent_channels: int = 4
    data_channels: int = 3
    scale: Factors = 1.0
    shift: Factors = 0.0

    bound = None

    def __post_init__(self):
        checks.whole("latent_channels", self.latent_channels, 1, MOST_CHANNELS)
        checks.whole("data_channels", self.data_channels, 1, MOST_CHANNELS)
        self.scale = _each("scale", self.scale, self.z_channels, 0.0)
        self.shift = _each("shift", self.shift, self.z_channels)
        super().__post_init__()

    @property
    def z_channels(self) -> int:
        """Channels of z."""
        return self.latent_channels

    @nn.nowrap
    def shapes(self, shape: tuple[int, ...]) -> Any:
        """The shapes of its variables, for examples of (*sides, channels).

        Raises:
          ValueError: It cannot code that size.
        """
        x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        return jax.eval_shape(self.init, jax.random.key(0), x)

    @nn.nowrap
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where examples of (*sides, channels) cannot be coded."""
        who, f = f"the {type(self).__name__} autoencoder", self.factor
        if len(shape) - 1 not in SIDES or shape[-1] != self.data_channels:
            raise ValueError(
                f"{who} takes (length, channels), (height, width, channels) or (frames, height, "
                f"width, channels) with {self.data_channels} channels; got {shape}"
            )
        sides = [shape[axis - 1] for axis in space_axes(len(shape) + 1)]
        if any(side % f or not side for side in sides):
            lower = "×".join(str(max(side // f, 1) * f) for side in sides)
            upper = "×".join(str(max(-(-side // f), 1) * f) for side in sides)
            near = lower if lower == upper else f"{lower} or {upper}"
            raise ValueError(
                f"{who} divides {SIDES[len(shape) - 1]} by {f} and takes multiples of it: not "
                f"{'×'.join(map(str, sides))}, but {near}"
            )

    @nn.nowrap
    def scaled(self, latents: Float[Array, "batch *sides _"]) -> Float[Array, "batch *sides _"]:
        """Z of ẑ."""
        return (latents - jnp.asarray(self.shift)) * jnp.asarray(self.scale)

    @nn.nowrap
    def unscaled(self, z: Float[Array, "batch *sides _"]) -> Float[Array, "batch *sides _"]:
        """ẑ of z."""
        return z / jnp.asarray(self.scale) + jnp.asarray(self.shift)

    def decode(self, z: Float[Array, "batch *sides _"]) -> Float[Array, "batch *_ channels"]:
        """The data of z, float32, not clipped."""
        return self.finish(self.begin(z, 1), 1)

    def begin(self, z: Float[Array, "batch *sides _"], levels: int) -> Float[Array, "batch *_ _"]:
        """The first part of `decode`, with so many levels of the decoder, at least one."""
        return self.decoder.begin(self.decoded(self.unscaled(z)), levels)

    def finish(
        self, h: Float[Array, "batch *sides _"], levels: int
    ) -> Float[Array, "batch *_ channels"]:
        """What follows upon `begin`."""
        return self.decoder.finish(h, levels)

    def decoded(self, latents: Float[Array, "batch *sides _"]) -> Float[Array, "batch *sides _"]:
        """What the decoder is given of ẑ."""
        raise NotImplementedError


class KL(Autoencoder):
    """An autoencoder with Gaussian latents ẑ ~ N(mean(x), std(x)²).

    `moments` gives mean and log-variance, `sample` a z of them; `encode` is z at the mean.
    `__call__` is for training: data → moments → a sample, or the mean without a key → data.

    Attributes:
      quant_conv: Whether a convolution of one entry follows the encoder.
      post_quant_conv: Whether one stands before the decoder.

    The other attributes are those of `Autoencoder` and `coders.Coder`.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.codecs import KL
    >>> codec = KL(channels=8, channel_mult=(1, 2), blocks=1, latent_channels=2, scale=0.5)
    >>> x = jnp.zeros((1, 8, 4, 3))
    >>> params = codec.init(jax.random.key(0), x)
    >>> z = codec.apply(params, x, method=codec.encode)
    >>> z.shape, codec.apply(params, z, method=codec.decode).shape
    ((1, 4, 2, 2), (1, 8, 4, 3))
    """

    quant_conv: bool = True
    post_quant_conv: bool = True

    def __post_init__(self):
        checks.truth("quant_conv", self.quant_conv)
        checks.truth("post_quant_conv", self.post_quant_conv)
        super().__post_init__()

    def setup(self):
        """Names the parts."""
        both = 2 * self.latent_channels
        self.encoder = Encoder(**self.shared, outputs=both)
        self.decoder = Decoder(**self.shared, outputs=self.data_channels)
        if self.quant_conv:
            self.quant = Conv(both, size=1)
        if self.post_quant_conv:
            self.post_quant = Conv(self.latent_channels, size=1)

    def __call__(
        self,
        x: Float[Array, "batch *sides channels"],
        key: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> Coded:
        """Encodes and decodes.

        Args:
          x: Data.
          key: Of the sample, as `Moments.sample` takes it; None to decode the mean.
          train: Turns dropout on, which then needs a "dropout" rng.

        Raises:
          ValueError: A side of space is no multiple of `factor`.
        """
        moments = self.moments(x, train=train)
        latents = moments.mean if key is None else moments.sample(key)
        h = self.decoder(self.decoded(latents), train)
        return Coded(h, moments)

    def moments(self, x: Float[Array, "batch *sides channels"], *, train: bool = False) -> Moments:
        """Mean and log-variance of ẑ.

        Raises:
          ValueError: A side of space is no multiple of `factor`.
        """
        self.check(x.shape[1:])
        h = self.encoder(x, train)
        return Moments.of(self.quant(h) if self.quant_conv else h)

    @nn.nowrap
    def sample(self, moments: Moments, key: jax.Array) -> Float[Array, "batch *sides _"]:
        """A z of the moments of ẑ; for the key see `Moments.sample`."""
        return self.scaled(moments.sample(key))

    def encode(self, x: Float[Array, "batch *sides channels"]) -> Float[Array, "batch *_ _"]:
        """Z at the mean.

        Raises:
          ValueError: A side of space is no multiple of `factor`.
        """
        return self.scaled(self.moments(x).mean)

    def decoded(self, latents: Float[Array, "batch *sides _"]) -> Float[Array, "batch *sides _"]:
        """What the decoder is given of ẑ."""
        return self.post_quant(latents) if self.post_quant_conv else latents


class VQ(Autoencoder):
    """An autoencoder with a codebook: the decoder sees, of each vector of ẑ, the nearest code.

    `encode` gives z *before* quantisation and `decode` quantises, so that diffusion's own errors
    are rounded away; `codes` gives the codes' numbers, `from_codes` decodes them. `__call__` is for
    training.

    Attributes:
      entries: The number of codes, from 1 to 16,777,216.
      code_channels: Channels of a code and of z; None for latent_channels, those of the encoder.
      beta: Weight of the commitment loss, at least 0; see `quantise.quantise`.
      swapped: Whether β lies on the other term, as in the published models.

    The other attributes are those of `Autoencoder` and `coders.Coder`.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.codecs import VQ
    >>> codec = VQ(channels=8, channel_mult=(1, 2), blocks=1, latent_channels=2, entries=5)
    >>> x = jnp.zeros((1, 8, 4, 3))
    >>> params = codec.init(jax.random.key(0), x)
    >>> codes = codec.apply(params, x, method=codec.codes)
    >>> codes.shape, codec.apply(params, codes, method=codec.from_codes).shape
    ((1, 4, 2), (1, 8, 4, 3))
    """

    latent_channels: int = 3
    entries: int = 8192
    code_channels: int | None = None
    beta: float = 0.25
    swapped: bool = False

    def __post_init__(self):
        checks.whole("entries", self.entries, 1, 2**24)
        if self.code_channels is not None:
            checks.whole("code_channels", self.code_channels, 1, MOST_CHANNELS)
        checks.number("beta", self.beta, 0.0)
        checks.truth("swapped", self.swapped)
        super().__post_init__()

    @property
    def z_channels(self) -> int:
        """Channels of z."""
        return self.code_channels or self.latent_channels

    def setup(self):
        """Names the parts."""
        self.encoder = Encoder(**self.shared, outputs=self.latent_channels)
        self.decoder = Decoder(**self.shared, outputs=self.data_channels)
        self.quant = Conv(self.z_channels, size=1)
        self.post_quant = Conv(self.latent_channels, size=1)
        near = nn.initializers.uniform(2.0 / self.entries)

        def around_zero(*args):
            return near(*args) - 1.0 / self.entries

        self.codebook = self.param("codebook", around_zero, (self.entries, self.z_channels))

    def __call__(self, x: Float[Array, "batch *sides channels"], *, train: bool = False) -> Coded:
        """Encodes, quantises and decodes; `train` turns dropout on, which needs a "dropout" rng.

        Raises:
          ValueError: A side of space is no multiple of `factor`.
        """
        found = self.quantised(self.latents(x, train=train))
        return Coded(self.decoder(self.post_quant(found.vectors), train), found)

    def latents(
        self, x: Float[Array, "batch *sides channels"], *, train: bool = False
    ) -> Float[Array, "batch *_ _"]:
        """ẑ, before quantisation, float32.

        Raises:
          ValueError: A side of space is no multiple of `factor`.
        """
        self.check(x.shape[1:])
        return self.quant(self.encoder(x, train))

    def encode(self, x: Float[Array, "batch *sides channels"]) -> Float[Array, "batch *_ _"]:
        """Z, before quantisation.

        Raises:
          ValueError: A side of space is no multiple of `factor`.
        """
        return self.scaled(self.latents(x))

    def quantised(self, latents: Float[Array, "batch *sides _"]) -> Quantised:
        """The codes of ẑ."""
        return quantise(self.codebook, latents, beta=self.beta, swapped=self.swapped)

    def codes(self, x: Float[Array, "batch *sides channels"]) -> Int[Array, "batch *_"]:
        """The codes' numbers, int32.

        Raises:
          ValueError: A side of space is no multiple of `factor`.
        """
        return nearest(self.codebook, self.latents(x))

    def from_codes(self, codes: Int[Array, "batch *sides"]) -> Float[Array, "batch *_ channels"]:
        """The data of codes, float32."""
        return self.decoder(self.post_quant(self.codebook[codes]))

    def decoded(self, latents: Float[Array, "batch *sides _"]) -> Float[Array, "batch *sides _"]:
        """What the decoder is given of ẑ."""
        return self.post_quant(self.quantised(latents).vectors)


def _each(name: str, value: Any, channels: int, above: float = -math.inf) -> Factors:
    """A number or one a channel, checked; above 0 where `above` is."""
    many = isinstance(value, (tuple, list))
    if many and len(value) != channels:
        raise ValueError(f"{name} must be one number or {channels}, one a channel; got {value!r}")
    for number in value if many else (value,):
        checks.number(name, number, above, ends="(]")
    return tuple(value) if many else value
