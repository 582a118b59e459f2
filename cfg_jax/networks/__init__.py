"""Networks in Flax Linen: parameters float32, compute in the dtype asked for."""

from cfg_jax.networks.encoder import Encoder
from cfg_jax.networks.nnx import from_nnx
from cfg_jax.networks.unet import UNet

NETWORKS = {kind.__name__: kind for kind in (UNet, Encoder)}
"""The networks by their names."""

__all__ = ["NETWORKS", "Encoder", "UNet", "from_nnx"]
