"""Parameters in a .safetensors file: arrays by name and a few words, nothing that can run."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from cfg_jax.runtime.files import atomic

SEPARATOR = "."


def write(path: str | os.PathLike, params: Any, metadata: dict[str, str]) -> None:
    """Writes nested dictionaries of arrays, whole or not at all.

    Args:
      path: The file; its folder is made.
      params: Such as a network's variables; its names are joined by dots.
      metadata: Texts by name.
    """
    flat = traverse_util.flatten_dict(params, sep=SEPARATOR)
    arrays = {name: np.ascontiguousarray(array) for name, array in flat.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(safetensors.numpy.save(arrays, metadata))


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, str]]:
    """What `write` wrote: the nested dictionaries, and the metadata.

    Raises:
      ValueError: There is no such file, or it is none of this format.
    """
    if not Path(path).is_file():
        raise ValueError(f"the weights file {path} does not exist")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            flat = {name: file.get_tensor(name) for name in list(file.keys())}
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged, or not a .safetensors file: {error}") from None
    return traverse_util.unflatten_dict(flat, sep=SEPARATOR), metadata
