"""Files that PyTorch itself wrote, in both layouts."""

import numpy as np
import pytest

from cfg_jax.runtime import torch_file

torch = pytest.importorskip("torch", reason="needs torch")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    ],
)
def test_tensors_of_every_kind_are_pytorchs(tmp_path, archive, dtype):
    base = torch.arange(24).to(getattr(torch, dtype))
    saved = {
        "whole": base,
        "part": base.reshape(4, 6)[1:3, ::2],
        "transposed": base.reshape(4, 6).T,
        "expanded": base[:3, None].expand(3, 5),
        "scalar": base[7],
        "empty": base[:0],
    }
    torch.save(saved, tmp_path / "f.pt", _use_new_zipfile_serialization=archive)
    read = torch_file.read(tmp_path / "f.pt")
    assert list(read) == list(saved)
    for name, want in saved.items():
        assert str(read[name].dtype) == dtype
        np.testing.assert_array_equal(
            read[name].astype(np.float64), want.to(torch.float64).numpy(), err_msg=name
        )


@pytest.mark.parametrize("archive", [True, False])
def test_the_state_of_a_module_is_read_and_the_module_itself_refused(tmp_path, archive):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    options = {"_use_new_zipfile_serialization": archive}
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    both = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}
    torch.save(both, tmp_path / "f.pt", **options)
    read = torch_file.read(tmp_path / "f.pt")
    for name, want in module.state_dict().items():
        np.testing.assert_array_equal(read[f"model.{name}"], want.numpy())
    np.testing.assert_array_equal(
        read["optimizer.state.0.exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"].numpy()
    )
    torch.save(module, tmp_path / "whole.pt", **options)
    with pytest.raises(ValueError, match=r"asks for torch\.nn\.modules"):
        torch_file.read(tmp_path / "whole.pt")


@pytest.mark.parametrize("archive", [True, False])
def test_parameters_are_read(tmp_path, archive):
    parameter = torch.nn.Parameter(torch.arange(3.0))
    torch.save({"w": parameter}, tmp_path / "f.pt", _use_new_zipfile_serialization=archive)
    np.testing.assert_array_equal(torch_file.read(tmp_path / "f.pt")["w"], [0, 1, 2])
