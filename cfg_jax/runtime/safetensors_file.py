"""Parameters in a .safetensors file: arrays by name and a few words, nothing that can run."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from cfg_jax.runtime.files import atomic, check_regular, once

SEPARATOR = "."
METADATA = "__metadata__"

DEEPEST = 64
"""No name of an array has more parts."""

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E4M3FNUZ": np.dtype(jnp.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "F8_E5M2FNUZ": np.dtype(jnp.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(jnp.float8_e8m0fnu),
    "BF16": np.dtype(jnp.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
}
"""The format's dtypes whose entries have whole bytes."""


def write(path: str | os.PathLike, params: Any, metadata: dict[str, str]) -> None:
    """Writes nested dictionaries of arrays, whole or not at all.

    Args:
      path: The file; its folder is made.
      params: Such as a network's variables; its names are joined by dots.
      metadata: Texts by name.
    """
    flat = traverse_util.flatten_dict(params, sep=SEPARATOR)
    arrays = {name: np.asarray(array, order="C") for name, array in flat.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(safetensors.numpy.save(arrays, metadata))


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, str]]:
    """What `write` wrote: the nested dictionaries, and the metadata.

    Raises:
      ValueError: There is no such file, or it is none of this format.
    """
    check_regular(path, "the weights file")
    try:
        with safetensors.safe_open(path, framework="numpy"):
            flat, metadata = _read(Path(path))  # the library has checked each array's place
        return _nested(flat), metadata
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged, or not a .safetensors file: {told}") from None


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file whose header fits what follows it.

    It is eight bytes of the header's length, the header in JSON, and the arrays' bytes.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length), object_pairs_hook=once)
        metadata, flat = header.pop(METADATA, None), {}
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise ValueError(f"{name!r} is {entry['dtype']}, which cannot be read")
            start, end = entry["data_offsets"]
            file.seek(8 + length + start)
            entries = np.frombuffer(file.read(end - start), DTYPES[entry["dtype"]])
            flat[name] = entries.reshape(entry["shape"])
    return flat, metadata or {}


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays in dictionaries, by the parts of their names.

    Raises:
      ValueError: A name is that of an array and of what holds arrays, or has too many parts.
    """
    nested: dict[str, Any] = {}
    for name, array in flat.items():
        *outer, last = name.split(SEPARATOR)
        if len(outer) >= DEEPEST:
            raise ValueError(f"the name of an array has {len(outer) + 1} parts, {DEEPEST} at most")
        inside = nested
        for part in outer:
            inside = inside.setdefault(part, {})
            if not isinstance(inside, dict):
                raise ValueError(f"{name!r} lies within another array")
        if last in inside:
            raise ValueError(f"{name!r} is an array, and others lie within it")
        inside[last] = array
    return nested
