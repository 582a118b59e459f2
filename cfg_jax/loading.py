"""`cfg_jax.load`: a model of whatever lies at a path."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cfg_jax import recipe
from cfg_jax.blueprint import sampling
from cfg_jax.diffusion import checks
from cfg_jax.exchange import read_description, read_model
from cfg_jax.model import Model
from cfg_jax.recipe import Description
from cfg_jax.run import Run, load_run, shown_as


def describe(path: Path) -> Description:
    """The recipe of what lies at a path, and what is known of its data.

    Raises:
      ValueError: There is nothing that can be read.
    """
    return read_description(path) if path.is_file() else recipe.describe(path)


def sampling_as(model: Model, config: ConfigDict) -> Model:
    """A model that samples as a recipe's `sample`, `guidance` and conditioners say.

    Raises:
      ValueError: They have a mistake, or autoguidance's weaker model cannot be read.
    """
    if isinstance(model, Run):
        return model.sampling_as(config)
    return dataclasses.replace(
        model, sampling=sampling(config), conditioners=shown_as(model, config)
    )


def load(path: str | Path, *, step: int | None = None, ema: Any = None, dtype: Any = None) -> Model:
    """Loads a trained model.

    Args:
      path: A work directory of `train`, or a .safetensors file of `export`.
      step: Which checkpoint of a work directory; the newest good one when None.
      ema: Which moving average of a work directory: its name in the recipe, its decay or width, or
        any other width in (0, 0.28), made from the widths that were kept, of all checkpoints up to
        the step; the first when None.
      dtype: What the parameters are converted to, such as "bfloat16"; as they are when None.

    Returns:
      A `Run` of a work directory, else a `Model`.

    Raises:
      ValueError: There is nothing at the path that can be read, or no such step, average or dtype.
      TypeError: path is no path.
    """
    if not isinstance(path, (str, Path)):
        raise TypeError(f"path must be a work directory or a file, got {path!r}")
    wanted = None if dtype is None else _floating(dtype)
    if ema is not None and not isinstance(ema, (str, int, float)):
        raise ValueError(f"ema must be an average's name, decay or width, got {checks.told(ema)}")
    if step is not None:
        step = checks.whole("step", step, 0)
    place = Path(os.path.expanduser(path))
    if os.path.isfile(place):
        if step is not None or ema is not None:
            raise ValueError(f"step and ema belong to a work directory, and {place} is a file")
        model = read_model(place)
    else:
        model = load_run(place, step=step, ema=ema)
    if wanted is None:
        return model
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, wanted), model.params)
    return dataclasses.replace(model, params=params)


def _floating(dtype: Any) -> Any:
    """A dtype that parameters can have.

    Raises:
      ValueError: There is none of that name, or it is not of floats.
    """
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"dtype must be one of floats, such as bfloat16, got {dtype!r}")
    wide = jax.dtypes.canonicalize_dtype(found) == found
    if found.itemsize < 2 or not wide:
        why = "JAX_ENABLE_X64 is not set" if not wide else "no network computes in it"
        raise ValueError(f"dtype must be float16, bfloat16 or float32, got {found}: {why}")
    return found
