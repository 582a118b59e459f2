"""What training carries from step to step, and how it starts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from cfg_jax.networks import Encoder, UNet


class State(NamedTuple):
    """All that a checkpoint holds; a pytree.

    Attributes:
      step: The number of steps made.
      skipped: How many of them changed nothing, their gradient not being finite.
      params: The network's variables.
      ema: Their moving averages, what sampling uses: one a profile of `averages`.
      opt_state: The optimiser's.
    """

    step: Int[Array, ""]
    skipped: Int[Array, ""]
    params: Any
    ema: tuple[Any, ...]
    opt_state: Any


def init(
    network: UNet | Encoder,
    optimizer: optax.GradientTransformation,
    shape: tuple[int, ...],
    seed: int,
    averages: int = 1,
) -> State:
    """The state before the first step, for images of the given shape.

    Args:
      network: The U-Net or the encoder.
      optimizer: Its optimiser.
      shape: One image's (height, width, channels).
      seed: Of the initial parameters.
      averages: How many moving averages there are.
    """
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), network.inputs(shape))
    params = network.init(jax.random.key(seed), *zeros)
    # Donated with the rest: the averages may not share the parameters' buffers.
    ema = tuple(jax.tree.map(jnp.copy, params) for _ in range(averages))
    zero = jnp.zeros((), jnp.int32)
    return State(zero, jnp.copy(zero), params, ema, optimizer.init(params))
