"""What a config compiles to on a mesh: the first state, the step, and how their arrays lie.

The training loop runs it, a replay runs it again, and the planner compiles it for devices that are
not there.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cfg_jax.networks import Encoder, UNet
from cfg_jax.runtime import mesh as meshes
from cfg_jax.training import config as recipe
from cfg_jax.training import state as states
from cfg_jax.training import step as steps
from cfg_jax.training.state import State
from cfg_jax.training.step import Prepare, Step, make_step


class Program(NamedTuple):
    """A config's training on a mesh.

    Attributes:
      network: What is trained: the U-Net or the encoder.
      optimizer: Its optimiser.
      mesh: The devices.
      prepare: (batch, steps made before) -> what the network is asked.
      start: Makes the state before the first step, jitted.
      step: (state, batch) -> (state, metrics), jitted, its state donated.
      state: Shapes of a state, and how its arrays lie on the mesh.
      batch: The same of a batch.
    """

    network: UNet | Encoder
    optimizer: optax.GradientTransformation
    mesh: Mesh
    prepare: Prepare
    start: Callable[[], State]
    step: Step
    state: State
    batch: dict[str, jax.ShapeDtypeStruct]


def build(config: ConfigDict, shape: tuple[int, ...], num_classes: int, mesh: Mesh) -> Program:
    """Puts a config's training together; compiles nothing yet.

    Args:
      config: The recipe.
      shape: One image's (height, width, channels).
      num_classes: Of the data.
      mesh: See `mesh.device_mesh`.

    Returns:
      The program.

    Raises:
      ValueError: The devices do not divide the batch, or the network cannot take the images.
    """
    train = config.train
    meshes.check_batch_size(train.batch_size, mesh, train.accumulate)
    network, optimizer = recipe.trained(config, num_classes), recipe.optimizer(config)
    averages = recipe.averages(config)

    def start() -> State:
        return states.init(network, optimizer, shape, train.seed, len(averages))

    shapes = jax.eval_shape(start)
    layout = meshes.shardings(shapes, mesh, config.mesh.rules, config.mesh.min_size)
    whole, split = meshes.replicated(mesh), meshes.split(mesh)
    prepare = functools.partial(
        steps.prepare,
        network=network,
        schedule=recipe.schedule(config),
        p_uncond=config.p_uncond,
        seed=train.seed,
        small_p_uncond=config.small.p_uncond,
        small_logsnr_min=config.small.logsnr_min,
    )
    # The network gets its parameters whole: left to itself, the compiler may split activations.
    step = make_step(
        network,
        optimizer,
        prepare=prepare,
        loss=recipe.loss(config),
        schedule=recipe.schedule(config),
        averages=averages,
        accumulate=train.accumulate,
        gather=functools.partial(jax.lax.with_sharding_constraint, shardings=whole),
        scatter=functools.partial(jax.lax.with_sharding_constraint, shardings=layout.params),
    )
    batch = {
        "image": jax.ShapeDtypeStruct((train.batch_size, *shape), jnp.uint8, sharding=split),
        "label": jax.ShapeDtypeStruct((train.batch_size,), jnp.int32, sharding=split),
        "replaced": jax.ShapeDtypeStruct((train.batch_size,), jnp.int32, sharding=split),
    }
    if config.model.vector:
        size = (train.batch_size, config.model.vector)
        batch["vector"] = jax.ShapeDtypeStruct(size, jnp.float32, sharding=split)
    return Program(
        network,
        optimizer,
        mesh,
        prepare,
        jax.jit(start, out_shardings=layout),
        jax.jit(step, donate_argnums=0, out_shardings=(layout, whole)),
        _laid_out(shapes, layout),
        batch,
    )


def _laid_out(shapes: Any, layout: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        layout,
    )
