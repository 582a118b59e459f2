"""Sums of arrays against integers in numpy, and against every way that a value can change."""

import itertools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cfg_jax.diffusion.precision import enable_x64
from cfg_jax.runtime import manifest

TYPES = ["float32", "bfloat16", "float16", "int32", "uint32", "int8", "bool"]


def sum_of(array) -> str:
    return manifest.take({"x": jnp.asarray(array)})["x"]["sum"]


def oracle(array) -> str:
    """The docstring's equations on Python's integers."""

    def mix(h):
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        return h ^ (h >> 16)

    flat = np.ascontiguousarray(array).reshape(-1)
    words = flat.view({1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}[flat.itemsize])
    h = [mix(int(w) ^ (0x9E3779B9 * i % 2**32)) for i, w in enumerate(words)]
    g = [mix(x ^ 0x7F4A7C15) for x in h]
    return f"{sum(h) % 2**32:08x}{sum(g) % 2**32:08x}"


def values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    drawn = np.random.default_rng(0).normal(scale=50, size=shape)
    return drawn.astype(jnp.dtype(dtype))


@pytest.fixture(params=["numpy", "a program"])
def by(request, monkeypatch):
    """What sums: numpy, as for small arrays on CPUs, or a compiled program, as for all others."""
    if request.param == "a program":
        monkeypatch.setattr(manifest, "SMALL", -1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (7,), (3, 1, 5), (2, 3, 4, 5), (0, 3)])
def test_sums_are_the_equations(dtype, shape, by):
    array = values(dtype, shape)
    assert sum_of(array) == oracle(array)


def test_entries_of_eight_bytes_are_two_words(by):
    with enable_x64(True):
        array = np.random.default_rng(0).normal(size=(3, 4))
        assert jnp.asarray(array).dtype == jnp.float64
        assert sum_of(array) == oracle(array)


def test_any_single_flipped_bit_changes_the_first_sum():
    array = values("float32", (5, 3))
    good = sum_of(array)
    for i, bit in itertools.product(range(array.size), range(32)):
        changed = array.copy()
        changed.view(np.uint32).reshape(-1)[i] ^= np.uint32(1 << bit)
        assert sum_of(changed)[:8] != good[:8]


def test_what_leaves_plain_totals_as_they_are_is_seen():
    array = values("float32", (64,))
    zeros = np.zeros((64,), np.float32)
    one = zeros.copy()
    one[5] = 1.0
    changes = {
        "swapped": array[np.r_[1, 0, 2:64]],
        "reversed": array[::-1],
        "rolled": np.roll(array, 1),
        "two signs": array * np.where(np.arange(64) < 2, -1, 1).astype(np.float32),
        "all signs": -array,
        "negative zeros": zeros * -1,
        "one": one,
        "rolled one": np.roll(one, 1),
    }
    assert (zeros * -1 == zeros).all()
    sums = {name: sum_of(x) for name, x in {"as is": array, "zeros": zeros, **changes}.items()}
    assert len(set(sums.values())) == len(sums), sums


def test_the_second_sum_is_not_a_function_of_the_first():
    # 40,000 arrays of two words: many share their first sum's low bits, none both sums' of 16 bits.
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 2**32, (40_000, 2), dtype=np.uint32)
    a, b = jax.vmap(lambda pair: manifest._compiled_sums(pair, (1,), np.uint32(0)))(pairs)
    low = np.stack([np.asarray(a) & 0xFFF, np.asarray(b) & 0xFFF], axis=1)
    (both,) = np.unique(low, axis=0, return_counts=True)[1:]
    # 40,000²/2 pairs of arrays, 2⁻²⁴ of which agree in 24 bits: about 48.
    assert 20 < (both * (both - 1) // 2).sum() < 90


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "spec", [(), ("fsdp",), (None, "fsdp"), ("data", "fsdp"), (("data", "fsdp"),)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sums_do_not_depend_on_how_an_array_lies(count, spec, dtype, by):
    mesh = jax.make_mesh(
        (max(count // 2, 1), min(count, 2)),
        ("data", "fsdp"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[:count],
    )
    array = values(dtype, (16, 8, 3))
    laid = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    assert sum_of(laid) == oracle(array)


def test_names_are_paths_and_tell_leaves_apart():
    tree = ({"a": {"b": 1}}, [2, {"c": 3}])
    assert manifest.names(tree) == {"0/a/b": 1, "1/0": 2, "1/1/c": 3}
    with pytest.raises(ValueError, match="same path"):
        manifest.names({"a": {"b": 1}, "a/b": 2})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data").write_bytes(bytes(range(200)))
    (tmp_path / "note").write_text("{}")
    arrays = {"ema": manifest.take({"a/b": jnp.arange(6.0)})}
    manifest.write(tmp_path, 7, arrays)
    return tmp_path


def test_a_manifest_is_read_as_it_was_written(folder):
    held = manifest.read(folder, 7)
    entry = {"type": "float32[6]", "sum": oracle(np.arange(6, dtype=np.float32))}
    assert held.arrays == {"ema": {"a/b": entry}}
    assert {name: file["size"] for name, file in held.files.items()} == {"note": 2, "sub/data": 200}
    manifest.check_files(folder, held.files)


def read_or_refusal(folder):
    try:
        return manifest.read(folder, 7)
    except ValueError as error:
        return str(error)


def test_no_byte_of_a_manifest_changes_unseen(folder):
    path = folder / "manifest.json"
    whole = path.read_bytes()
    good = manifest.read(folder, 7)
    for i, bit in itertools.product(range(0, len(whole), 3), (0, 5)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << bit)]) + whole[i + 1 :])
        assert read_or_refusal(folder) in (good, "manifest.json is damaged")
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
            manifest.read(folder, 7)


def test_a_manifest_that_is_missing_or_of_another_step_is_refused(folder):
    with pytest.raises(ValueError, match="it holds step 7"):
        manifest.read(folder, 8)
    for text in (json.dumps({"other": "JSON"}), "[" * 100_000):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            manifest.read(folder, 7)
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match="missing"):
        manifest.read(folder, 7)
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(ValueError, match="damaged"):
        manifest.read(folder, 7)


def test_files_are_named_with_what_befell_them(folder):
    held, data = manifest.read(folder, 7), folder / "sub" / "data"
    data.write_bytes(bytes([1, *range(1, 200)]))
    with pytest.raises(ValueError, match="sub/data has changed since it was written"):
        manifest.check_files(folder, held.files)
    data.write_bytes(bytes(100))
    with pytest.raises(ValueError, match="sub/data has 100 bytes instead of 200"):
        manifest.check_files(folder, held.files)
    data.unlink()
    with pytest.raises(ValueError, match="sub/data is missing"):
        manifest.check_files(folder, held.files)
    data.mkdir()
    with pytest.raises(ValueError, match="sub/data has"):
        manifest.check_files(folder, held.files)


def test_arrays_of_another_model_are_named(folder):
    held = manifest.read(folder, 7).arrays["ema"]
    manifest.check_types({"a/b": jnp.zeros(6)}, held, whole=True)
    with pytest.raises(ValueError, match=r"a/b is float32\[6\] where float32\[5\] is wanted"):
        manifest.check_types({"a/b": jnp.zeros(5)}, held, whole=True)
    with pytest.raises(ValueError, match=r"a/b is float32\[6\] where int32\[6\] is wanted"):
        manifest.check_types({"a/b": jnp.zeros(6, jnp.int32)}, held, whole=True)
    with (
        enable_x64(),
        pytest.raises(ValueError, match="float64 is wanted, as JAX_ENABLE_X64 is set"),
    ):
        manifest.check_types({"a/b": jnp.zeros(6, float)}, held, whole=True)
    with pytest.raises(ValueError, match=r"a/c, float32\[6\], is not there"):
        manifest.check_types({"a/b": jnp.zeros(6), "a/c": jnp.zeros(6)}, held, whole=True)
    with pytest.raises(ValueError, match=r"a/b, float32\[6\], is not wanted"):
        manifest.check_types({"b": jnp.zeros(6)}, {**held, "b": held["a/b"]}, whole=True)
    manifest.check_types({"b": jnp.zeros(6)}, {**held, "b": held["a/b"]}, whole=False)
    with pytest.raises(ValueError, match="2 more"):
        manifest.check_types({f"c/{i}": jnp.zeros(6) for i in range(5)}, {}, whole=False)
