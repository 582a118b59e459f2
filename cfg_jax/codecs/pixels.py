"""The trivial codec: z is the data itself."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixels:
    """Diffusion of the data as they are, in [-1, 1].

    >>> import jax.numpy as jnp
    >>> from cfg_jax.codecs import Pixels
    >>> Pixels().encode(jnp.ones((1, 2, 2, 3))).shape, Pixels().bound
    ((1, 2, 2, 3), 1.0)
    """

    bound = 1.0

    def encode(self, x):
        """The data."""
        return x

    def decode(self, z):
        """The data."""
        return z
