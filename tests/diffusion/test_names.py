"""Names that people type: what they mean, and what is said to those that mean nothing."""

import pytest

from cfg_jax.diffusion import names, schedules
from cfg_jax.guidance import methods
from cfg_jax.sampling import clips, grids, solvers

REGISTRIES = {
    "schedule": schedules.SCHEDULES,
    "solver": solvers.SOLVERS,
    "grid": grids.GRIDS,
    "guidance": methods.METHODS,
    "clip": clips.CLIPS,
}


@pytest.mark.parametrize("what", REGISTRIES)
def test_a_kind_is_known_by_its_own_name_however_it_is_typed(what):
    registry = REGISTRIES[what]
    for name, kind in registry.items():
        assert name == kind.__name__
        for typed in (name, name.lower(), name.upper(), "_".join(name), f"-{name}"):
            assert names.lookup(registry, typed, what) is kind


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("Hein", r"solver must be one of Ancestral, .*; got 'Hein'; did you mean Heun\?$"),
        ("zzz", r"got 'zzz'$"),
        ("", r"got ''$"),
        (3, r"got 3$"),
        (None, r"got None$"),
    ],
)
def test_an_unknown_name_is_told_what_there_is(typed, message):
    with pytest.raises(ValueError, match=message):
        names.lookup(solvers.SOLVERS, typed, "solver")
