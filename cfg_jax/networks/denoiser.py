"""A network and its parameters as a denoiser."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import prediction
from cfg_jax.diffusion.prediction import Estimate, Kind


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkDenoiser:
    """A network as a denoiser, `(z, logsnr, cond) -> eps`, asked once whatever it says.

    Attributes:
      network: The Flax module.
      params: Its variables.
      kind: What it predicts.
    """

    network: Any = dataclasses.field(metadata={"static": True})
    params: Any
    kind: Kind = dataclasses.field(metadata={"static": True})

    def __call__(
        self, z: Float[Array, "batch ..."], logsnr: ArrayLike, cond: Any
    ) -> Float[Array, "batch ..."] | Estimate:
        """Returns ε̂ of z's shape; the pair, where the network predicts more or something else."""
        shown = {name: (cond or {})[name] for name in self.network.takes}
        scaled = prediction.scaled(z, logsnr=logsnr, kind=self.kind)
        levels = jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1])
        said: Any = self.network.apply(self.params, scaled, levels, shown)
        value, v = getattr(said, "value", said), getattr(said, "v", None)
        if v is None and self.kind is prediction.EPS:
            return value
        return prediction.estimate(value, z, logsnr=logsnr, kind=self.kind)._replace(v=v)
