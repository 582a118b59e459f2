"""Networks in Flax Linen: parameters float32, compute in the dtype asked for."""

from cfg_jax.networks.encoder import Encoder
from cfg_jax.networks.unet import UNet

__all__ = ["Encoder", "UNet"]
