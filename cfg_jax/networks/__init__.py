"""Networks in Flax Linen: parameters float32, compute in the dtype asked for."""

from cfg_jax.networks.coding import Coding
from cfg_jax.networks.dit import DiT
from cfg_jax.networks.encoder import Encoder
from cfg_jax.networks.mmdit import MMDiT
from cfg_jax.networks.nnx import from_nnx
from cfg_jax.networks.patches import PatchDiscriminator
from cfg_jax.networks.towers import Towers
from cfg_jax.networks.unet import UNet

NETWORKS = {kind.__name__: kind for kind in (UNet, Encoder, DiT, MMDiT, Coding, Towers)}
"""The networks by their names."""

DISCRIMINATORS = {"PatchDiscriminator": PatchDiscriminator}
"""What tells data from reconstructions, by its names."""

__all__ = [
    "DISCRIMINATORS",
    "NETWORKS",
    "Coding",
    "DiT",
    "Encoder",
    "MMDiT",
    "PatchDiscriminator",
    "Towers",
    "UNet",
    "from_nnx",
]
