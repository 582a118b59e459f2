"""Trained networks that travel: as one .safetensors file, and as a run that was trained elsewhere.

The file holds the parameters, those beside them that were not trained under "frozen", and in its
metadata the recipe and what is known of the data, as a work directory's config.json does.
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cfg_jax import recipe
from cfg_jax.blueprint import Blueprint, FrozenParameters, blueprint
from cfg_jax.conditions import Label, Small
from cfg_jax.data import Folder
from cfg_jax.interop import guided_diffusion
from cfg_jax.interop.guided_diffusion import Architecture
from cfg_jax.model import Model
from cfg_jax.networks import Encoder
from cfg_jax.nn import TimestepFeatures
from cfg_jax.objectives import CrossEntropy
from cfg_jax.parts import Classes, Facts
from cfg_jax.recipe.claims import claim
from cfg_jax.recipe.description import Description, from_json, to_json
from cfg_jax.recipe.slots import FACTS, fields
from cfg_jax.run import Run
from cfg_jax.runtime import manifest, safetensors_file, torch_file
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.sampling.grids import UniformU
from cfg_jax.sampling.solvers import Ancestral
from cfg_jax.training.state import State

FROZEN = "frozen"
"""Where the file holds parameters that were not trained."""

ELSEWHERE = "elsewhere"
"""The path of data that did not come along."""


def export(run: Run, path: str | os.PathLike) -> None:
    """Writes a run's parameters, the moving average that was loaded, to a .safetensors file."""
    description = Description(run.config.as_configdict(), run.facts)
    metadata = {"cfg_jax": to_json(description), "step": str(run.step)}
    frozen = {"codec": run.codec_params, "condition": run.condition_params}
    held = {FROZEN: frozen} if jax.tree.leaves(frozen) else {}
    safetensors_file.write(path, {**run.params, **held}, metadata)


def read_model(path: str | os.PathLike) -> Model:
    """The model in a file that `export` wrote.

    Raises:
      ValueError: The file cannot be read, or holds something else.
    """
    file = _read(path)
    return Model(**file.plan.model(jax.tree.map(jnp.asarray, file.params)))


def read_description(path: str | os.PathLike) -> Description:
    """The recipe in a file that `export` wrote, and what is known of its data.

    Raises:
      ValueError: The file cannot be read, or holds something else.
    """
    return _read(path).description


def import_run(path: str | os.PathLike, workdir: Path) -> None:
    """Makes a run of a file that `export` wrote.

    Raises:
      ValueError: The file cannot be read, holds something else or numbers that are not finite, or
        the directory holds a run.
    """
    file = _read(path)
    _check_finite(path, file.params)
    params = jax.tree.map(jnp.asarray, file.params)
    create_run(workdir, file.description, params, file.step, file.plan.frozen)


def import_guided_diffusion(path: str | os.PathLike, name: str, workdir: Path) -> None:
    """Makes a run of a file of guided-diffusion's, a published network of a name.

    Raises:
      ValueError: There is no such network, the file cannot be read, is not of it or holds numbers
        that are not finite, or the directory holds a run.
    """
    arch = guided_diffusion.architecture(name)
    tensors = torch_file.read(path)
    try:
        params = guided_diffusion.parameters(tensors, arch)
    except ValueError as error:
        raise ValueError(f"{path} is not of {name}: {error}") from None
    _check_finite(path, params)
    config, classes = _published(arch)
    names = tuple(map(str, range(classes)))
    arrays = {"label": jax.ShapeDtypeStruct((), np.int32)} if names else {}
    create_run(workdir, Description(config, Facts(arch.shape, names, arrays)), params)


def _published(arch: Architecture) -> tuple[ConfigDict, int]:
    """The recipe of a published network, sampled as it was published, and its number of classes."""
    config, network = recipe.default(), arch.network
    config.data = recipe.node(Folder, path=ELSEWHERE, image_size=arch.side)
    config.schedule = recipe.node(type(arch.schedule), steps=arch.schedule.steps)
    held = {name: getattr(network, name) for name in fields(type(network)) if name not in FACTS}
    config.network = recipe.node(type(network), **held | {"level_features": TimestepFeatures})
    config.condition.label = None
    classes = 0
    if isinstance(network, Encoder):
        config.objective, config.train.sample_every = recipe.node(CrossEntropy), 0
        classes = network.num_classes or 0
        config.condition.label = recipe.node(Label, p_uncond=0.0, has_null=False)
    for name, inlet in getattr(network, "inlets", None) or ():
        if isinstance(inlet, Classes):
            classes = inlet.count
            config.condition[name] = recipe.node(Label, p_uncond=0.0, has_null=False)
        else:
            config.condition[name] = recipe.node(Small, factor=arch.side // inlet.shape[0])
    config.sample.w = 0.0
    config.sample.steps = 250
    learned = getattr(network, "learned_variance", False)
    config.sample.solver = recipe.node(Ancestral, v=None if learned else 0.0)
    config.sample.grid = recipe.node(UniformU)
    recipe.check(config)
    return config, classes


def create_run(
    workdir: Path,
    description: Description,
    params: Any,
    step: int = 0,
    frozen: FrozenParameters | None = None,
) -> None:
    """Makes a work directory of parameters alone: to load, to sample and to evaluate.

    Args:
      workdir: The directory; it may exist, but hold no checkpoint.
      description: The recipe, and what is known of the data.
      params: The network's variables.
      step: How many steps they were trained.
      frozen: Parameters that were not; none when None.

    Raises:
      ValueError: The directory holds a run already.
    """
    with Checkpoints(workdir) as checkpoints:
        if checkpoints.steps():
            raise ValueError(f"{workdir} holds a run already; give another --workdir")
        claim(workdir, description)
        if frozen is not None:
            checkpoints.save_frozen(frozen._asdict())
        count = jnp.asarray(step, jnp.int32)
        state = State(count, jnp.zeros((), jnp.int32), params=(), ema=(params,), opt_state=())
        checkpoints.save(state, batch_size=description.config.train.batch_size)
        checkpoints.wait()


class _File(NamedTuple):
    """What a file holds, its parts checked against each other."""

    params: Any
    plan: Blueprint
    description: Description
    step: int


def _read(path: str | os.PathLike) -> _File:
    """Reads a file that `export` wrote."""
    params, metadata = safetensors_file.read(path)
    if "cfg_jax" not in metadata:
        raise ValueError(f"{path} was not written by `export`")
    try:
        description, step = from_json(metadata["cfg_jax"]), _step(metadata.get("step", ""))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    averages = description.config.averages  # one came along, whichever it was
    for name in list(averages)[1:]:
        averages[name] = None
    held = params.pop(FROZEN, None)
    frozen = held and FrozenParameters(held.get("codec", {}), held.get("condition", {}))
    plan = blueprint(description.config, description.facts, frozen)
    _check(path, params, jax.eval_shape(plan.init, jax.random.key(0)))
    return _File(params, plan, description, step)


def _step(text: str) -> int:
    """How many steps a network was trained, of what the metadata say."""
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= 2**31:
        raise ValueError(f"step must be a whole number from 0 to 2³¹ - 1, got {text[:40]!r}")
    return int(text)


def _check(path: Any, params: Any, like: Any) -> None:
    """Raises ValueError where parameters are not the network's."""
    try:
        held = {name: {"type": manifest.type_of(a)} for name, a in manifest.names(params).items()}
        manifest.check_types(manifest.names(like), held, whole=True)
    except ValueError as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{path} does not hold what its recipe asks for: {told}") from error


def _check_finite(path: Any, params: Any) -> None:
    """Raises ValueError where parameters are NaN or infinite."""
    wrong = [name for name, a in manifest.names(params).items() if not bool(jnp.isfinite(a).all())]
    if wrong:
        more = f" and {len(wrong) - 1} more arrays" if len(wrong) > 1 else ""
        raise ValueError(f"{path} holds numbers that are not finite, in {wrong[0]}{more}")
