"""A network and its parameters as one function."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError
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
          ValueError: The condition is no dictionary, or an entry is missing; logsnr is not one an
            example; or the parameters are not for z of such a shape.
        """
        takes = self.network.takes
        if takes and not (isinstance(cond, Mapping) and set(takes) <= set(cond)):
            got = ", ".join(map(str, cond)) if isinstance(cond, Mapping) else checks.told(cond)
            raise ValueError(
                f"cond must be a dictionary of entries by name, {', '.join(takes)}; got {got}"
            )
        shown = {name: cond[name] for name in takes}
        levels = jnp.asarray(logsnr)
        if levels.size not in (1, z.shape[0]) or levels.ndim > 1:
            raise ValueError(
                f"logsnr must be a scalar or of shape ({z.shape[0]},), one an example, "
                f"got shape {levels.shape}"
            )
        try:
            return self.network.apply(self.params, z, jnp.broadcast_to(levels, z.shape[:1]), shown)
        except ScopeParamShapeError as error:
            raise ValueError(
                f"the network's parameters are not for z of shape {z.shape}: {error}"
            ) from error
