"""Networks in Flax Linen: parameters float32, compute in the dtype asked for."""

from cfg_jax.networks.dit import DiT
from cfg_jax.networks.encoder import Encoder
from cfg_jax.networks.mmdit import MMDiT
from cfg_jax.networks.nnx import from_nnx
from cfg_jax.networks.unet import UNet

NETWORKS = {kind.__name__: kind for kind in (UNet, Encoder, DiT, MMDiT)}
"""The networks by their names."""

__all__ = ["NETWORKS", "DiT", "Encoder", "MMDiT", "UNet", "from_nnx"]
