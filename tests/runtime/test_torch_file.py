"""Files of PyTorch: every tensor as it was saved, and nothing in them executed."""

import collections
import os
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from torch_files import STORAGES, Call, Global, Reference, View, pickled, save_plain, save_zip

from cfg_jax.runtime import torch_file

LAYOUTS = pytest.mark.parametrize("save", [save_zip, save_plain])


def array(dtype, *shape):
    values = np.random.default_rng(0).integers(0, 100, shape)
    return values.astype(jnp.bfloat16 if dtype == "bfloat16" else dtype)


@LAYOUTS
@pytest.mark.parametrize("dtype", STORAGES)
def test_every_dtype_comes_back(save, tmp_path, dtype):
    saved = {"layer.weight": array(dtype, 3, 4), "layer.scalar": array(dtype)}
    save(tmp_path / "f.pt", saved)
    read = torch_file.read(tmp_path / "f.pt")
    assert list(read) == list(saved)
    for name, value in saved.items():
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)
        assert not read[name].flags.writeable


@LAYOUTS
def test_strided_and_shared_tensors_are_views_of_their_storage(save, tmp_path):
    base = np.arange(24, dtype=np.float32)
    save(
        tmp_path / "f.pt",
        {
            "transposed": View(base, 0, (6, 4), (1, 6)),
            "part": View(base, 7, (2, 3), (6, 2)),
            "expanded": View(base, 5, (3, 2), (0, 1)),
            "empty": View(base, 24, (0, 4), (4, 1)),
        },
    )
    read = torch_file.read(tmp_path / "f.pt")
    np.testing.assert_array_equal(read["transposed"], base.reshape(4, 6).T)
    np.testing.assert_array_equal(
        read["part"], base[7 + 6 * np.arange(2)[:, None] + 2 * np.arange(3)]
    )
    np.testing.assert_array_equal(read["expanded"], [[5, 6]] * 3)
    assert read["empty"].shape == (0, 4)


@LAYOUTS
def test_nested_names_are_joined_and_what_is_no_tensor_is_left_out(save, tmp_path):
    weight = array("float32", 2)
    content = {"step": 7, "model": {"a": {"weight": weight}}, "name": "x", "none": None}
    save(tmp_path / "f.pt", content)
    assert list(torch_file.read(tmp_path / "f.pt")) == ["model.a.weight"]


def test_parameters_and_ordered_dictionaries_with_attributes_are_read(tmp_path):
    """As `module.state_dict()` is saved: an ordered dictionary with a `_metadata` attribute."""
    storage = Reference(("storage", Global("torch", "FloatStorage"), "0", "cpu", 2))
    hooks = Call(Global("collections", "OrderedDict"), ())
    tensor = Call(
        Global("torch._utils", "_rebuild_tensor_v2"), (storage, 0, (2,), (1,), False, hooks)
    )
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (tensor, True, hooks))
    body = pickled(hooks)[:-1] + b"(" + pickled("w")[2:-1] + pickled(parameter)[2:-1] + b"u"
    body += pickled({"_metadata": {"": 1}})[2:-1] + b"b."
    save_zip(tmp_path / "f.pt", {}, body=body)
    with zipfile.ZipFile(tmp_path / "f.pt", "a") as archive:
        archive.writestr("archive/data/0", np.array([1, 2], np.float32).tobytes())
    np.testing.assert_array_equal(torch_file.read(tmp_path / "f.pt")["w"], [1, 2])


class Attack:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@LAYOUTS
@pytest.mark.parametrize(
    ("body", "name"),
    [
        (pickle.dumps({"w": Attack()}, 2), "posix.mkdir"),
        (pickle.dumps({"w": Attack()}, 4), "posix.mkdir"),
        (pickled({"w": Call(Global("builtins", "eval"), ("1",))}), "builtins.eval"),
        (pickled({"w": Global("torch.nn.modules.linear", "Linear")}), "Linear"),
        (pickled({"w": Call(Global("torch", "load"), ("x",))}), "torch.load"),
        (pickled({"w": Global("collections", "OrderedDict.fromkeys")}), "fromkeys"),
        (pickle.dumps(collections.Counter("a"), 2), "collections.Counter"),
    ],
)
def test_nothing_else_is_executed(save, tmp_path, monkeypatch, body, name):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "f.pt", {}, body=body)
    with pytest.raises(ValueError, match=f"refused: it asks for .*{name}") as error:
        torch_file.read(tmp_path / "f.pt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


@LAYOUTS
@pytest.mark.parametrize(
    "view",
    [
        ((3, 4), (4, 1), 1),
        ((13,), (1,), 0),
        ((2,), (12,), 0),
        ((2,), (-1,), 5),
        ((2,), (1,), -1),
        ((-2,), (1,), 0),
        ((2, 2), (1,), 0),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(save, tmp_path, view):
    shape, strides, offset = view
    base = np.arange(12, dtype=np.float32)
    save(tmp_path / "f.pt", {"w": View(base, offset, shape, strides)})
    with pytest.raises(ValueError, match="damaged"):
        torch_file.read(tmp_path / "f.pt")


@LAYOUTS
def test_a_cut_file_is_refused(save, tmp_path):
    path = tmp_path / "f.pt"
    save(path, {"w": array("float32", 50)})
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a PyTorch weights file"):
            torch_file.read(path)


def test_a_flipped_bit_of_an_archive_is_found(tmp_path):
    path = tmp_path / "f.pt"
    save_zip(path, {"w": array("float32", 50)})
    whole = bytearray(path.read_bytes())
    whole[whole.index(array("float32", 50).tobytes()) + 9] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="damaged"):
        torch_file.read(path)


def test_a_storage_of_another_size_is_refused(tmp_path):
    path = tmp_path / "f.pt"
    save_zip(path, {"w": array("float32", 50)})
    with zipfile.ZipFile(path) as archive:
        body = archive.read("archive/data.pkl")
    save_zip(path, {}, body=body)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", bytes(4 * 51))
    with pytest.raises(ValueError, match="damaged"):
        torch_file.read(path)


@pytest.mark.parametrize(
    "options", [{"save": save_zip, "byteorder": b"big"}, {"save": save_plain, "little": False}]
)
def test_big_endian_files_are_refused(tmp_path, options):
    save = options.pop("save")
    save(tmp_path / "f.pt", {"w": array("float32", 3)}, **options)
    with pytest.raises(ValueError, match="big-endian"):
        torch_file.read(tmp_path / "f.pt")


def test_what_is_no_weights_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        torch_file.read(tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"the weights file .* is a folder, not a file"):
        torch_file.read(tmp_path)
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    (tmp_path / "text").write_text("weights, honestly")
    (tmp_path / "list").write_bytes(pickle.dumps([1, 2]))
    for name in ("a.npz", "text", "list"):
        with pytest.raises(ValueError, match="not a PyTorch weights file"):
            torch_file.read(tmp_path / name)
    save_zip(tmp_path / "none", {"step": 3})
    with pytest.raises(ValueError, match="holds no tensors"):
        torch_file.read(tmp_path / "none")
