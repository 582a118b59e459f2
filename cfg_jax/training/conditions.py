"""What a network is shown beside z and λ: made of its parts, or lent by examples of the data."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike
from ml_collections import ConfigDict

from cfg_jax.data.images import to_float
from cfg_jax.diffusion import checks
from cfg_jax.diffusion.condition import Condition, augmented
from cfg_jax.networks import UNet
from cfg_jax.networks.unet import joined
from cfg_jax.nn.layers import downsample
from cfg_jax.training import config as recipe


def assemble(
    config: ConfigDict,
    network: UNet,
    key: jax.Array,
    parts: dict[str, Array],
    *,
    offset: int = 0,
    small_logsnr: ArrayLike | None = None,
) -> Condition:
    """A network's condition for sampling, small images noised as the recipe or the caller says.

    Args:
      config: The recipe.
      network: The network.
      key: Of the noise on small images, a function of it and the number of the image.
      parts: All that the network takes, by the names of `unet.NAMES`.
      offset: The number of the first image.
      small_logsnr: The λ that small images are noised to, a scalar or (batch,); the recipe's when
        None, and the schedule's greatest if that says none.

    Raises:
      ValueError: small_logsnr is out of range, or not for this network.
    """
    if not network.augmented:
        if small_logsnr is not None:
            raise ValueError("small_logsnr is for a network trained with config.small.logsnr_min")
        return joined(parts)
    greatest = recipe.schedule(config).logsnr_max
    if small_logsnr is None:
        chosen = config.sample.small_logsnr
        small_logsnr = greatest if chosen is None else chosen
    checks.within("small_logsnr", small_logsnr, config.small.logsnr_min, greatest)
    index = offset + jnp.arange(len(parts["small"]))
    small = augmented(key, parts["small"], logsnr=small_logsnr, index=index)
    return joined({**parts, "small": small})


def of_examples(
    network: UNet, examples: Sequence[dict[str, Any]]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The parts of the conditions that examples of the data lend, and their images.

    Args:
      network: Tells what it takes.
      examples: {"image": uint8 (height, width, channels), "label": int32 ()}, and "vector".

    Returns:
      The parts by their names, and images of (n, height, width, channels), uint8.
    """
    images = np.stack([example["image"] for example in examples])
    parts = {
        part: np.stack([example[part] for example in examples])
        for part in network.takes
        if part != "small"
    }
    if network.upscale:
        x = jnp.asarray(to_float(images))
        parts["small"] = np.asarray(downsample(x, network.upscale))
    return parts, images
