"""Trained networks that score samples, each in a file that serves until something changes."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding

from cfg_jax import __version__
from cfg_jax.evaluation import record
from cfg_jax.runtime import compiled


def fingerprint(
    module: nn.Module, shape: Sequence[int], arrays: Sequence[np.ndarray], **said: Any
) -> str:
    """A digest of all that decides a trained network.

    Args:
      module: The network.
      shape: Of what it is first shown, (1, ...).
      arrays: The data that it is trained and tested on.
      **said: What else there is, as JSON values.
    """
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))
    return digest(
        network=repr(jax.tree.map(lambda leaf: leaf.shape, params)),
        arrays=[[array.shape, of_array(array)] for array in arrays],
        **said,
    )


def begun(
    initialise: Callable[[], tuple[Any, Any]],
    update: Callable[..., Any],
    whole: NamedSharding,
    **placed: Any,
) -> tuple[tuple[Any, Any], Callable[..., Any]]:
    """A training's first parameters and optimiser state, and its update, compiled.

    Args:
      initialise: Makes the two.
      update: Takes the two first, which are donated, and returns them first.
      whole: Lays all that both return on every device.
      **placed: How `update`'s arguments lie, as `jax.jit` takes it.
    """
    devices = whole.device_set
    begin = jax.jit(initialise, out_shardings=whole, compiler_options=compiled.once(devices))
    descend = jax.jit(
        update,
        out_shardings=whole,
        donate_argnums=(0, 1),
        compiler_options=compiled.patient(devices),
        **placed,
    )
    return begin(), descend


def digest(**said: Any) -> str:
    """A digest of JSON values, and of this package's version."""
    description = {"version": __version__, **said}
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def of_array(array: np.ndarray) -> str:
    """A digest of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def write(path: Path, fingerprint: str, tree: Mapping[str, Any], **scores: float) -> None:
    """Keeps a network's parameters and what it scored on held-out data, as `record.keep`."""
    entries: dict[str, Any] = flatten_dict(jax.device_get(tree), sep="/")
    record.keep(path, fingerprint, entries | scores)


def read(path: Path, fingerprint: str, name: str, *scores: str) -> tuple[Any, list[float]] | None:
    """The parameters and scores in a file; None when it is missing, damaged or another one.

    Args:
      path: The file.
      fingerprint: Of the network that is wanted.
      name: What the network is, in warnings.
      *scores: The names of the scores.
    """
    entries = record.kept(
        path,
        fingerprint,
        damaged=f"training the {name} again",
        other=f"holds another {name}: training it again",
    )
    if entries is None:
        return None
    found = [float(entries.pop(score)) for score in scores]
    return unflatten_dict(jax.tree.map(jnp.asarray, entries), sep="/"), found
