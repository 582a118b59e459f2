"""Three fronts of one reverse process: `sample` under jit, `pmap_sample`, and `sharded_sample`.

What only scales numbers (parameters, w, v, labels, keys) is traced, so changing it compiles
nothing; what decides the computation (shape, levels, the functions inside a denoiser) is static.
"""

import dataclasses
import enum
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks, condition
from cfg_jax.diffusion.condition import Condition, PerExample
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.logsnr import floating
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.sampling.defaults import choose
from cfg_jax.sampling.grids import Grid
from cfg_jax.sampling.reverse import reverse
from cfg_jax.sampling.solver import Solver


class _Batched(NamedTuple):
    """What is split when a batch is: every leaf is (batch, ...)."""

    index: Any
    cond: Condition
    z: Any
    per_example: list[Any]


class _Arguments(NamedTuple):
    """The arguments of a reverse process, by how they travel."""

    shared: list[Any]
    batched: _Batched
    key: jax.Array


@dataclasses.dataclass(frozen=True)
class _Static:
    """What one compiled reverse process is for; hashable.

    jaxlib 0.10 takes structures of different dataclasses for equal where their fields are as many,
    so `kinds`, the structure's hash, is what tells `Euler` from `Heun`.
    """

    structure: Any
    kinds: int
    places: tuple[Any, ...]
    which: tuple[int, ...]
    shape: tuple[int, ...]
    levels: tuple[float, ...]


def sample(
    denoiser: Denoiser,
    key: jax.Array,
    cond: Condition = None,
    *,
    shape: tuple[int, ...],
    schedule: Schedule,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int,
    z: Float[Array, "batch ..."] | None = None,
    batch: int | None = None,
    offset: int = 0,
) -> Float[Array, "batch ..."]:
    """Samples x by the reverse process, jitted; may itself be called under jit, vmap or grad.

    Example i draws all its noise from `fold_in(key, offset + i)`: the same key and number give the
    same image in any batch, at any place in it, on any number of devices.

    Args:
      denoiser: `(z, logsnr, cond) -> eps`, guided or not: a callable pytree, whose arrays are
        traced, or a plain function.
      key: A JAX random key.
      cond: The condition, a pytree of (batch, ...) arrays; None for an unconditional network.
      shape: One example's shape, such as (32, 32, 3).
      schedule: The range of noise levels, and their distribution.
      solver: The step. The default when None: `UniPC`, of order 2 below 15 steps and 3 from there,
        deterministic and made for few steps. The paper's is `solvers.Ancestral(v=0.3)`.
      grid: `(schedule, steps) -> levels`, see `grids`. When None, a named solver walks the levels
        equally spaced in u, `schedule.grid(steps)`, and the default one `grids.Secant()`.
      steps: The number of steps, at least 1; the denoiser is called `solver.calls(steps)` times.
      z: Noise to start from, (batch, *shape), at the grid's first level; drawn when None.
      batch: The number of examples, where cond is None.
      offset: The number of the first example.

    Returns:
      x of (batch, *shape): the last step's estimate of the data.

    Raises:
      ValueError: steps < 1, the grid's levels do not ascend, cond's leaves disagree on the batch,
        nothing tells the batch, or z has another shape.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax import sample, schedules
    >>> denoiser = lambda z, logsnr, cond: z  # of data that is zero everywhere, at great noise
    >>> x = sample(denoiser, jax.random.key(0), shape=(8, 8, 1), batch=4,
    ...            schedule=schedules.Cosine(), steps=3)
    >>> x.shape
    (4, 8, 8, 1)
    """
    arguments, static = _prepare(
        denoiser, key, cond, shape, schedule, solver, grid, steps, z, batch, offset
    )
    return _jitted(*arguments, static)


def pmap_sample(
    denoiser: Denoiser,
    key: jax.Array,
    cond: Condition = None,
    *,
    shape: tuple[int, ...],
    schedule: Schedule,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int,
    z: Float[Array, "batch ..."] | None = None,
    batch: int | None = None,
    offset: int = 0,
) -> Float[Array, "batch ..."]:
    """`sample` through `jax.pmap` over this process' devices: the same arguments, the same images.

    A batch that the devices do not divide is padded, and the padding cut off. On several processes
    each samples its own batch: give each its own `offset`.
    """
    arguments, static = _prepare(
        denoiser, key, cond, shape, schedule, solver, grid, steps, z, batch, offset
    )
    devices = jax.local_device_count()
    count = len(arguments.batched.index)
    padded = _pad(arguments.batched, devices)
    split = jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), padded)
    x = _pmapped(arguments.shared, split, arguments.key, static)
    return x.reshape(-1, *shape)[:count]


def sharded_sample(
    denoiser: Denoiser,
    key: jax.Array,
    cond: Condition = None,
    *,
    mesh: Mesh,
    shape: tuple[int, ...],
    schedule: Schedule,
    solver: Solver | None = None,
    grid: Grid | None = None,
    steps: int,
    z: Float[Array, "batch ..."] | None = None,
    batch: int | None = None,
    offset: int = 0,
) -> Float[Array, "batch ..."]:
    """`sample` through `jit(shard_map)`, the batch split over all axes of a mesh.

    The other arguments and the images are those of `sample`. On several processes each gives the
    same, global arguments. A batch that the mesh does not divide is padded, and the padding cut
    off.

    Args:
      denoiser: As in `sample`.
      key: As in `sample`.
      cond: As in `sample`.
      mesh: A mesh of devices, of all processes.
      shape: As in `sample`.
      schedule: As in `sample`.
      solver: As in `sample`.
      grid: As in `sample`.
      steps: As in `sample`.
      z: As in `sample`.
      batch: As in `sample`.
      offset: As in `sample`.

    Returns:
      x of (batch, *shape), a global array split along the batch where the mesh divides it.
    """
    arguments, static = _prepare(
        denoiser, key, cond, shape, schedule, solver, grid, steps, z, batch, offset
    )
    count = len(arguments.batched.index)
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    x = _sharded(
        jax.device_put(arguments.shared, whole),
        jax.device_put(_pad(arguments.batched, mesh.size), split),
        jax.device_put(arguments.key, whole),
        static,
        mesh,
    )
    return x if len(x) == count else x[:count]


def _prepare(
    denoiser, key, cond, shape, schedule, solver, grid, steps, z, batch, offset
) -> tuple[_Arguments, _Static]:
    """Sorts the arguments of a front by how they travel, and checks them."""
    checks.steps(steps)
    cond = jax.tree.map(jnp.asarray, cond)
    count = _count(cond, z, batch)
    if z is not None and z.shape != (count, *shape):
        raise ValueError(f"z must have shape {(count, *shape)}, got {z.shape}")
    solver, grid = choose(solver, grid, steps)
    program = (denoiser, jax.tree.map(floating, solver))
    nodes, structure = jax.tree.flatten(program, is_leaf=lambda n: isinstance(n, PerExample))
    places = tuple(_place(node) for node in nodes)
    shared, which = _once(
        [_strong(n) for n, p in zip(nodes, places, strict=True) if p is _Place.SHARED]
    )
    per_example = [
        jax.tree.map(_strong, n)
        for n, p in zip(nodes, places, strict=True)
        if p is _Place.PER_EXAMPLE
    ]
    if per_example and condition.batch_size(per_example) != count:
        raise ValueError(
            f"the batch has {count} examples, but w or the negative condition is for "
            f"{condition.batch_size(per_example)}"
        )
    index = offset + jnp.arange(count)
    return (
        _Arguments(shared, _Batched(index, cond, z, per_example), key),
        _Static(
            structure,
            hash(structure),
            places,
            which,
            tuple(shape),
            _levels(grid(schedule, steps), steps),
        ),
    )


def _levels(levels: np.ndarray, steps: int) -> tuple[float, ...]:
    """A grid's levels, checked: ascending, all but the last finite."""
    checked = np.asarray(levels, np.float64)
    finite = checked[:-1]
    if checked.shape != (steps + 1,) or not np.all(np.isfinite(finite)):
        raise ValueError(f"a grid must return {steps + 1} levels, all but the last finite")
    if not np.all(checked[:-1] < checked[1:]):
        raise ValueError("a grid's levels must ascend")
    return tuple(checked.tolist())


def _count(cond: Condition, z, batch: int | None) -> int:
    """The number of examples, by whatever tells it."""
    told = {
        "cond": condition.batch_size(cond),
        "z": None if z is None else z.shape[0],
        "batch": batch,
    }
    counts = {name: count for name, count in told.items() if count is not None}
    if len(set(counts.values())) != 1:
        raise ValueError(
            f"cond, z and batch disagree on the number of examples: {counts}"
            if counts
            else "an unconditional sample needs batch, the number of examples"
        )
    return next(iter(counts.values()))


class _Place(enum.Enum):
    """Marks a leaf that travels as an array; every other leaf is static."""

    SHARED = enum.auto()
    PER_EXAMPLE = enum.auto()


def _place(node: Any) -> Any:
    if isinstance(node, PerExample):
        return _Place.PER_EXAMPLE
    arrays = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    return _Place.SHARED if isinstance(node, arrays) else node


def _strong(value: Any) -> Array:
    """An array with a dtype of its own: 0.3 and jnp.float32(0.3) must not compile twice."""
    return jnp.asarray(value, jnp.result_type(value))


def _once(arrays: list[Array]) -> tuple[list[Array], tuple[int, ...]]:
    """The different ones among arrays, and for each array which of those it is.

    Where the denoiser and the solver hold the same parameters, the compiler then sees that they ask
    the same network, and evaluates it once.
    """
    kept: list[Array] = []
    number: dict[int, int] = {}
    which = []
    for array in arrays:
        known = number.get(id(array)) if array.ndim else None
        if known is None:
            known = number[id(array)] = len(kept)
            kept.append(array)
        which.append(known)
    return kept, tuple(which)


def _reverse(shared: list, batched: _Batched, key: jax.Array, static: _Static):
    """Puts denoiser and solver together again and runs the reverse process."""
    travelling = {
        _Place.SHARED: iter([shared[i] for i in static.which]),
        _Place.PER_EXAMPLE: iter(batched.per_example),
    }
    nodes = [
        next(travelling[place]) if isinstance(place, _Place) else place for place in static.places
    ]
    denoiser, solver = jax.tree.unflatten(static.structure, nodes)
    return reverse(
        denoiser,
        solver,
        key,
        batched.index,
        batched.cond,
        batched.z,
        shape=static.shape,
        levels=static.levels,
    )


_jitted = jax.jit(_reverse, static_argnums=3)
_pmapped = jax.pmap(_reverse, in_axes=(None, 0, None), static_broadcasted_argnums=3)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _sharded(shared, batched, key, static, mesh):
    """`_reverse` on every device of the mesh, each on its share of the batch."""
    split = PartitionSpec(mesh.axis_names)
    return jax.shard_map(
        lambda shared, batched, key: _reverse(shared, batched, key, static),
        mesh=mesh,
        in_specs=(PartitionSpec(), split, PartitionSpec()),
        out_specs=split,
        check_vma=False,  # a denoiser is the user's: it need not annotate what varies over the mesh
    )(shared, batched, key)


def _pad(batched: _Batched, devices: int) -> _Batched:
    """Repeats the last example until `devices` divides the batch."""
    missing = -len(batched.index) % devices
    if not missing:
        return batched
    return jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], missing, 0)]), batched)
