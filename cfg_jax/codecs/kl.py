"""The autoencoder with Gaussian latents."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cfg_jax.codecs.autoencoder import Autoencoder, Coded
from cfg_jax.codecs.coders import Decoder, Encoder
from cfg_jax.codecs.moments import Moments
from cfg_jax.diffusion import checks
from cfg_jax.nn import Conv


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

    def described(self, x: Float[Array, "batch *sides channels"]) -> Float[Array, "batch *_ _"]:
        """The moments of ẑ as one array: the channels of the mean, then of the log-variance."""
        return jnp.concatenate(self.moments(x), axis=-1)

    def drawn(
        self, described: Float[Array, "batch *sides _"], keys: jax.Array
    ) -> Float[Array, "batch *sides _"]:
        """A z for training of what `described` returned."""
        return self.sample(Moments.of(described), keys)

    @staticmethod
    def spread(described: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `described` tells of each example's ẑ: its mean and variance, in float64."""
        mean, logvar = np.split(np.asarray(described, np.float64), 2, axis=-1)
        return mean, np.exp(logvar)

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
