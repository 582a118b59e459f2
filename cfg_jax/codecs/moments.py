"""A Gaussian of independent entries: what a KL autoencoder makes of each example."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion import noise

LOGVAR = (-30.0, 20.0)
"""What the logarithm of the variance is kept within."""


class Moments(NamedTuple):
    """Mean and log-variance of every entry, float32 (batch, *sides, channels).

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.codecs import Moments
    >>> moments = Moments(jnp.ones((1, 2, 3)), jnp.zeros((1, 2, 3)))
    >>> moments.kl().tolist(), moments.sample(jax.random.key(0)).shape
    ([3.0], (1, 2, 3))
    """

    mean: Float[Array, "batch *sides channels"]
    logvar: Float[Array, "batch *sides channels"]

    @classmethod
    def of(cls, both: Float[Array, "batch *sides both"]) -> "Moments":
        """The two halves of the channels, the log-variance kept within `LOGVAR`."""
        mean, logvar = jnp.split(both.astype(jnp.float32), 2, axis=-1)
        return cls(mean, jnp.clip(logvar, *LOGVAR))

    @property
    def std(self) -> Float[Array, "batch *sides channels"]:
        """The standard deviation."""
        return jnp.exp(0.5 * self.logvar)

    def sample(self, key: jax.Array) -> Float[Array, "batch *sides channels"]:
        """Mean + std · ε.

        Args:
          key: A key, of which example i draws with `fold_in(key, i)`; or one key an example.
        """
        keys = key if key.ndim else noise.examples(key, jnp.arange(len(self.mean)))
        eps = jax.vmap(lambda one: jax.random.normal(one, self.mean.shape[1:]))(keys)
        return self.mean + self.std * eps

    def variance(self) -> Float[Array, ""]:
        """The variance of samples over all entries: Var(mean) + E[std²].

        A codec's scale is one over its root, taken over many examples.
        """
        return jnp.var(self.mean) + jnp.exp(self.logvar).mean()

    def kl(self) -> Float[Array, " batch"]:
        """KL(N(mean, std²) ‖ N(0, 1)) in nats, summed over an example's entries.

        ½ Σ (mean² + std² - 1 - logvar) (Kingma & Welling 2014, "Auto-Encoding Variational Bayes",
        Appendix B).
        """
        entries = jnp.square(self.mean) + jnp.exp(self.logvar) - 1.0 - self.logvar
        return 0.5 * entries.sum(tuple(range(1, self.mean.ndim)))
