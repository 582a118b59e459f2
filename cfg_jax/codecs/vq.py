"""The autoencoder with a codebook."""

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from cfg_jax.codecs.autoencoder import Autoencoder, Coded, Factors
from cfg_jax.codecs.coders import Decoder, Encoder
from cfg_jax.codecs.quantise import Quantised, nearest, quantise
from cfg_jax.diffusion import checks
from cfg_jax.networks.base import MOST_CHANNELS
from cfg_jax.nn import Conv


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
    scale: Factors | None = 1.0
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

    def __call__(
        self,
        x: Float[Array, "batch *sides channels"],
        key: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> Coded:
        """Encodes, quantises and decodes.

        Args:
          x: Data.
          key: Nothing here is random.
          train: Turns dropout on, which then needs a "dropout" rng.

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

    def described(self, x: Float[Array, "batch *sides channels"]) -> Float[Array, "batch *_ _"]:
        """ẑ, before quantisation."""
        return self.latents(x)

    def drawn(
        self, described: Float[Array, "batch *sides _"], keys: jax.Array
    ) -> Float[Array, "batch *sides _"]:
        """A z for training of what `described` returned; nothing is random here."""
        return self.scaled(described)

    @staticmethod
    def spread(described: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `described` tells of each example's ẑ: its mean and variance, in float64."""
        mean = np.asarray(described, np.float64)
        return mean, np.zeros_like(mean)

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
