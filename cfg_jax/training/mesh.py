"""The devices that training runs on, as one axis that splits the batch."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def data_mesh() -> Mesh:
    """All devices of all processes along the axis `data`."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Along the leading axis, a share a device."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts each process' share of a batch on its devices: together they are the global batch."""
    sharding = split(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless every device gets the same share of a batch."""
    if batch_size % mesh.size:
        raise ValueError(
            f"train.batch_size must be a multiple of the number of devices, {mesh.size}; "
            f"got {batch_size}"
        )
