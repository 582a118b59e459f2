"""How arrays lie on a mesh, against their shards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cfg_jax.runtime import mesh as meshes

TREE = {
    "dense": {"kernel": jnp.zeros((6, 16)), "bias": jnp.zeros(16)},
    "conv": {"kernel": jnp.zeros((3, 3, 8, 4)), "bias": jnp.zeros(6)},
    "step": jnp.zeros(()),
}


def specs(rules, min_size=1, fsdp=4):
    found = meshes.shardings(TREE, meshes.device_mesh(fsdp), rules, min_size)
    return jax.tree.map(lambda s: s.spec, found, is_leaf=lambda s: hasattr(s, "spec"))


def test_the_largest_dimension_that_can_be_is_split():
    assert specs(((".*", "largest"),)) == {
        "dense": {"kernel": P(None, "fsdp"), "bias": P("fsdp")},
        "conv": {"kernel": P(None, None, "fsdp"), "bias": P()},
        "step": P(),
    }


def test_the_first_rule_that_matches_decides_and_none_is_whole():
    found = specs((("bias$", "whole"), ("^conv/kernel", 3), ("dense", 0)))
    assert found["conv"] == {"kernel": P(None, None, None, "fsdp"), "bias": P()}
    assert found["dense"] == {"kernel": P(), "bias": P()}  # 6 rows, 4 devices
    assert specs((("bias", 0),))["dense"] == {"kernel": P(), "bias": P("fsdp")}


def test_small_arrays_stay_whole_and_so_do_all_without_fsdp():
    assert specs(((".*", "largest"),), min_size=97)["dense"]["kernel"] == P()
    assert specs(((".*", "largest"),), min_size=96)["dense"]["kernel"] == P(None, "fsdp")
    assert set(jax.tree.leaves(specs(((".*", "largest"),), fsdp=1))) == {P()}


def test_a_batch_is_split_over_all_devices_in_order():
    mesh = meshes.device_mesh(4)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4}
    batch = meshes.global_batch({"label": np.arange(16, dtype=np.int32)}, mesh)
    shares = [np.asarray(s.data).tolist() for s in batch["label"].addressable_shards]
    assert sorted(shares) == [[2 * i, 2 * i + 1] for i in range(8)]


@pytest.mark.parametrize("fsdp", [0, 3, 16])
def test_a_mesh_that_the_devices_do_not_make_is_refused(fsdp):
    with pytest.raises(ValueError, match=f"must divide the number of devices, 8; got {fsdp}"):
        meshes.device_mesh(fsdp)


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    mesh = meshes.device_mesh(2)
    meshes.check_batch_size(32, mesh, 4)
    with pytest.raises(ValueError, match=r"devices, 8 times train.accumulate, 4; got 16"):
        meshes.check_batch_size(16, mesh, 4)
    with pytest.raises(ValueError, match="devices, 8; got 12"):
        meshes.check_batch_size(12, mesh)


@pytest.mark.parametrize(
    ("batch", "fsdp", "accumulate", "size"),
    [(32, 1, 1, 8), (12, 1, 1, 6), (7, 1, 1, 7), (11, 1, 1, 1), (12, 2, 1, 6), (12, 1, 3, 4),
     (12, 4, 1, 4), (24, 2, 2, 6), (3, 1, 1, 3)],
)  # fmt: skip
def test_the_fitting_mesh_is_the_largest_that_shares_every_part_evenly(
    batch, fsdp, accumulate, size
):
    mesh = meshes.fitting(batch, fsdp, accumulate)
    meshes.check_batch_size(batch, mesh, accumulate)
    assert (mesh.size, mesh.shape["fsdp"]) == (size, fsdp)
    assert mesh.devices.ravel().tolist() == jax.devices()[:size]
    larger = range(size + fsdp, 9, fsdp)
    assert all(batch % (count * accumulate) for count in larger)


def test_a_batch_that_no_mesh_shares_is_refused():
    with pytest.raises(ValueError, match=r"must be a multiple of mesh\.fsdp, 2; got 9"):
        meshes.fitting(9, fsdp=2)
    with pytest.raises(ValueError, match=r"fsdp, 4 times train\.accumulate, 2; got 12"):
        meshes.fitting(12, fsdp=4, accumulate=2)
    with pytest.raises(ValueError, match="must divide the number of devices, 8; got 3"):
        meshes.fitting(9, fsdp=3)


@pytest.mark.parametrize(("copies", "fsdp", "size"), [(0, 1, 1), (3, 1, 2), (5, 1, 4), (99, 1, 8),
                                                     (0, 2, 2), (2, 2, 4), (3, 2, 4)])  # fmt: skip
def test_no_more_devices_than_copies_that_fit_into_half_the_memory(monkeypatch, copies, fsdp, size):
    """Of what each row of `fsdp` devices holds: 40 bytes. There is room for one too few beside."""
    held = {"kernel": jax.ShapeDtypeStruct((3, 3), jnp.float32), "bias": jnp.zeros(1)}
    monkeypatch.setattr(meshes.cores, "memory", lambda: 2 * 40 * (copies + 1) - 1)
    assert meshes.fitting(8, fsdp, held=held).size == size


def test_several_processes_refuse_a_batch_that_they_cannot_share(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert meshes.fitting(16).size == 8
    with pytest.raises(ValueError, match="multiple of the number of devices, 8; got 12"):
        meshes.fitting(12)
