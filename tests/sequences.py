"""A conditioner that shows labels as sequences with a mask, for tests of networks that attend."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted(parts.Conditioner):
    """A digit as so many equal vectors and one that tells it; the null is the first vector alone.

    Attributes:
      length: Vectors at most.
    """

    length: int = 10
    p_uncond: float = 0.2

    @property
    def inlet(self):
        return parts.Sequence(self.length, 4, masked=True)

    @property
    def null(self):
        mask = np.arange(self.length) < 1
        return parts.Attended(np.zeros((self.length, 4), np.float32), mask)

    def read(self, params, batch, x):
        return self.given(batch["label"])

    def given(self, value, params=None):
        digit = jnp.asarray(value, jnp.int32)[:, None]
        angles = (digit * jnp.arange(1.0, 5.0))[:, None]
        vectors = jnp.sin(angles + jnp.arange(self.length)[:, None])
        return parts.Attended(
            vectors, jnp.arange(self.length) <= jax.numpy.minimum(digit, self.length - 1)
        )

    def lend(self, examples, x):
        return [int(example["label"]) for example in examples]
