"""Trained networks that travel: as one .safetensors file, and as a run that was trained elsewhere.

The file holds the parameters, and in its metadata the recipe, one image's shape and the names of
the classes, as a work directory's config.json does.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cfg_jax.interop import safetensors_file
from cfg_jax.run import Trained
from cfg_jax.runtime import manifest
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.training import config as recipe
from cfg_jax.training.state import State
from cfg_jax.training.workdir import Description, claim, from_json, to_json


def export(run: Trained, path: str | os.PathLike) -> None:
    """Writes a run's parameters, the moving average that was loaded, to a .safetensors file."""
    description = Description(run.config, run.shape, run.class_names)
    metadata = {"cfg_jax": to_json(description), "step": str(run.step)}
    safetensors_file.write(path, run.params, metadata)


def import_run(path: str | os.PathLike, workdir: Path) -> None:
    """Makes a run of a file that `export` wrote.

    Raises:
      ValueError: The file cannot be read, holds something else, or the directory holds a run.
    """
    params, metadata = safetensors_file.read(path)
    if "cfg_jax" not in metadata:
        raise ValueError(f"{path} was not written by `export`")
    try:
        description, step = from_json(metadata["cfg_jax"]), int(metadata["step"])
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    train = description.config.train  # one average came along, whichever it was
    train.ema, train.ema_widths = train.ema[:1], () if train.ema else train.ema_widths[:1]
    network = recipe.trained(description.config, len(description.class_names))
    _check(path, params, network.shapes(description.shape))
    create_run(workdir, description, jax.tree.map(jnp.asarray, params), step)


def create_run(workdir: Path, description: Description, params: Any, step: int = 0) -> None:
    """Makes a work directory of parameters alone: to load, to sample and to evaluate.

    Args:
      workdir: The directory; it may exist, but hold no checkpoint.
      description: The recipe, one image's shape and the names of the classes.
      params: The network's variables.
      step: How many steps they were trained.

    Raises:
      ValueError: The directory holds a run already.
    """
    with Checkpoints(workdir) as checkpoints:
        if checkpoints.steps():
            raise ValueError(f"{workdir} holds a run already; give another --workdir")
        claim(workdir, description)
        count = jnp.asarray(step, jnp.int32)
        state = State(count, jnp.zeros((), jnp.int32), params=(), ema=(params,), opt_state=())
        checkpoints.save(state, batch_size=description.config.train.batch_size)
        checkpoints.wait()


def _check(path: Any, params: Any, like: Any) -> None:
    """Raises ValueError where parameters are not the network's."""
    held = {name: {"type": manifest.type_of(a)} for name, a in manifest.names(params).items()}
    try:
        manifest.check_types(manifest.names(like), held, whole=True)
    except ValueError as error:
        raise ValueError(f"{path} does not hold what its recipe asks for: {error}") from error
