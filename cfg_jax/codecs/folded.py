"""Neighbours folded into channels: long sounds and large pictures made short and deep."""

import dataclasses

from jaxtyping import Array, Float

from cfg_jax.diffusion import checks
from cfg_jax.nn import folded, unfolded


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
        sides = x.shape[1:-1]
        if any(side % self.factor for side in sides):
            raise ValueError(f"Folded wants sides that are multiples of {self.factor}, got {sides}")
        return folded(x, (self.factor,) * len(sides))

    def decode(self, z: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """Unfolds."""
        return unfolded(z, (self.factor,) * (z.ndim - 2))
