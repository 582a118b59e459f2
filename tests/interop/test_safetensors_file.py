"""Parameters in .safetensors files: what was written, and nothing that is not of the format."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from cfg_jax.interop import safetensors_file

KERNEL = jnp.arange(6.0).reshape(2, 3).T
PARAMS = {"params": {"a": {"kernel": KERNEL}, "b": jnp.ones((), jnp.int32)}}


def test_the_file_is_the_formats(tmp_path):
    """Eight bytes of length, a JSON header, the arrays' bytes (the format's own description)."""
    path = tmp_path / "f" / "p.safetensors"
    safetensors_file.write(path, PARAMS, {"told": "this"})
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert header["__metadata__"] == {"told": "this"}
    kernel = header["params.a.kernel"]
    assert (kernel["dtype"], kernel["shape"]) == ("F32", [3, 2])
    start, end = kernel["data_offsets"]
    values = np.frombuffer(raw[8 + length :][start:end], "<f4").reshape(3, 2)
    np.testing.assert_array_equal(values, KERNEL)


def test_what_the_library_wrote_is_read(tmp_path):
    path = tmp_path / "p.safetensors"
    save_file({"x.y": np.float32([1, 2]), "z": np.int64([3])}, path)
    params, metadata = safetensors_file.read(path)
    np.testing.assert_array_equal(params["x"]["y"], [1, 2])
    np.testing.assert_array_equal(params["z"], [3])
    assert metadata == {}


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(ValueError, match="does not exist"):
        safetensors_file.read(path)
    path.write_bytes(b"something else entirely")
    with pytest.raises(ValueError, match=r"not a \.safetensors file"):
        safetensors_file.read(path)
