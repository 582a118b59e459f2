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

from cfg_jax.models import Encoder, UNet
from cfg_jax.training import config as recipe
from cfg_jax.training import mesh as meshes
from cfg_jax.training import state as states
from cfg_jax.training.state import State
from cfg_jax.training.step import Step, make_step


class Program(NamedTuple):
    """A config's training on a mesh.

    Attributes:
      network: What is trained: the U-Net or the encoder.
      optimizer: Its optimiser.
      mesh: The devices.
      start: Makes the state before the first step, jitted.
      step: (state, batch) -> (state, metrics), jitted, its state donated.
      state: Shapes of a state, and how its arrays lie on the mesh.
      batch: The same of a batch.
    """

    network: UNet | Encoder
    optimizer: optax.GradientTransformation
    mesh: Mesh
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
      ValueError: The devices do not divide the batch, the network cannot take the images, or is of
        a kind that is imported and not trained.
    """
    train = config.train
    for name in ("learned_variance", "upscale"):
        if config.model[name]:
            raise ValueError(
                f"config.model.{name} is for networks that `import` brings: nothing trains them"
            )
    meshes.check_batch_size(train.batch_size, mesh, train.accumulate)
    network, optimizer = recipe.trained(config, num_classes), recipe.optimizer(config)
    averages = recipe.averages(config)

    def start() -> State:
        return states.init(network, optimizer, shape, train.seed, len(averages))

    shapes = jax.eval_shape(start)
    layout = meshes.shardings(shapes, mesh, config.mesh.rules, config.mesh.min_size)
    whole, split = meshes.replicated(mesh), meshes.split(mesh)
    # The network gets its parameters whole: left to itself, the compiler may split activations.
    step = make_step(
        network,
        optimizer,
        loss=recipe.OBJECTIVES[config.objective],
        schedule=recipe.schedule(config),
        p_uncond=config.p_uncond,
        averages=averages,
        seed=train.seed,
        accumulate=train.accumulate,
        gather=functools.partial(jax.lax.with_sharding_constraint, shardings=whole),
        scatter=functools.partial(jax.lax.with_sharding_constraint, shardings=layout.params),
    )
    batch = {
        "image": jax.ShapeDtypeStruct((train.batch_size, *shape), jnp.uint8, sharding=split),
        "label": jax.ShapeDtypeStruct((train.batch_size,), jnp.int32, sharding=split),
        "replaced": jax.ShapeDtypeStruct((train.batch_size,), jnp.int32, sharding=split),
    }
    return Program(
        network,
        optimizer,
        mesh,
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
