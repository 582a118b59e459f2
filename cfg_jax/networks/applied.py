"""A network and its parameters as one function."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks


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
        """Returns what the network says: an array of z's shape, or a `parts.Prediction`.

        Raises:
          ValueError: The condition is no dictionary, or an entry is missing.
        """
        takes = self.network.takes
        if takes and not (isinstance(cond, Mapping) and set(takes) <= set(cond)):
            got = ", ".join(map(str, cond)) if isinstance(cond, Mapping) else checks.told(cond)
            raise ValueError(
                f"cond must be a dictionary of entries by name, {', '.join(takes)}; got {got}"
            )
        shown = {name: cond[name] for name in takes}
        levels = jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1])
        return self.network.apply(self.params, z, levels, shown)
