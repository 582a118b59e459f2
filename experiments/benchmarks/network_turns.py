"""A recipe's network, ready to take turns with others: a step of training, a draw of samples."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cfg_jax.data import Dataset
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.model import Model
from cfg_jax.runtime import mesh as meshes
from cfg_jax.training.loop import stream
from cfg_jax.training.program import build


def unguided(denoiser: Denoiser, null: Any) -> Denoiser:
    """The network alone, asked once a step where guidance by w = 0 asks twice."""
    return denoiser


class Turns(NamedTuple):
    """What one network is timed at, on the same batch each time.

    Attributes:
      training: Makes a step, and returns its loss.
      sampling: `steps -> turn`, which draws a sample for each condition of the batch, unguided.
      places: How many places z has.
      batch: Examples of a step, and samples of a draw.
    """

    training: Callable[[], jax.Array]
    sampling: Callable[[int], Callable[[], jax.Array]]
    places: int
    batch: int


def turns(config: ConfigDict, data: Dataset) -> Turns:
    """The turns of a recipe's network, at its first parameters: on those time does not depend.

    Args:
      config: The recipe; a codec that it names must be trained.
      data: What it is trained on.
    """
    program = build(config, data.facts, data=data)
    plan, mesh, count = program.blueprint, program.mesh, config.train.batch_size
    read = stream(config, data, plan, 0)
    batch = meshes.global_batch(next(read), mesh)
    read.close()
    frozen = jax.device_put(program.frozen, meshes.replicated(mesh))
    carried = [program.start()]
    model = Model(**plan.model(jax.tree.map(jnp.copy, carried[0].ema[0])))
    entries, _ = model.lend([data.source[i] for i in range(count)])

    def train() -> jax.Array:
        carried[0], metrics = program.step(carried[0], frozen, batch)
        return metrics.loss

    def sampling(steps: int) -> Callable[[], jax.Array]:
        how = {"guide": unguided, "steps": steps, "mesh": mesh}
        return functools.partial(model.sample, jax.random.key(0), entries, **how)

    places = math.prod(model.shape[:-1])
    return Turns(train, sampling, places, count)
