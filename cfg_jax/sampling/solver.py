"""The type of a solver: what takes z from one noise level to the next, cleaner one.

A solver is a frozen dataclass, its knobs leaves of a pytree, its order static. What it remembers
from step to step (a multistep method its last estimates, most others nothing) is a state, a pytree
that the scan over the levels carries. The last step of a reverse process goes to λ' = ∞, where
α = 1 and σ = 0: every solver returns x̂ itself there.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.logsnr import expand

Noise = Callable[[], Float[Array, "..."]]
"""Draws standard normal noise of z's shape; a step calls it at most once."""

LONGEST = 4.5
"""The longest step in λ that is taken with an order above 1: s = σ/α falls to a tenth.

Over a longer one the slope at either end, or a line through earlier estimates, says nothing of the
way between, and what is added to a step of order 1 stays in the picture as noise.
"""


def fresh(noise: Noise, scale: Float[Array, "..."]) -> Float[Array, "..."]:
    """Noise times a scale, drawn only where the scale is not 0 or its derivative is asked for.

    Args:
      noise: Draws noise of z's shape; whatever it draws from that is traced, it holds as leaves.
      scale: Not negative, a scalar or (batch,).

    Returns:
      The scaled noise, of z's shape.
    """
    held = noise if isinstance(noise, jax.tree_util.Partial) else jax.tree_util.Partial(noise)
    return _scaled(scale, held)


@jax.custom_jvp
def _scaled(scale, noise):
    like = jax.eval_shape(noise)

    def drawn():
        return _times(scale, noise())

    return jax.lax.cond(jnp.any(scale > 0), drawn, lambda: jnp.zeros(like.shape, like.dtype))


@_scaled.defjvp
def _scaled_jvp(primals, tangents):
    (scale, noise), (by_scale, _) = primals, tangents
    drawn = noise()
    return _times(scale, drawn), _times(by_scale, drawn)


def _times(scale, drawn):
    return (expand(scale, drawn) * drawn).astype(drawn.dtype)


@runtime_checkable
class Solver(Protocol):
    """One step of a reverse process, and what it remembers.

    A class that says `reads_eps = False` reads x̂ alone, and not ε̂.
    """

    def init(self, z: Float[Array, "..."]) -> Any:
        """The state before the first step; its shapes and dtypes stay."""

    def step(
        self,
        denoiser: Denoiser,
        z: Float[Array, "..."],
        state: Any,
        cond: Condition,
        noise: Noise,
        *,
        logsnr: ArrayLike,
        logsnr_next: ArrayLike,
    ) -> tuple[Float[Array, "..."], Any]:
        """Takes one step.

        Args:
          denoiser: The (guided) denoiser.
          z: z_λ of (batch, ...).
          state: From `init`, or from the step before.
          cond: The condition.
          noise: Draws noise of z's shape.
          logsnr: λ, a scalar or (batch,).
          logsnr_next: λ' > λ, likewise; ∞ for the last step, which is all examples' last.

        Returns:
          z_λ', or x̂ where λ' = ∞; and the next step's state.
        """

    def calls(self, steps: int) -> int:
        """How often `steps` steps call the denoiser at most, the last to λ' = ∞."""
