"""Networks in Flax Linen: parameters float32, compute in the dtype asked for."""

from cfg_jax.models.encoder import Encoder
from cfg_jax.models.unet import UNet

__all__ = ["Encoder", "UNet"]
