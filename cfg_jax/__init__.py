"""Classifier-free diffusion guidance in continuous time, on JAX.

Time is λ, the log signal-to-noise ratio. A denoiser `(z, logsnr, cond) -> eps` is asked for the
noise at a level λ; guidance makes one denoiser of others; a solver takes z from one level to the
next.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cfg_jax import interrupts

if interrupts.is_command():  # the other imports take a second, in which Ctrl-C may come
    interrupts.at_once()

    from cfg_jax import surroundings

    surroundings.check()

from cfg_jax import diffusion, guidance, sampling
from cfg_jax.diffusion import (
    condition,
    denoiser,
    likelihood,
    logsnr,
    mixtures,
    prediction,
    process,
    schedules,
)
from cfg_jax.sampling import grids, inversion, pmap_sample, sample, sharded_sample, solvers

if TYPE_CHECKING:
    from cfg_jax import codecs, conditions, evaluation, networks, objectives, recipe
    from cfg_jax.loading import load
    from cfg_jax.model import Model
    from cfg_jax.run import Run
    from cfg_jax.runtime.cores import use_cores

__version__ = "0.1.0"

__all__ = [
    "Model",
    "Run",
    "codecs",
    "condition",
    "conditions",
    "denoiser",
    "diffusion",
    "evaluation",
    "grids",
    "guidance",
    "inversion",
    "likelihood",
    "load",
    "logsnr",
    "mixtures",
    "networks",
    "objectives",
    "pmap_sample",
    "prediction",
    "process",
    "recipe",
    "sample",
    "sampling",
    "schedules",
    "sharded_sample",
    "solvers",
    "use_cores",
]

_LAZY = {
    "Model": "cfg_jax.model",
    "Run": "cfg_jax.run",
    "load": "cfg_jax.loading",
    "use_cores": "cfg_jax.runtime.cores",
}
"""Names that need Flax, Orbax or files: imported when first used."""

_ROOMS = ("codecs", "conditions", "evaluation", "networks", "objectives", "recipe")
"""Rooms that need them too."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"cfg_jax.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
