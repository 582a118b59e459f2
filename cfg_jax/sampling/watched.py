"""A solver that tells the host of every step, for previews and progress."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cfg_jax.diffusion import checks
from cfg_jax.sampling.defaults import choose


def watched(solver: Any, grid: Any, steps: Any, on_step: Callable[[Any, Any], None]) -> Any:
    """A solver that is watched, and the grid, what is not named filled in.

    Args:
      solver: The solver; the default when None.
      grid: The grid; the default when None.
      steps: The number of steps; None where the grid is an array of levels.
      on_step: As in `Watched`.
    """
    checks.function("on_step", on_step, "(logsnr, z) -> None")
    count = np.shape(grid)[-1] - 1 if steps is None else checks.steps(steps)
    solver, grid = choose(solver, grid, count)
    return Watched(solver=solver, on_step=on_step), grid


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched:
    """A solver whose every step is told to a function on the host.

    Attributes:
      solver: The solver.
      on_step: Called with (λ', z_λ'), NumPy arrays, after each step; over several devices with each
        one's share of the batch.
    """

    solver: Any
    on_step: Callable[[Any, Any], None] = dataclasses.field(metadata={"static": True})

    def init(self, z):
        """As the solver."""
        return self.solver.init(z)

    def step(self, denoiser, z, state, cond, noise, *, logsnr, logsnr_next):
        """Takes the solver's step, and tells of it."""
        z, state = self.solver.step(
            denoiser, z, state, cond, noise, logsnr=logsnr, logsnr_next=logsnr_next
        )
        jax.debug.callback(self.on_step, logsnr_next, z)
        return z, state

    def calls(self, steps):
        """As the solver."""
        return self.solver.calls(steps)
