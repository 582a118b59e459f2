"""What a recipe compiles to on a mesh: the first state, the step, and how their arrays lie.

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

from cfg_jax import recipe
from cfg_jax.blueprint import Blueprint, FrozenParameters, blueprint, described, profiles, ready
from cfg_jax.model import Model
from cfg_jax.parts import Facts
from cfg_jax.runtime import compiled
from cfg_jax.runtime import mesh as meshes
from cfg_jax.sampling import sample
from cfg_jax.training import state as states
from cfg_jax.training import step as steps
from cfg_jax.training.state import State
from cfg_jax.training.step import Frozen, Prepare, Step, make_step


class Program(NamedTuple):
    """A recipe's training on a mesh.

    Attributes:
      blueprint: The model that is trained.
      optimizer: Its optimiser.
      mesh: The devices.
      prepare: (frozen, batch, steps made before) -> what the network is asked.
      start: Makes the state before the first step, of the network's variables if these are given,
        jitted.
      step: (state, frozen, batch) -> (state, metrics), jitted, its state donated.
      state: Shapes of a state, and how its arrays lie on the mesh.
      frozen: What the step reads and never changes, on the host.
      batch: Shapes of a batch, and how its arrays lie on the mesh.
    """

    blueprint: Blueprint
    optimizer: optax.GradientTransformation
    mesh: Mesh
    prepare: Prepare
    start: Callable[..., State]
    step: Step
    state: State
    frozen: Frozen
    batch: dict[str, Any]


def build(
    config: ConfigDict,
    facts: Facts,
    mesh: Mesh | None = None,
    frozen: FrozenParameters | None = None,
    data: Any = None,
) -> Program:
    """Puts a recipe's training together; compiles nothing yet.

    Args:
      config: The recipe.
      facts: What is known of the data.
      mesh: See `mesh.device_mesh`; the devices that can share the batch, and hold the state, when
        None.
      frozen: Parameters that are not trained; read from where the recipe says when None.
      data: As in `blueprint`.

    Returns:
      The program.

    Raises:
      ValueError: The devices do not divide the batch, or the parts of the model do not fit each
        other or the data.
    """
    train = config.train
    if mesh is not None:
        meshes.check_batch_size(train.batch_size, mesh, train.accumulate)
    plan = blueprint(config, facts, frozen, data)
    _check_parts(plan.objective, train.accumulate)
    optimizer = _optimizer(config, getattr(plan.network, "apart", ()))
    averages = profiles(config)

    def start(params: Any = None) -> State:
        first = plan.init if params is None else lambda _: params
        return states.init(first, optimizer, train.seed, len(averages))

    shapes = jax.eval_shape(start)
    _check_optimizer(config.optimiser.kind, optimizer, shapes)
    if mesh is None:
        mesh = meshes.fitting(
            train.batch_size, config.mesh.fsdp, train.accumulate, held=(shapes, shapes.params)
        )
    layout = meshes.shardings(shapes, mesh, config.mesh.rules, config.mesh.min_size)
    whole = meshes.replicated(mesh)
    prepare = functools.partial(steps.prepare, blueprint=plan, seed=train.seed)
    # The network gets its parameters whole: left to itself, the compiler may split activations.
    step = make_step(
        plan,
        optimizer,
        prepare=prepare,
        averages=averages,
        accumulate=train.accumulate,
        gather=functools.partial(jax.lax.with_sharding_constraint, shardings=whole),
        scatter=functools.partial(jax.lax.with_sharding_constraint, shardings=layout.params),
    )
    program = Program(
        plan,
        optimizer,
        mesh,
        prepare,
        jax.jit(start, out_shardings=layout, compiler_options=compiled.once(whole.device_set)),
        jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(layout, whole),
            compiler_options=compiled.patient(whole.device_set),
        ),
        _laid_out(shapes, layout),
        Frozen(ready(plan.objective), *plan.frozen),
        _batch(plan, train.batch_size, meshes.split(mesh)),
    )
    _check(program, whole)
    return program


def drawn(model: Model, key: Any, cond: Any, count: int, front: Callable[..., Any] = sample) -> Any:
    """Latents of samples as a model's recipe says, of a condition that is encoded already.

    Args:
      model: The model.
      key: A JAX random key.
      cond: The condition, as the network is shown it.
      count: The number of samples.
      front: What samples, such as `cfg_jax.sample`.
    """
    how = model.sampling
    return front(
        model.guided(),
        key,
        cond,
        shape=model.shape,
        schedule=model.schedule,
        solver=how.solver,
        grid=how.grid,
        steps=how.steps,
        batch=None if cond else count,
    )


def _optimizer(config: ConfigDict, apart: tuple[str, ...]) -> optax.GradientTransformation:
    """The recipe's optimiser; parts of the parameters that stand apart have one of their own."""

    def make() -> optax.GradientTransformation:
        return recipe.make(
            config.optimiser,
            "optimiser",
            path="config.optimiser",
            train_steps=config.train.steps,
        )

    if not apart:
        return make()

    def labels(variables: Any) -> Any:
        def label(path: Any, _: Any) -> str:
            names = {getattr(key, "key", None) for key in path[:2]}
            return next((name for name in apart if name in names), "")

        return jax.tree_util.tree_map_with_path(label, variables)

    return optax.partition({name: make() for name in ("", *apart)}, labels)


def _check_parts(objective: Any, accumulate: int) -> None:
    """Raises ValueError where a batch would be taken in parts whose examples are compared."""
    if accumulate > 1 and getattr(objective, "compares", False):
        raise ValueError(
            f"config.train.accumulate must be 1: {type(objective).__name__} compares all examples "
            f"of a batch; got {accumulate}"
        )


def _check_optimizer(name: str, optimizer: optax.GradientTransformation, shapes: State) -> None:
    """Raises ValueError where an optimiser wants more than gradients and parameters."""
    try:
        jax.eval_shape(optimizer.update, shapes.params, shapes.opt_state, shapes.params)
    except TypeError as error:
        raise ValueError(
            f"config.optimiser: {name} is no optimiser of gradients alone: {error}"
        ) from None


def _check(program: Program, whole: Any) -> None:
    """Raises ValueError where the parts do not fit together; jit remembers the trace."""
    beside = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=whole),
        program.frozen,
    )
    jax.eval_shape(program.step, program.state, beside, program.batch)


def _batch(plan: Blueprint, size: int, place: Any) -> dict[str, Any]:
    """Shapes of a batch; of texts, that of what conditioners make of them."""
    facts = plan.facts
    arrays = {
        "x": jax.ShapeDtypeStruct(facts.shape, facts.dtype),
        **facts.arrays,
        **{name: made.null for name, made in plan.conditioners if name in facts.texts},
        "replaced": jax.ShapeDtypeStruct((), jnp.int32),
    }
    if getattr(plan.codec, "cached", False):
        arrays["latents"] = described(plan.codec, plan.frozen.codec, facts.shape)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype, sharding=place), arrays
    )


def _laid_out(shapes: Any, layout: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        layout,
    )
