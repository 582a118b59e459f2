"""What a front is given, checked: each mistake is one sentence that says what is wanted."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from cfg_jax.diffusion import checks, condition, schedules
from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.names import made
from cfg_jax.sampling.defaults import choose
from cfg_jax.sampling.grids import GRIDS, check_fineness
from cfg_jax.sampling.solvers import SOLVERS, Solver

Levels = tuple[float, ...] | Array
"""λ, ascending: static numbers, or an array that is traced, of (levels,) or (batch, levels)."""

_MOST_NUMBERS = 2**40
"""Of all examples' z; beyond some such number XLA ends the process instead of raising an error."""

_MOST_IN_ONE = 2**31
"""Of one example's."""

_MOST_EXAMPLES = 2**31 - 1
"""Their numbers are int32."""


def named(what: str, value: Any) -> dict[str, Any]:
    """Entries of a condition by their names; None is none of them.

    Raises:
      TypeError: It is no dictionary.
    """
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(
            f"{what} must be a dictionary of a condition's entries, got {checks.told(value)}"
        )
    return dict(value or {})


def automatic(mesh: Any) -> Mesh:
    """A mesh with its axes Auto, which shard_map makes its own of.

    Raises:
      TypeError: It is no mesh.
      ValueError: It has no device.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(
            'mesh must be a mesh of devices, such as jax.make_mesh((8,), ("batch",)), '
            f"got {checks.told(mesh)}"
        )
    if not mesh.devices.size:
        raise ValueError("mesh must hold at least one device")
    return Mesh(mesh.devices, mesh.axis_names)


def example_shape(shape: Any, what: str = "shape", such: str = "(32, 32, 3)") -> tuple[int, ...]:
    """One example's shape, or its sides.

    Raises:
      TypeError: It is no sequence.
      ValueError: An entry is no whole number of at least 1, or there are more than 2³¹ numbers.
    """
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"{what} must be one example's, such as {such}, got {checks.told(shape)}")
    sides = tuple(checks.whole(f"{what}'s entries", entry, 1) for entry in shape)
    if math.prod(sides) > _MOST_IN_ONE:
        raise ValueError(f"{what} must be of at most 2³¹ numbers, got {checks.told(shape)}")
    return sides


def noise(z: Any) -> Array | None:
    """The noise to start from as an array, if any.

    Raises:
      ValueError: It is no array of floats.
    """
    if z is None:
        return None
    found = checks.batch("z", z)
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(f"z must be an array of floats, got {found.dtype}")
    return found


def extent(count: int, shape: tuple[int, ...], z: Array | None) -> None:
    """Raises ValueError where the noise has another shape, or z would be too large."""
    if z is not None and z.shape != (count, *shape):
        raise ValueError(
            f"z must have shape {(count, *shape)}, of floats, got {z.dtype} of {z.shape}"
        )
    if math.prod((count, *shape)) > _MOST_NUMBERS:
        raise ValueError(
            f"z must hold at most 2**40 numbers; {count} examples of shape {shape} hold "
            f"{math.prod((count, *shape))}"
        )


def count(cond: Condition, z: Array | None, batch: Any) -> int:
    """The number of examples, by whatever tells it.

    Raises:
      ValueError: cond, z and batch disagree, none tells, or it is 0 or too large.
    """
    told = {
        "cond": condition.batch_size(cond),
        "z": None if z is None else len(z),
        "batch": None if batch is None else checks.whole("batch", batch, 1),
    }
    counts = {name: count for name, count in told.items() if count is not None}
    if not counts:
        raise ValueError("an unconditional sample needs batch, the number of examples")
    if len(set(counts.values())) != 1:
        raise ValueError(f"cond, z and batch disagree on the number of examples: {counts}")
    if 0 in counts.values():
        raise ValueError("there is no example to sample: cond or z is empty")
    found = next(iter(counts.values()))
    if found > _MOST_EXAMPLES:
        raise ValueError(f"batch must be at most {_MOST_EXAMPLES}, got {found}")
    return found


def walk(
    schedule: Any, solver: Any, grid: Any, steps: Any, examples: int, dtype: Any
) -> tuple[Solver, Levels]:
    """The solver and the levels, what is not named filled in.

    Args:
      schedule: As in `sample`.
      solver: As in `sample`.
      grid: As in `sample`.
      steps: As in `sample`.
      examples: The batch.
      dtype: What the levels are rounded to.

    Raises:
      ValueError: They are no walk.
      TypeError: One of them is no such thing.
    """
    schedule = schedules.made(schedule)
    if solver is not None:
        solver = made(SOLVERS, solver, "solver", lambda s: isinstance(s, Solver))
    if isinstance(grid, (np.ndarray, jax.Array)):
        levels = _given(grid, steps, examples, dtype)
        return choose(solver, grid, levels.shape[-1] - 1)[0], levels
    if grid is not None:
        grid = made(GRIDS, grid, "grid", callable)
    if steps is None:
        raise ValueError("steps must be given, a whole number of at least 1")
    steps = checks.steps(steps)
    solver, grid = choose(solver, grid, steps)
    walked = np.asarray(grid(schedule, steps), np.float64)
    if walked.shape != (steps + 1,):
        raise ValueError(f"a grid must return {steps + 1} levels, all but the last finite")
    _check(walked, dtype)
    if type(grid) in GRIDS.values():
        check_fineness(grid, schedule, walked)
    return solver, tuple(walked.tolist())


def _given(levels: Any, steps: Any, examples: int, dtype: Any) -> Array:
    """Levels that were given as an array, checked as far as they are known."""
    shape = np.shape(levels)
    if len(shape) not in (1, 2) or shape[-1] < 2 or (len(shape) == 2 and shape[0] != examples):
        raise ValueError(
            "a grid given as an array must have shape (steps + 1,), or "
            f"({examples}, steps + 1) for one an example, got {shape}"
        )
    if steps is not None and checks.steps(steps) != shape[-1] - 1:
        raise ValueError(f"the grid has {shape[-1] - 1} steps, but steps is {steps}")
    if not isinstance(levels, jax.core.Tracer):
        _check(np.asarray(levels, np.float64), dtype)
    return jnp.asarray(levels, dtype)


def _check(levels: np.ndarray, dtype: Any) -> None:
    """Raises ValueError unless levels ascend, as `dtype` sees them, all but the last in range."""
    asked, most = levels[..., :-1], checks.LARGEST_LOGSNR
    if not np.all(np.isfinite(asked)):
        raise ValueError("a grid must return levels that are finite, all but the last")
    if np.any(np.abs(asked) > most):
        raise ValueError(f"a grid's levels must lie in [{-most:g}, {most:g}], all but the last")
    if not np.all(levels[..., :-1] < levels[..., 1:]):
        raise ValueError("a grid's levels must ascend")
    rounded = asked.astype(dtype)
    if not np.all(rounded[..., :-1] < rounded[..., 1:]):
        raise ValueError(f"a grid's levels must differ by more than {np.dtype(dtype)} resolves")
