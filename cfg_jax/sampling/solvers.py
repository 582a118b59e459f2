"""The solvers, gathered: each takes z from one noise level to the next, cleaner one.

| solver        | calls a step | draws noise | order | source                                     |
| ------------- | ------------ | ----------- | ----- | ------------------------------------------ |
| `Ancestral`   | 1            | always      | 1     | Ho & Salimans 2022, Algorithm 2            |
| `DDIM`        | 1            | η > 0       | 1     | Song et al. 2021                           |
| `Euler`       | 1            | γ > 0       | 1     | Karras et al. 2022, Algorithm 2            |
| `Heun`        | 2            | γ > 0       | 2     | Karras et al. 2022, Algorithm 2            |
| `DPMSolverPP` | 1            | η > 0       | 1–3   | Lu et al. 2022b, Algorithm 2               |
| `UniPC`       | 1            | never       | 1–3   | Zhao et al. 2023, Algorithms 1 and 2       |
"""

from cfg_jax.sampling.ancestral import DDIM, Ancestral
from cfg_jax.sampling.churn import Euler, Heun
from cfg_jax.sampling.multistep import DPMSolverPP, UniPC
from cfg_jax.sampling.solver import Noise, Solver

__all__ = [
    "DDIM",
    "SOLVERS",
    "Ancestral",
    "DPMSolverPP",
    "Euler",
    "Heun",
    "Noise",
    "Solver",
    "UniPC",
]

SOLVERS: dict[str, type] = {
    kind.__name__: kind for kind in (Ancestral, DDIM, Euler, Heun, DPMSolverPP, UniPC)
}
"""The solvers by the names that recipes and commands use."""
