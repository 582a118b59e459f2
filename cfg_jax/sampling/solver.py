"""The type of a solver: what takes z from one noise level to the next, cleaner one.

A solver is a frozen dataclass, its knobs leaves of a pytree, its order static. What it remembers
from step to step (a multistep method its last estimates, most others nothing) is a state, a pytree
that the scan over the levels carries. The last step of a reverse process goes to λ' = ∞, where
α = 1 and σ = 0: every solver returns x̂ itself there.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.denoiser import Denoiser

Noise = Callable[[], Float[Array, "..."]]
"""Draws standard normal noise of z's shape; a step calls it at most once."""


@runtime_checkable
class Solver(Protocol):
    """One step of a reverse process, and what it remembers."""

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
          logsnr: λ, a scalar.
          logsnr_next: λ' > λ, a scalar; ∞ for the last step.

        Returns:
          z_λ', or x̂ where λ' = ∞; and the next step's state.
        """

    def calls(self, steps: int) -> int:
        """The number of times that `steps` steps, the last to λ' = ∞, call the denoiser."""
