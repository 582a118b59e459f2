"""What training carries from step to step, and how it starts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


class State(NamedTuple):
    """All that changes in training and that a checkpoint holds; a pytree.

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
    params: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    seed: int,
    averages: int = 1,
) -> State:
    """The state before the first step.

    Args:
      params: Makes the network's variables of a key.
      optimizer: Its optimiser.
      seed: Of the initial parameters.
      averages: How many moving averages there are.
    """
    first = params(jax.random.key(seed))
    # Donated with the rest: the averages may not share the parameters' buffers.
    ema = tuple(jax.tree.map(jnp.copy, first) for _ in range(averages))
    zero = jnp.zeros((), jnp.int32)
    return State(zero, jnp.copy(zero), first, ema, optimizer.init(first))
