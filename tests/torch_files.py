"""Writes files as PyTorch does, without it: pickles put together opcode by opcode."""

import pickle
import zipfile
from typing import Any, NamedTuple

import numpy as np

STORAGES = {
    "bfloat16": "BFloat16Storage",
    "bool": "BoolStorage",
    "float16": "HalfStorage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "int8": "CharStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
}


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Global
    arguments: tuple


class Reference(NamedTuple):
    identity: tuple


class View(NamedTuple):
    """A tensor: a view of another array's storage."""

    base: np.ndarray
    offset: int
    shape: tuple
    strides: tuple


def opcodes(value: Any) -> bytes:
    match value:
        case Global(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return opcodes(function) + opcodes(tuple(arguments)) + b"R"
        case Reference(identity):
            return opcodes(tuple(identity)) + b"Q"
        case dict():
            return b"}(" + b"".join(opcodes(k) + opcodes(v) for k, v in value.items()) + b"u"
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case _:
            return pickle.dumps(value, 2)[2:-1]


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + opcodes(value) + b"."


def _described(content: Any, storages: dict[str, np.ndarray], legacy: bool) -> Any:
    """`content` with a call that rebuilds it for every array, whose storage is noted down."""
    if isinstance(content, dict):
        items = {k: _described(v, storages, legacy) for k, v in content.items()}
        return items
    if isinstance(content, np.ndarray):
        steps = tuple(s // content.itemsize for s in content.strides)
        content = View(content, 0, content.shape, steps)
    if not isinstance(content, View):
        return content
    base, offset, shape, strides = content
    keys = {id(array): key for key, array in storages.items()}
    key = keys.get(id(base), str(len(storages)))
    storages[key] = base
    kind = Global("torch", STORAGES[base.dtype.name])
    identity = ("storage", kind, key, "cpu", base.size, *((None,) if legacy else ()))
    hooks = Call(Global("collections", "OrderedDict"), ())
    return Call(
        Global("torch._utils", "_rebuild_tensor_v2"),
        (Reference(identity), offset, shape, strides, False, hooks),
    )


def save_zip(path, content, *, byteorder=b"little", body=None):
    """As `torch.save` does; `body` takes the place of the pickle."""
    storages: dict[str, np.ndarray] = {}
    described = _described(content, storages, legacy=False)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body or pickled(described))
        archive.writestr("archive/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", b"3\n")


def save_plain(path, content, *, little=True, body=None):
    """As `torch.save` did before PyTorch 1.6."""
    storages: dict[str, np.ndarray] = {}
    described = _described(content, storages, legacy=True)
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": little})
    with open(path, "wb") as file:
        for part in head:
            file.write(pickled(part))
        file.write(body or pickled(described))
        file.write(pickle.dumps(sorted(storages), 2))
        for key in sorted(storages):
            file.write(storages[key].size.to_bytes(8, "little") + storages[key].tobytes())
