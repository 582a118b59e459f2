"""Classifier-free diffusion guidance in continuous time, on JAX.

Time is λ, the log signal-to-noise ratio. A denoiser `(z, logsnr, cond) -> eps` is asked for the
noise at a level λ; guidance makes one denoiser of others; a solver takes z from one level to the
next.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cfg_jax import guidance
from cfg_jax.diffusion import (
    condition,
    denoiser,
    likelihood,
    mixtures,
    objective,
    prediction,
    process,
    schedules,
)
from cfg_jax.sampling import grids, pmap_sample, sample, sharded_sample, solvers

if TYPE_CHECKING:
    from cfg_jax.run import Run, load, load_noisy_classifier

__version__ = "0.1.0"

__all__ = [
    "Run",
    "condition",
    "denoiser",
    "grids",
    "guidance",
    "likelihood",
    "load",
    "load_noisy_classifier",
    "mixtures",
    "objective",
    "pmap_sample",
    "prediction",
    "process",
    "sample",
    "schedules",
    "sharded_sample",
    "solvers",
]

_LAZY = {
    "load": "cfg_jax.run",
    "load_noisy_classifier": "cfg_jax.run",
    "Run": "cfg_jax.run",
}
"""Names that need Flax, Orbax or files: imported when first used."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
