"""Reads the tensors of a PyTorch file, without PyTorch and without executing anything in it.

Such a file holds a pickle, which is a program: reading it with `pickle` runs whatever its author
wrote. Here the unpickler knows the storages and tensors of PyTorch and the ordered dictionary, and
any other name ends the reading. Two layouts are read, the zip archive of PyTorch 1.6 (2020) and
later, and the plain file before it:

    zip:    NAME/data.pkl, NAME/data/KEY (the bytes of one storage), NAME/byteorder
    plain:  four pickles (a magic number, a version, the system, the object), a pickled list of
            keys, and for each key its number of entries (8 bytes) and its bytes
"""

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from cfg_jax.runtime.files import check_regular

_DTYPES = {
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "BoolStorage": np.dtype(np.bool_),
    "ByteStorage": np.dtype(np.uint8),
    "CharStorage": np.dtype(np.int8),
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "IntStorage": np.dtype(np.int32),
    "LongStorage": np.dtype(np.int64),
    "ShortStorage": np.dtype(np.int16),
}

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
"""What a plain file begins with."""


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a PyTorch file by their names.

    Args:
      path: A file of `torch.save`: a dictionary of tensors, such as a state dictionary, which may
        hold further dictionaries.

    Returns:
      Read-only arrays in the file's order, of the dtype they were saved in (bfloat16 as
      JAX has it) and any strides. The names of nested dictionaries are joined by a dot:
      {"state_dict": {"a": …}} gives "state_dict.a". What is not a tensor is left out.

    Raises:
      ValueError: There is no such file, it is none of PyTorch's or damaged, it holds no tensors,
        or its pickle names anything but tensors.
    """
    path = Path(path)
    check_regular(path, "the weights file")
    try:
        with path.open("rb") as file:
            content, storages = (_zip if zipfile.is_zipfile(file) else _plain)(file)
            arrays = {name: _array(tensor, storages) for name, tensor in _tensors(content)}
    except _RefusedError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    except Exception as error:  # A damaged pickle can raise anything.
        raise ValueError(f"{path} is damaged, or not a PyTorch weights file") from error
    if not arrays:
        raise ValueError(f"{path} holds no tensors")
    return arrays


class _RefusedError(Exception):
    """A sound file of which more is asked than to read tensors."""


class _Storage(NamedTuple):
    """A run of numbers that tensors are views of."""

    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    """A view of the storage of that key, in its entries."""

    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Makes of a pickle its dictionaries, numbers and tensors, and refuses all else.

    Attributes:
      storages: What the tensors are views of, by key.
    """

    def __init__(self, file: Any):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The few things that a pickle may name, none of which does anything."""
        if module == "torch" and name in _DTYPES:
            return name
        known = {
            "collections.OrderedDict": OrderedDict,
            "torch.Size": tuple,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch._utils._rebuild_tensor_v2": _rebuilt,
        }
        if f"{module}.{name}" not in known:
            raise _RefusedError(
                f"it asks for {module}.{name}, which is no part of a weights file (nothing was "
                "executed); save the state dictionary alone: torch.save(model.state_dict(), path)"
            )
        return known[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> str:
        """Takes note of a storage and returns its key."""
        kind, name, key, _, size, *view = pid
        if kind != "storage" or any(view):
            raise pickle.UnpicklingError("a reference to something else than a storage")
        self.storages[key] = _Storage(_DTYPES[name], size)
        return key


def _rebuilt(key: str, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
    return _Tensor(key, offset, shape, strides)


def _zip(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    """The pickled object, and the storages by key, of a zip archive."""
    with zipfile.ZipFile(file) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = name.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            _check_order(archive.read(f"{folder}byteorder") == b"little")
        with archive.open(name) as pickled:
            unpickler = _Unpickler(pickled)
            content = unpickler.load()
        storages = {}
        for key, (dtype, size) in unpickler.storages.items():
            entry = archive.getinfo(f"{folder}data/{key}")
            if entry.file_size != size * dtype.itemsize:
                raise ValueError(f"{entry.filename} has another size than its tensors")
            storages[key] = np.frombuffer(archive.read(entry), dtype)
    return content, storages


def _plain(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    """The pickled object, and the storages by key, of a plain file."""
    file.seek(0)
    magic, version, system = (_Unpickler(file).load() for _ in range(3))
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError("another magic number or version")
    _check_order(system["little_endian"])
    unpickler = _Unpickler(file)
    content = unpickler.load()
    storages = {}
    for key in _Unpickler(file).load():
        dtype, size = unpickler.storages[key]
        if int.from_bytes(file.read(8), "little") != size:
            raise ValueError(f"the storage {key} has another size than its tensors")
        storages[key] = np.frombuffer(file.read(size * dtype.itemsize), dtype, size)
    return content, storages


def _check_order(little: bool) -> None:
    if not little:
        raise _RefusedError("it was written on a big-endian machine; save it again on another")


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, _Tensor]]:
    for name, value in content.items():
        if isinstance(value, _Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")


def _array(tensor: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    """The view, which must lie within its storage."""
    key, offset, shape, strides = tensor
    storage = storages[key]
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if min(offset, *shape, *strides, 0) < 0 or (all(shape) and last >= storage.size):
        raise ValueError("a tensor reaches beyond its storage")
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, [step * storage.itemsize for step in strides], writeable=False
    )
