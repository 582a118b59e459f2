"""Three fronts of one reverse process: `sample` under jit, `pmap_sample`, and `sharded_sample`.

What only scales numbers (parameters, w, v, labels, keys, levels given as an array) is traced, so
changing it compiles nothing; what decides the computation (shape, steps, a grid's levels, the
functions inside a denoiser) is static.

A function that is no leaf of a pytree tells nothing of what it holds. So a denoiser with such a
part (a closure, a bound method, an object that JAX does not know) is traced at every call, which
finds the arrays that it holds today; it is compiled again only if the trace is another one.
"""

import dataclasses
import enum
import functools
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks, condition, noise
from cfg_jax.diffusion.condition import Condition, PerExample
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.logsnr import floating
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.sampling import arguments
from cfg_jax.sampling.grids import Grid
from cfg_jax.sampling.reverse import reverse
from cfg_jax.sampling.solver import Solver
from cfg_jax.sampling.traced import TracedProgram


def sample(
    denoiser: Denoiser,
    key: jax.Array,
    cond: Condition = None,
    *,
    shape: Sequence[int],
    schedule: Schedule | str,
    solver: Solver | str | None = None,
    grid: Grid | str | Array | np.ndarray | None = None,
    steps: Any = None,
    z: Float[Array, "batch ..."] | None = None,
    batch: Any = None,
    offset: Any = 0,
) -> Float[Array, "batch ..."]:
    """Samples x by the reverse process, jitted; may itself be called under jit, vmap or grad.

    Example i draws all its noise from `fold_in(key, offset + i)`: the same key and number give the
    same image in any batch, at any place in it, on any number of devices.

    Args:
      denoiser: `(z, logsnr, cond) -> eps`, guided or not: a callable pytree, whose arrays are
        traced, such as `jax.tree_util.Partial(apply, params)`, or a plain function. What a function
        closes over counts as it is at the call, for which it is traced each time.
      key: A JAX random key.
      cond: The condition, a pytree of (batch, ...) arrays; None for an unconditional network.
      shape: One example's shape, such as (32, 32, 3).
      schedule: The range of noise levels, and their distribution: one of `schedules`, or its name.
      solver: The step, one of `solvers` or its name. The default when None: `UniPC`, of order 2
        below 15 steps and 3 from there, deterministic and made for few steps. The paper's is
        `solvers.Ancestral(v=0.3)`.
      grid: `(schedule, steps) -> levels`, one of `grids` or its name; `grids.Secant()` when None.
        `grids.UniformU()` walks the schedule's own levels, `schedule.grid(steps)`. Or levels as an
        array, which is traced: (steps + 1,), or (batch, steps + 1) for one grid an example. No
        call is saved then where guidance is off.
      steps: The number of steps, at least 1; the denoiser is called `solver.calls(steps)` times. An
        array of levels tells it.
      z: Noise to start from, (batch, *shape), at the grid's first level; drawn when None.
      batch: The number of examples, where cond is None.
      offset: The number of the first example.

    Returns:
      x of (batch, *shape): the last step's estimate of the data, in z's dtype.

    Raises:
      ValueError: steps is not from 1 to a million, the grid's levels do not ascend or leave
        [-80, 80], cond's leaves disagree on the batch, nothing tells the batch, z has another shape
        or would hold more than 2**40 numbers, or a name is unknown.
      TypeError: An argument is no such thing, such as a seed in the place of a key.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax import sample, schedules
    >>> denoiser = lambda z, logsnr, cond: z  # of data that is zero everywhere, at great noise
    >>> x = sample(denoiser, jax.random.key(0), shape=(8, 8, 1), batch=4,
    ...            schedule=schedules.Cosine(), steps=3)
    >>> x.shape
    (4, 8, 8, 1)
    """
    job = _job(denoiser, key, cond, shape, schedule, solver, grid, steps, z, batch, offset)
    return _jitted(*_traced(job, parts=1))


def pmap_sample(denoiser, key, cond=None, **settings) -> Float[Array, "batch ..."]:
    """`sample` through `jax.pmap` over this process' devices: the same arguments, the same images.

    A batch that the devices do not divide is padded, and the padding cut off. On several processes
    each samples its own batch: give each its own `offset`.
    """
    job, count = _bound(denoiser, key, cond, settings)
    devices = jax.local_device_count()
    job = job._replace(batched=_pad(job.batched, devices))
    shared, batched, key, program = _traced(job, parts=devices)
    split = jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), batched)
    x = _pmapped(shared, split, key, program)
    return x.reshape(-1, *x.shape[2:])[:count]


def sharded_sample(denoiser, key, cond=None, *, mesh, **settings) -> Float[Array, "batch ..."]:
    """`sample` through `jit(shard_map)`, the batch split over all axes of a mesh.

    The other arguments and the images are those of `sample`. On several processes each gives the
    same, global arguments. A batch that the mesh does not divide is padded, and the padding cut
    off.

    Args:
      denoiser: As in `sample`.
      key: As in `sample`.
      cond: As in `sample`.
      mesh: A mesh of devices, of all processes, whatever the types of its axes.
      **settings: As in `sample`.

    Returns:
      x of (batch, *shape), a global array split along the batch where the mesh divides it.
    """
    job, count = _bound(denoiser, key, cond, settings)
    mesh = arguments.automatic(mesh)
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    if count % mesh.size:
        job = job._replace(batched=_pad(jax.device_put(job.batched, whole), mesh.size))
    shared, batched, key, program = _traced(job, parts=mesh.size)
    x = _sharded(
        jax.device_put(shared, whole),
        jax.device_put(batched, split),
        jax.device_put(key, whole),
        program,
        mesh,
    )
    return x if len(x) == count else x[:count]


_SIGNATURE = inspect.signature(sample)


def _documented(front, *more: inspect.Parameter) -> None:
    """Lets a front show the arguments of `sample` in its own signature."""
    shown = [*_SIGNATURE.parameters.values(), *more]
    front.__signature__ = _SIGNATURE.replace(parameters=shown)


_documented(pmap_sample)
_documented(
    sharded_sample, inspect.Parameter("mesh", inspect.Parameter.KEYWORD_ONLY, annotation=Mesh)
)


class _Batched(NamedTuple):
    """What is split when a batch is: every leaf is (batch, ...)."""

    index: Any
    cond: Condition
    z: Any
    per_example: list[Any]
    levels: Any


class _Shared(NamedTuple):
    """What every device gets whole.

    Attributes:
      leaves: Of the denoiser and the solver.
      levels: λ, where they are traced and the same for all.
      held: Arrays that were found within functions.
    """

    leaves: list[Any]
    levels: Any
    held: tuple[Any, ...] = ()


class _Job(NamedTuple):
    """A reverse process: its arguments, by how they travel, and its program."""

    shared: _Shared
    batched: _Batched
    key: jax.Array
    program: Any


@dataclasses.dataclass(frozen=True)
class _Program:
    """What one compiled reverse process is for; hashable.

    jaxlib 0.10 takes structures of different dataclasses for equal where their fields are as many,
    so `kinds`, the structure's hash, is what tells `Euler` from `Heun`.
    """

    structure: Any
    kinds: int
    places: tuple[Any, ...]
    shape: tuple[int, ...]
    levels: tuple[float, ...] | None

    @property
    def opaque(self) -> bool:
        """Whether it has parts that do not tell what they hold."""
        return any(not isinstance(place, _Place) for place in self.places)

    def __call__(self, shared: _Shared, batched: _Batched, key: jax.Array) -> Array:
        """Puts denoiser and solver together again and runs the reverse process."""
        travelling = {
            _Place.SHARED: iter(shared.leaves),
            _Place.PER_EXAMPLE: iter(batched.per_example),
        }
        nodes = [
            next(travelling[place]) if isinstance(place, _Place) else place for place in self.places
        ]
        denoiser, solver = jax.tree.unflatten(self.structure, nodes)
        levels: Any = next(
            given for given in (self.levels, shared.levels, batched.levels) if given is not None
        )
        return reverse(
            denoiser,
            solver,
            key,
            batched.index,
            batched.cond,
            batched.z,
            shape=self.shape,
            levels=levels,
        )


def _job(denoiser, key, cond, shape, schedule, solver, grid, steps, z, batch, offset) -> _Job:
    """Checks the arguments of a front and sorts them by how they travel."""
    denoiser, key = checks.function("denoiser", denoiser), checks.random_key(key)
    cond, shape = condition.arrays("cond", cond), arguments.example_shape(shape)
    z = arguments.noise(z)
    count = arguments.count(cond, z, batch)
    arguments.extent(count, shape, z)
    dtype = jnp.promote_types(jnp.result_type(float) if z is None else z.dtype, jnp.float32)
    solver, levels = arguments.walk(schedule, solver, grid, steps, count, dtype)
    nodes, structure = jax.tree.flatten(
        (denoiser, jax.tree.map(_knob, solver)), is_leaf=lambda n: isinstance(n, PerExample)
    )
    places = tuple(_place(node) for node in nodes)
    leaves, per_example = (
        [jax.tree.map(_strong, n) for n, p in zip(nodes, places, strict=True) if p is place]
        for place in (_Place.SHARED, _Place.PER_EXAMPLE)
    )
    if per_example and condition.batch_size(per_example) != count:
        raise ValueError(
            f"the batch has {count} examples, but what guidance has for each, such as w or a "
            f"negative condition, is for {condition.batch_size(per_example)}"
        )
    traced, static = (None, levels) if isinstance(levels, tuple) else (levels, None)
    each = traced is not None and traced.ndim == 2
    index = noise.numbers(offset, count)
    return _Job(
        _Shared(leaves, None if each else traced),
        _Batched(index, cond, z, per_example, traced if each else None),
        key,
        _Program(structure, hash(structure), places, shape, static),
    )


def _bound(denoiser, key, cond, settings: dict[str, Any]) -> tuple[_Job, int]:
    """The job of a front that takes the arguments of `sample`, and its number of examples."""
    bound = _SIGNATURE.bind(denoiser, key, cond, **settings)
    bound.apply_defaults()
    job = _job(**bound.arguments)
    return job, len(job.batched.index)


class _Place(enum.Enum):
    """Marks a leaf that travels as an array; every other leaf is static."""

    SHARED = enum.auto()
    PER_EXAMPLE = enum.auto()


def _place(node: Any) -> Any:
    if isinstance(node, PerExample):
        return _Place.PER_EXAMPLE
    arrays = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    return _Place.SHARED if isinstance(node, arrays) else node


def _knob(leaf: Any) -> Any:
    """A solver's knob as a float; a function that it holds stays what it is."""
    return leaf if callable(leaf) else floating(leaf)


def _strong(value: Any) -> Array:
    """An array with a dtype of its own: 0.3 and jnp.float32(0.3) must not compile twice."""
    return jnp.asarray(value, jnp.result_type(value))


def _traced(job: _Job, parts: int) -> _Job:
    """A job whose program holds nothing: one with opaque parts is traced, for a part of the batch.

    Args:
      job: The job, its batch a multiple of `parts`.
      parts: Of how many equal parts the program sees one.
    """
    if not job.program.opaque:
        return job
    part = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((a.shape[0] // parts, *a.shape[1:]), a.dtype), job.batched
    )
    closed = jax.make_jaxpr(lambda *given: job.program(*given))(job.shared, part, job.key)
    return job._replace(
        shared=job.shared._replace(held=tuple(closed.consts)), program=TracedProgram(closed)
    )


def _run(shared: _Shared, batched: _Batched, key: jax.Array, program) -> Array:
    return program(shared, batched, key)


_jitted = jax.jit(_run, static_argnums=3)
_pmapped = jax.pmap(_run, in_axes=(None, 0, None), static_broadcasted_argnums=3)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _sharded(shared, batched, key, program, mesh):
    """`_run` on every device of the mesh, each on its share of the batch."""
    split = PartitionSpec(mesh.axis_names)
    return jax.shard_map(
        lambda shared, batched, key: program(shared, batched, key),
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
