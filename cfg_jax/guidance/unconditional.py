"""A conditional network as a denoiser that never sees its condition."""

import dataclasses
from typing import Any

import jax

from cfg_jax.diffusion import checks, condition
from cfg_jax.diffusion.denoiser import Denoiser


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Unconditional:
    """The denoiser ε(∅), whatever condition it is given; made by `unconditional`.

    Attributes:
      denoiser: The conditional network.
      null: What stands for no condition; None for a network that takes none.
    """

    denoiser: Any
    null: Any

    def __call__(self, z, logsnr, cond):
        """Returns what the network returns for the null."""
        null = None if self.null is None else condition.broadcast(self.null, cond)
        return self.denoiser(z, logsnr, null)


def unconditional(denoiser: Denoiser, *, null: Any) -> Unconditional:
    """Keeps the condition from a network: ε(z_λ, ∅).

    The condition is still passed, for whatever is wrapped around (a classifier needs it), and tells
    the batch. Acts in any space; it has no strength.

    Args:
      denoiser: A network trained with and without its condition, or without alone.
      null: What stands for no condition, as in `classifier_free`; None for a network that takes no
        condition.

    Returns:
      A denoiser.

    Raises:
      ValueError: When called: null does not fit the condition.
      TypeError: denoiser cannot be called.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> label = lambda z, logsnr, cond: jnp.broadcast_to(1.0 * cond[:, None], z.shape)
    >>> guidance.unconditional(label, null=10)(jnp.zeros((2, 1)), 0.0, jnp.array([0, 2])).tolist()
    [[10.0], [10.0]]
    """
    checks.function("denoiser", denoiser)
    return Unconditional(denoiser=denoiser, null=null)
