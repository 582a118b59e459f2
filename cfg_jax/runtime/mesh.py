"""The devices that training runs on, and how arrays lie on them: sharding as data.

The mesh has two axes. The batch is split over both; parameters, their averages and the optimiser's
state are split over `fsdp` alone, so each of `data`'s rows holds them whole. A rule pairs a regular
expression, sought in a parameter's path ("params/middle_0/Conv_1/kernel"), with the dimension to
split: a number, "largest", or "whole" for none. The first rule that matches decides. The
optimiser's moments have their parameter's path within their own, and so lie as it does.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cfg_jax.runtime import cores

DATA, FSDP = "data", "fsdp"

Rules = Sequence[tuple[str, int | str]]


def device_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all processes, or those given, as a mesh of (data, fsdp).

    Args:
      fsdp: How many devices share one copy of the parameters.
      devices: Which devices; all when None.

    Returns:
      The mesh, `len(devices) // fsdp` by `fsdp`.

    Raises:
      ValueError: fsdp does not divide the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    if fsdp < 1 or count % fsdp:
        raise ValueError(f"mesh.fsdp must divide the number of devices, {count}; got {fsdp}")
    return jax.make_mesh(
        (count // fsdp, fsdp), (DATA, FSDP), axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def fitting(
    batch: int,
    fsdp: int = 1,
    accumulate: int = 1,
    devices: Sequence[jax.Device] | None = None,
    *,
    held: Any = (),
) -> Mesh:
    """The mesh of as many devices as can share every part of a batch evenly.

    One process may leave devices idle, so any batch can be trained; several use all they have.
    Devices of one processor share its memory: there are never more of them than copies of what
    each holds that fit into half of it.

    Args:
      batch: Examples a batch.
      fsdp: See `device_mesh`.
      accumulate: The parts that a batch is taken in.
      devices: Those to choose from; all of all processes when None.
      held: What every row of `fsdp` devices holds a copy of: arrays, or their shapes.

    Raises:
      ValueError: `fsdp` or `accumulate` does not fit, or several processes cannot share the batch.
    """
    chosen = jax.devices() if devices is None else devices
    whole = device_mesh(fsdp, devices)  # says whether fsdp fits
    if jax.process_count() > 1:
        check_batch_size(batch, whole, accumulate)
        return whole
    most = min(len(chosen), fsdp * _copies(held)) if chosen[0].platform == "cpu" else len(chosen)
    for count in range(most, 0, -fsdp):
        if batch % (count * accumulate) == 0:
            return device_mesh(fsdp, chosen[:count])
    given = " times ".join(
        f"{name}, {value}"
        for name, value in (("mesh.fsdp", fsdp), ("train.accumulate", accumulate))
        if value > 1
    )
    raise ValueError(f"train.batch_size must be a multiple of {given}; got {batch}")


def _copies(held: Any) -> int:
    """How many copies of some arrays half of the processor's memory has room for; one at least."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(held))
    return max(1, cores.memory() // 2 // max(size, 1))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Along the leading axis, a share a device."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def shardings(tree: Any, mesh: Mesh, rules: Rules, min_size: int) -> Any:
    """How every leaf of a tree of arrays lies on the mesh.

    Args:
      tree: Arrays, or their shapes.
      mesh: The mesh.
      rules: (regular expression, dimension | "largest" | "whole"), see the module.
      min_size: Arrays of fewer entries stay whole.

    Returns:
      A NamedSharding a leaf. A dimension that the axis does not divide stays whole; "largest" is
      the largest that it divides.
    """
    size = mesh.shape[FSDP]

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        chosen = next((dim for pattern, dim in rules if re.search(pattern, name)), "whole")
        divided = [i for i, n in enumerate(leaf.shape) if n and n % size == 0]
        if chosen == "largest":
            chosen = max(divided, key=lambda i: leaf.shape[i], default="whole")
        elif chosen != "whole" and chosen not in [d - len(leaf.shape) * (d < 0) for d in divided]:
            chosen = "whole"
        if size == 1 or chosen == "whole" or leaf.size < min_size:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * int(chosen), FSDP))

    return jax.tree_util.tree_map_with_path(place, tree)


def global_batch(batch: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Puts each process' share of a batch on its devices: together they are the global batch."""
    sharding = split(mesh)
    return jax.tree.map(
        lambda value: jax.make_array_from_process_local_data(sharding, value), batch
    )


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises ValueError unless every device gets the same share of every part of a batch."""
    if batch_size % (mesh.size * accumulate):
        parts = f" times train.accumulate, {accumulate}" if accumulate > 1 else ""
        raise ValueError(
            f"train.batch_size must be a multiple of the number of devices, {mesh.size}{parts}; "
            f"got {batch_size}"
        )
