"""A network and its parameters as one function."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Applied:
    """`(z, logsnr, cond) -> prediction`: a network, shown those entries of c that it takes.

    Attributes:
      network: The Flax module.
      params: Its variables.
    """

    network: Any = dataclasses.field(metadata={"static": True})
    params: Any

    def __call__(self, z: Float[Array, "batch ..."], logsnr: ArrayLike, cond: Any) -> Any:
        """Returns what the network says: an array of z's shape, or a `parts.Prediction`."""
        shown = {name: (cond or {})[name] for name in self.network.takes}
        levels = jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1])
        return self.network.apply(self.params, z, levels, shown)
