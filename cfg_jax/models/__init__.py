"""Networks in Flax Linen: parameters float32, compute in the dtype asked for."""

from cfg_jax.models.unet import UNet

__all__ = ["UNet"]
