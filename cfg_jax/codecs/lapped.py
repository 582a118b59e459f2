"""Sounds as a spectrum over time, from which they come back exactly."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lapped:
    """The modified discrete cosine transform of a sound, its loud parts compressed.

        X_mk = √(2/N) Σ_n w_n x_{mN+n} cos(π/N (n + ½ + N/2) (k + ½)),   w_n = sin(π/2N (n + ½))
        z    = scale · sign(X) |X|^power

    over n from 0 to 2N - 1, the sound's end followed by its beginning (Princen, Johnson & Bradley
    1987, "Subband/Transform Coding Using Filter Bank Designs Based on Time Domain Aliasing
    Cancellation"). (batch, length, c) becomes (batch, length / N, N · c): a place in z is a moment,
    its channels are frequencies from low to high. X has the sound's own energy. A power below 1
    brings out the quiet parts, which hold most of a voice (Richter et al. 2023, "Speech Enhancement
    and Dereverberation with Diffusion-Based Generative Models", Equation 15, has 0.5). `decode` is
    the exact inverse.

    Attributes:
      bins: N, how many frequencies, and samples from one moment to the next; from 1 to 65,536.
      power: Above 0, at most 1.
      scale: Positive; what brings z to a standard deviation of about 1.

    Raises:
      ValueError: A field is out of its range. When called: x is no sound, or its length no multiple
        of bins.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.codecs import Lapped
    >>> x = jax.random.normal(jax.random.key(0), (1, 64, 1))
    >>> codec = Lapped(bins=16)
    >>> codec.encode(x).shape, bool(jnp.allclose(codec.decode(codec.encode(x)), x, atol=1e-5))
    ((1, 4, 16), True)
    """

    bins: int = 64
    power: float = 0.5
    scale: float = 1.0
    bound = None

    def __post_init__(self):
        checks.whole("bins", self.bins, 1, 65_536)
        checks.number("power", self.power, 0.0, 1.0, ends="(]")
        checks.number("scale", self.scale, 0.0, ends="()")

    def encode(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch moments deep"]:
        """The compressed spectrum."""
        if x.ndim != 3 or x.shape[1] % self.bins:
            raise ValueError(
                f"Lapped wants sounds (length, channels) of a length that {self.bins} divides, "
                f"got {tuple(x.shape[1:])}"
            )
        batch, length, channels = x.shape
        here = x.reshape(batch, length // self.bins, self.bins, channels)
        both = jnp.concatenate([here, jnp.roll(here, -1, axis=1)], axis=2)
        spectrum = jnp.einsum("bmnc,nk->bmkc", both, self._waves())
        z = self.scale * jnp.sign(spectrum) * jnp.abs(spectrum) ** self.power
        return z.reshape(batch, length // self.bins, -1)

    def decode(self, z: Float[Array, "batch moments deep"]) -> Float[Array, "batch length c"]:
        """The sound of a compressed spectrum."""
        batch, moments, _ = z.shape
        z = z.reshape(batch, moments, self.bins, -1) / self.scale
        spectrum = jnp.sign(z) * jnp.abs(z) ** (1.0 / self.power)
        both = jnp.einsum("bmkc,nk->bmnc", spectrum, self._waves())
        first, second = jnp.split(both, 2, axis=2)
        x = first + jnp.roll(second, 1, axis=1)
        return x.reshape(batch, moments * self.bins, -1)

    def _waves(self) -> Float[np.ndarray, "both bins"]:
        """The windowed cosines."""
        n, k = np.arange(2 * self.bins)[:, None] + 0.5, np.arange(self.bins) + 0.5
        window = np.sin(np.pi / (2 * self.bins) * n)
        waves = window * np.cos(np.pi / self.bins * (n + self.bins / 2) * k)
        return (np.sqrt(2.0 / self.bins) * waves).astype(np.float32)
