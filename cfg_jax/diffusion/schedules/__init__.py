"""Distributions p(λ) of the log signal-to-noise ratio, each by its quantile function λ(u).

A schedule maps u in [0, 1] to λ: u = 0 is the cleanest level, `logsnr_max`, and u = 1 the noisiest,
`logsnr_min`. Training draws u ~ Uniform(0, 1); sampling walks a grid of u from 1 to 0. Schedules
are frozen and hashable: static under jit. Constants are formed in float64 on the host; the ends of
the range are reached through the complement of an angle, never through a difference of near equals.
"""

from typing import Any

from cfg_jax.diffusion import names
from cfg_jax.diffusion.schedules.base import Schedule, stratify
from cfg_jax.diffusion.schedules.cosine import Cosine
from cfg_jax.diffusion.schedules.discrete import (
    CosineBeta,
    DiscreteSchedule,
    LinearBeta,
    ScaledLinearBeta,
)
from cfg_jax.diffusion.schedules.logit_normal import LogitNormal
from cfg_jax.diffusion.schedules.uniform import Uniform

__all__ = [
    "SCHEDULES",
    "Cosine",
    "CosineBeta",
    "DiscreteSchedule",
    "LinearBeta",
    "LogitNormal",
    "ScaledLinearBeta",
    "Schedule",
    "Uniform",
    "made",
    "stratify",
]

SCHEDULES: dict[str, type[Schedule]] = {
    kind.__name__: kind
    for kind in (Cosine, Uniform, LogitNormal, LinearBeta, CosineBeta, ScaledLinearBeta)
}
"""The schedules by the names that recipes use."""


def made(value: Any, kind: type = Schedule) -> Any:
    """A schedule of a kind: itself, or the one with its defaults that a name means.

    Raises as `names.made` does.
    """
    known = {name: each for name, each in SCHEDULES.items() if issubclass(each, kind)}
    return names.made(known, value, "schedule", lambda made: isinstance(made, kind))
