"""What a checkpoint holds, bit for bit: sums of its arrays and of its files, in manifest.json.

An array's sum is taken on the devices, of the very values that were handed over to be saved, and
again of those that came back, so that a bit that changed anywhere in between is found. A file's sum
says which one is damaged, before anything is read from it.

An array of 32-bit words w_i, numbered in row-major order (shorter entries are widened, longer ones
split), has the sums

    h_i = mix(w_i ⊕ φ i)    a = Σ_i h_i mod 2³²
    g_i = mix(h_i ⊕ c)      b = Σ_i g_i mod 2³²

where φ and c are constants, φ odd, and mix is a bijection of 32-bit words, the finaliser of
MurmurHash3 (Appleby 2011). So a change within one word, such as a single flipped bit, always
changes a; any other stays unseen with a probability of about 2⁻⁶⁴. Integers add up to the same in
any order: the sums do not depend on how the array lies on devices and processes.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Shaped, UInt32

from cfg_jax.runtime.files import atomic, check_regular, checksum

NAME = "manifest.json"

PHI, OTHER = 0x9E3779B9, 0x7F4A7C15

WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}
"""What an entry of so many bytes is read as; one of eight bytes is two words."""

SMALL = 2**18
"""Up to so many entries on a CPU are summed by numpy: a program for each shape takes longer."""

Sums = tuple[Any, Any]
Arrays = dict[str, dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
      step: The training step it was made after.
      arrays: By item, and by name within it, an array's "type" and its "sum".
      files: By path within the checkpoint, a file's "size" and "sha256".
      frozen: The checksum of the frozen parameters it was made with; None if there were none.
    """

    step: int
    arrays: dict[str, Arrays]
    files: dict[str, dict[str, Any]]
    frozen: str | None = None


def names(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as "params/Conv_0/kernel".

    Raises:
      ValueError: Two leaves have the same path.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        raise ValueError("two arrays of one checkpoint have the same path: no key may hold a '/'")
    return named


def type_of(leaf: Any) -> str:
    """An array's type and shape, such as "float32[3,3,8]"."""
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def shapes(held: Arrays) -> dict[str, jax.ShapeDtypeStruct]:
    """Arrays' shapes and dtypes, from the types that a manifest holds."""
    found = {}
    for name, entry in held.items():
        dtype, shape = entry["type"].rstrip("]").split("[")
        sizes = tuple(int(size) for size in shape.split(",") if size)
        found[name] = jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))
    return found


def total(arrays: Arrays) -> str:
    """One checksum of all arrays: of their names, types and sums."""
    return _digest(arrays)


def identity(tree: Any) -> str:
    """One checksum of a pytree of arrays; trees of other paths, shapes or bits have another."""
    return total(take(names(jax.tree.map(jnp.asarray, tree))))


def take(arrays: Mapping[str, Array]) -> Arrays:
    """Sums every array on its devices.

    Each device sums what it holds, by its place in the whole, and each process adds up what its own
    devices have: programs that reach over several processes would have to run in one order in all.

    Args:
      arrays: By name, on any devices: real numbers, integers or booleans.

    Returns:
      Each array's type and sum, the same in every process; all have to ask.
    """
    found = jax.device_get({name: _shares(array) for name, array in arrays.items()})
    mine = [np.sum(found[name], axis=0, dtype=np.uint64) for name in arrays]
    totals = np.reshape(mine, (-1, 2)).astype(np.uint32)
    apart = [not (a.is_fully_replicated or a.is_fully_addressable) for a in arrays.values()]
    if any(apart):
        added = np.asarray(multihost_utils.process_allgather(totals)).sum(0, dtype=np.uint32)
        totals = np.where(np.array(apart)[:, None], added, totals)
    return {
        name: {"type": type_of(array), "sum": f"{a:08x}{b:08x}"}
        for (name, array), (a, b) in zip(arrays.items(), totals.tolist(), strict=True)
    }


def _shares(array: Array) -> list[Sums]:
    """The sums of one copy of what this process' devices hold of an array."""
    shards = array.addressable_shards
    if array.is_fully_replicated:
        copy = shards[:1]
    else:
        copy = [shard for shard in shards if shard.replica_id == 0]
    strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
    nothing = (np.uint32(0), np.uint32(0))
    return [_of_shard(s.data, strides, _first(s.index, strides)) for s in copy] or [nothing]


def _first(index: tuple[slice, ...], strides: tuple[int, ...]) -> np.uint32:
    """The number of a shard's first entry in the whole array, mod 2³²."""
    starts = (part.start or 0 for part in index)
    return np.uint32(sum(s * n for s, n in zip(strides, starts, strict=True)) % 2**32)


def _of_shard(array: Array, strides: tuple[int, ...], first: np.uint32) -> Sums:
    """`_sums` where the shard lies."""
    if array.size <= SMALL and next(iter(array.devices())).platform == "cpu":
        return _sums(np, np.asarray(array), strides, first)
    return _compiled_sums(array, strides, first)


def _sums(xp: Any, array: Any, strides: tuple[int, ...], first: Any) -> Sums:
    """The sums of a shard by `xp`, numpy or jax.numpy."""
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    words = xp.ravel(array).view(WORDS[array.dtype.itemsize]).astype(np.uint32)
    places = first
    for axis, stride in enumerate(strides):
        number = xp.arange(array.shape[axis], dtype=np.uint32)
        places = xp.expand_dims(places, -1) + np.uint32(stride % 2**32) * number
    places = xp.ravel(places)
    if words.size > places.size:  # an entry of eight bytes is two words
        places = xp.ravel(2 * places[:, None] + xp.arange(2, dtype=np.uint32))
    h = _mix(words ^ (np.uint32(PHI) * places))
    g = _mix(h ^ np.uint32(OTHER))
    return h.sum(dtype=np.uint32), g.sum(dtype=np.uint32)


@functools.partial(jax.jit, static_argnums=1)
def _compiled_sums(
    array: Shaped[Array, "..."], strides: tuple[int, ...], first: UInt32[Array, ""]
) -> Sums:
    return _sums(jnp, array, strides, first)


def _mix(h: Any) -> Any:
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def write(
    directory: Path, step: int, arrays: dict[str, Arrays], *, frozen: str | None = None
) -> None:
    """Sums the files of a checkpoint, and writes its manifest beside them.

    Args:
      directory: The checkpoint's own.
      step: See `Manifest`.
      arrays: See `Manifest`.
      frozen: See `Manifest`.

    Raises:
      OSError: A file cannot be read, or the manifest not be written.
    """
    files = {
        path.relative_to(directory).as_posix(): {
            "size": path.stat().st_size,
            "sha256": checksum(path),
        }
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    manifest = dataclasses.asdict(Manifest(step, arrays, files, frozen))
    with atomic(directory / NAME) as file:
        file.write(json.dumps({"sha256": _digest(manifest), "manifest": manifest}).encode())
        file.flush()
        os.fsync(file.fileno())


def read(directory: Path, step: int) -> Manifest:
    """Reads the manifest of the checkpoint of a step.

    Raises:
      ValueError: It is missing or damaged, or the checkpoint is another step's.
    """
    try:
        if (directory / NAME).exists():
            check_regular(directory / NAME)
        written = json.loads((directory / NAME).read_bytes())
        if written["sha256"] != _digest(written["manifest"]):
            raise ValueError("it does not have its own sum")
        manifest = Manifest(**written["manifest"])
    except FileNotFoundError:
        raise ValueError(f"{NAME} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{NAME} is damaged") from error
    if manifest.step != step:
        raise ValueError(f"it holds step {manifest.step}")
    return manifest


def check_files(directory: Path, files: Mapping[str, dict[str, Any]]) -> None:
    """Raises ValueError, naming files, unless they are as the manifest says."""
    found = ((name, _damage(directory / name, written)) for name, written in files.items())
    _refuse(f"{name} {damage}" for name, damage in found if damage)


def _damage(path: Path, written: dict[str, Any]) -> str | None:
    try:
        size = path.stat().st_size
        if size != written["size"]:
            return f"has {size} bytes instead of {written['size']}"
        return None if checksum(path) == written["sha256"] else "has changed since it was written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def check_types(wanted: Mapping[str, Any], held: Arrays, *, whole: bool, within: str = "") -> None:
    """Raises ValueError, naming arrays, unless those held have the names and types of those wanted.

    Args:
      wanted: Arrays, or their shapes, by name.
      held: What the manifest says.
      whole: Whether all that is held must be wanted; else all below the same top-level entries.
      within: The path below which alone arrays must be wanted; "" for all.
    """
    types = {name: type_of(leaf) for name, leaf in wanted.items()}
    tops = {name.split("/")[0] for name in types}
    found = {n: a["type"] for n, a in held.items() if whole or n.split("/")[0] in tops}
    found = {name: kind for name, kind in found.items() if name.startswith(within)}
    lacking = (f"{name}, {types[name]}, is not there" for name in types if name not in found)
    spare = (f"{name}, {found[name]}, is not wanted" for name in found if name not in types)
    pairs = {name: (found[name], types[name]) for name in types if name in found}
    other = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    told = [f"{name} is {has} where {wants} is wanted" for name, (has, wants) in other.items()]
    _refuse([*lacking, *spare, *(_of_precision(set(other.values())) or told)])


def _of_precision(pairs: set[tuple[str, str]]) -> list[str]:
    """A line in place of one for each array, where all differ as JAX_ENABLE_X64 has them differ."""
    shapes = [(has.partition("[")[2], wants.partition("[")[2]) for has, wants in pairs]
    kinds = {(has.partition("[")[0], wants.partition("[")[0]) for has, wants in pairs}
    for (has, wants), is_set in _BY_X64.items():
        if kinds == {(has, wants)} and all(one == other for one, other in shapes):
            return [f"it holds {has} where {wants} is wanted, as JAX_ENABLE_X64 is {is_set}"]
    return []


_BY_X64 = {("float32", "float64"): "set", ("float64", "float32"): "not set"}
"""What arrays are and should be where a run was trained under another setting of JAX's."""


def different(given: Arrays, held: Arrays) -> str:
    """Which arrays are in one alone, or of other types or values; empty if none is."""
    return _joined(
        f"{name} {_difference(given.get(name), held.get(name))}"
        for name in sorted(given.keys() | held.keys())
        if given.get(name) != held.get(name)
    )


def _difference(given: dict[str, str] | None, held: dict[str, str] | None) -> str:
    if given is None:
        return "is not given"
    if held is None:
        return "is not there"
    if given["type"] != held["type"]:
        return f"is {given['type']}, not {held['type']}"
    return "has other values"


def check_sums(found: Mapping[str, Arrays], held: Mapping[str, Arrays]) -> None:
    """Raises ValueError, naming arrays, unless those that came back, by item, are those saved."""
    _refuse(
        f"{name} of {item} came back with other values than were saved"
        for item, arrays in found.items()
        for name, entry in arrays.items()
        if entry != held[item][name]
    )


def _refuse(reasons: Iterable[str]) -> None:
    if found := _joined(reasons):
        raise ValueError(found)


def _joined(reasons: Iterable[str]) -> str:
    """The first three, and how many more there are."""
    found = list(reasons)
    more = f", and so with {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(found[:3]) + more


def _digest(manifest: Any) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
