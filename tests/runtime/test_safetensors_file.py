"""Parameters in .safetensors files: what was written, and nothing that is not of the format."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from cfg_jax.runtime import safetensors_file

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


def test_what_was_written_comes_back(tmp_path):
    path = tmp_path / "p.safetensors"
    safetensors_file.write(path, PARAMS, {"told": "this"})
    params, metadata = safetensors_file.read(path)
    assert metadata == {"told": "this"}
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    for got, want in zip(jax.tree.leaves(params), jax.tree.leaves(PARAMS), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_array_equal(got, want)


def entry(dtype="F32", shape=(1,), start=0, end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def raw(header, data=bytes(4), length=None):
    """A file of the format, with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize("name", safetensors_file.DTYPES)
def test_every_dtype_of_whole_bytes_is_read(tmp_path, name):
    dtype, path = safetensors_file.DTYPES[name], tmp_path / "p.safetensors"
    values = np.arange(1, 7).astype(dtype)
    path.write_bytes(raw({"a": entry(name, (2, 3), 0, values.nbytes)}, values.tobytes()))
    read = safetensors_file.read(path)[0]["a"]
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, values.reshape(2, 3))


ONE = json.dumps(entry()).encode()
DAMAGED = {
    "nothing": b"",
    "a few bytes": b"abc",
    "something else": b"something else entirely",
    "a length of petabytes": raw({"a": entry()}, length=2**60),
    "a length of more than there is": raw({"a": entry()}, length=2**16),
    "no JSON": raw(b"{'a'}"),
    "no object": raw(b"[]"),
    "no text": raw(b'{"\xff": ' + ONE + b"}"),
    "half a character": raw(b'{"\\ud800": ' + ONE + b"}"),
    "deeply nested": raw(b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
    "deeply nested metadata": raw(
        b'{"__metadata__": {"x": ' + b'{"x":' * 10**5 + b"1" + b"}" * 10**5 + b"}}"
    ),
    "metadata of numbers": raw({"__metadata__": {"a": 3}, "a": entry()}),
    "metadata that is a list": raw({"__metadata__": [], "a": entry()}),
    "an entry of nothing": raw({"a": {}}),
    "no such dtype": raw({"a": entry("F31")}),
    "a dtype of half bytes": raw({"a": entry("F4", (8,))}),
    "a negative size": raw({"a": entry(shape=(-1,))}),
    "sizes of more than there is": raw({"a": entry(shape=(10**8, 8))}),
    "sizes beyond 64 bits": raw({"a": entry(shape=(2**32, 2**32, 2**32))}),
    "offsets the other way": raw({"a": entry(start=4, end=0)}),
    "offsets beyond the end": raw({"a": entry(start=4, end=8)}),
    "a gap": raw({"a": entry(), "b": entry(start=8, end=12)}, bytes(12)),
    "arrays over each other": raw({"a": entry(), "b": entry()}),
    "bytes of nothing": raw({"a": entry()}, bytes(5)),
    "one array twice": raw(b'{"a": ' + ONE + b', "a": ' + ONE + b"}"),
    "a field twice": raw(b'{"a": ' + ONE[:-1] + b', "shape": [1]}}'),
    "metadata twice": raw(b'{"__metadata__": {}, "__metadata__": {}, "a": ' + ONE + b"}"),
    "a word of metadata twice": raw(b'{"__metadata__": {"x": "", "x": ""}, "a": ' + ONE + b"}"),
    "an array within an array": raw({"a": entry(), "a.b": entry(start=4, end=8)}, bytes(8)),
    "an array that holds another": raw({"a.b": entry(), "a": entry(start=4, end=8)}, bytes(8)),
    "a name of many parts": raw({"." * 10**5: entry()}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_in_one_line(tmp_path, name):
    path = tmp_path / "p.safetensors"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(ValueError, match=r"is damaged, or not a \.safetensors file: ") as error:
        safetensors_file.read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_file_cut_or_changed_anywhere_is_read_or_refused(tmp_path):
    """Every length, and in the header every place with a few other bytes."""
    path = tmp_path / "p.safetensors"
    safetensors_file.write(path, {"a": {"b": np.float32([1, 2])}, "c": np.int8([3])}, {"x": "y"})
    whole = path.read_bytes()
    cut = [whole[:length] for length in range(len(whole))]
    changed = [
        whole[:place] + bytes([new]) + whole[place + 1 :]
        for place in range(len(whole) - 9)
        for new in (*b'0"{,.', 0, 10, 255)
    ]
    said = []
    for content in cut + changed:
        path.write_bytes(content)
        try:
            safetensors_file.read(path)
        except ValueError as error:
            said.append(str(error))
    assert len(said) > len(cut)
    assert all(line.startswith(f"{path} is damaged") and "\n" not in line for line in said)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        safetensors_file.read(tmp_path / "p.safetensors")
