"""Neighbours folded into channels: long sounds and large pictures made short and deep."""

import dataclasses
import itertools

import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folded:
    """Every side divided by `factor`, its neighbours side by side as channels.

    (batch, length, c) becomes (batch, length / factor, factor · c); a picture's channels grow by
    factor². `decode` is the exact inverse.

    Attributes:
      factor: How many neighbours along each side make one place, from 1 to 65,536.

    Raises:
      ValueError: factor is out of its range. When called: a side is no multiple of it.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.codecs import Folded
    >>> x = jnp.arange(8.0).reshape(1, 8, 1)
    >>> z = Folded(factor=4).encode(x)
    >>> z.shape, bool((Folded(factor=4).decode(z) == x).all())
    ((1, 2, 4), True)
    """

    factor: int = 8
    bound = 1.0

    def __post_init__(self):
        checks.whole("factor", self.factor, 1, 65_536)

    def encode(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """Folds."""
        batch, *sides, channels = x.shape
        if any(side % self.factor for side in sides):
            raise ValueError(
                f"Folded wants sides that are multiples of {self.factor}, got {tuple(sides)}"
            )
        apart = [(side // self.factor, self.factor) for side in sides]
        h = x.reshape(batch, *itertools.chain(*apart), channels)
        count = len(sides)
        places, within = range(1, 2 * count, 2), range(2, 2 * count + 1, 2)
        h = jnp.transpose(h, (0, *places, *within, 2 * count + 1))
        return h.reshape(batch, *(side for side, _ in apart), -1)

    def decode(self, z: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """Unfolds."""
        batch, *sides, deep = z.shape
        count = len(sides)
        h = z.reshape(batch, *sides, *(self.factor,) * count, deep // self.factor**count)
        order = itertools.chain(*((1 + i, 1 + count + i) for i in range(count)))
        h = jnp.transpose(h, (0, *order, 2 * count + 1))
        return h.reshape(batch, *(side * self.factor for side in sides), -1)
