"""Analyses of programs that were never compiled, for the planner's tests."""

from cfg_jax.planning.analysis import Analysis
from cfg_jax.planning.hlo import Collective


def analysis(**changed) -> Analysis:
    """16 MFLOP, 500 bytes of memory traffic, and three gathers of 320 bytes over 8 chips."""
    plain = {
        "fits": True,
        "used": 0,
        "flops": 16_000_000,
        "accessed": 500,
        "collectives": (Collective("all-gather", ("f32[8,10]",), 8, 3),),
        "compiler": "",
        "date": "",
        "seconds": 0.0,
    }
    return Analysis(**(plain | changed))
