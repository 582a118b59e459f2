"""What training begins with: a random network, that of another run, or what a run has kept."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cfg_jax.blueprint import FrozenParameters
from cfg_jax.recipe.claims import begun
from cfg_jax.recipe.description import describe, differences
from cfg_jax.run import Run, frozen_of, named_run
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.runtime.notes import note
from cfg_jax.training.program import Program
from cfg_jax.training.state import State

NAMED = 3
"""Arrays that begin anew and are named, at most."""


def origin(config: ConfigDict, workdir: Path) -> Run | None:
    """The run that the recipe names in `train.init`; None where there is none, or no need of it.

    Raises:
      ValueError: It cannot be read.
    """
    return _run(config.train.init) if config.train.init and not begun(workdir) else None


def kept(config: ConfigDict, workdir: Path) -> FrozenParameters | None:
    """What a run of this recipe keeps beside its checkpoints and never trains, such as its codec.

    It goes on with those, wherever they were read from when it began.

    Returns:
      The parameters; None where there is no such run.

    Raises:
      ValueError: They are missing or damaged.
    """
    if not begun(workdir) or differences(describe(workdir).config, config):
        return None
    with Checkpoints(workdir) as checkpoints:
        return frozen_of(checkpoints)


def _run(name: str) -> Run:
    """The run of that name.

    Raises:
      ValueError: It cannot be read.
    """
    try:
        return named_run(name)
    except ValueError as error:
        raise ValueError(f"config.train.init: {error}") from error


def beginning(config: ConfigDict, program: Program, named: Run | None = None) -> State:
    """The state before the first step.

    Where the recipe names a run in `train.init`, the arrays of its first moving average that this
    network has too, of the same names and shapes, are taken; the others begin anew, and are said.

    Args:
      config: The recipe.
      program: What it compiles to.
      named: That run, if it has been read.

    Raises:
      ValueError: There is no such run, or it has none of the network's arrays.
    """
    name = config.train.init
    if not name:
        return program.start()
    run = _run(name) if named is None else named
    params, anew = _taken(program.start().params, run.params)
    count = len(jax.tree.leaves(params))
    if len(anew) == count:
        raise ValueError(f"config.train.init: no array of {run!r} has a name and shape of this one")
    beside = f"; {_listed(anew)} begin{'s' if len(anew) == 1 else ''} anew" if anew else ""
    note(f"{count - len(anew)} of {count} arrays are those of {run!r}{beside}")
    return program.start(jax.device_get(params))


def _taken(own: Any, other: Any) -> tuple[Any, list[str]]:
    """The arrays of another network in the places of one's own; which of these stayed."""
    there = dict(jax.tree_util.tree_leaves_with_path(other))
    anew = []

    def take(path: Any, leaf: Any) -> Any:
        found = there.get(path)
        if found is not None and found.shape == leaf.shape:
            return found.astype(leaf.dtype)
        anew.append(jax.tree_util.keystr(path, simple=True, separator="/"))
        return leaf

    return jax.tree_util.tree_map_with_path(take, own), anew


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
