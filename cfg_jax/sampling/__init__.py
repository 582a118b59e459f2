"""From noise to data: solvers of one step each, grids, the scan over levels, its three fronts."""

from cfg_jax.sampling import grids, solvers
from cfg_jax.sampling.fronts import pmap_sample, sample, sharded_sample

__all__ = ["grids", "pmap_sample", "sample", "sharded_sample", "solvers"]
