"""The solver and the grid where none is named: functions of the number of steps alone.

`UniPC` on the grid `grids.Secant`, of order 2 below 15 steps and of order 3 from there. Chosen over
6 to 40 calls and w = 0 to 4, together with the grid's constants, on exact guided mixtures, where
the end point of the probability-flow ODE is known, and on a trained network whose x̂ is clipped;
judged on other mixtures, other noise and another network
(`experiments/benchmarks/solvers_vs_diffusers.py`). At few calls and great w a third order
extrapolates too far.
"""

from typing import Any

from cfg_jax.sampling.grids import Secant
from cfg_jax.sampling.multistep import UniPC
from cfg_jax.sampling.solver import Solver

DEFAULT_GRID = Secant()

_THIRD_ORDER_FROM = 15


def default_solver(steps: int) -> Solver:
    """The solver for so many steps.

    >>> from cfg_jax.sampling.defaults import default_solver
    >>> default_solver(10), default_solver(20)
    (UniPC(order=2, corrector=True), UniPC(order=3, corrector=True))
    """
    return UniPC(order=2 if steps < _THIRD_ORDER_FROM else 3)


def choose(solver: Solver | None, grid: Any, steps: int) -> tuple[Solver, Any]:
    """Fills in what is not named."""
    return (
        default_solver(steps) if solver is None else solver,
        DEFAULT_GRID if grid is None else grid,
    )
