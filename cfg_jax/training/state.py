"""What training carries from step to step, and how it starts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from cfg_jax.models import UNet


class State(NamedTuple):
    """All that a checkpoint holds; a pytree.

    Attributes:
      step: The number of updates made.
      params: The network's variables.
      ema: Their exponential moving average, what sampling uses.
      opt_state: The optimiser's.
    """

    step: Int[Array, ""]
    params: Any
    ema: Any
    opt_state: Any


def init(
    network: UNet, optimizer: optax.GradientTransformation, shape: tuple[int, ...], seed: int
) -> State:
    """The state before the first step, for images of the given shape."""
    label = jnp.zeros((1,), jnp.int32) if network.num_classes else None
    params = network.init(jax.random.key(seed), jnp.zeros((1, *shape)), jnp.zeros((1,)), label)
    ema = jax.tree.map(jnp.copy, params)  # donated with the rest: may not share its buffers
    return State(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params))
