"""From noise to data: solvers of one step each, the scan over noise levels, its three fronts."""

from cfg_jax.sampling import solvers
from cfg_jax.sampling.fronts import pmap_sample, sample, sharded_sample

__all__ = ["pmap_sample", "sample", "sharded_sample", "solvers"]
