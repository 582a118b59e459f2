"""The plan of a recipe: its training step and sampler, compiled for chips that are not there."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cfg_jax.blueprint import FrozenParameters
from cfg_jax.model import Model
from cfg_jax.parts import Facts
from cfg_jax.planning.analysis import Analysis, Report, analyse
from cfg_jax.planning.search import Trial, largest
from cfg_jax.planning.topology import Topology
from cfg_jax.recipe import copied
from cfg_jax.runtime import mesh as meshes
from cfg_jax.sampling import sharded_sample
from cfg_jax.training.program import Program, build, drawn
from cfg_jax.training.state import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe needs on a topology.

    Attributes:
      config: The recipe.
      topology: The chips.
      facts: What is known of the data.
      parameters: The network's, their number.
      layout: Shapes of the training state, and how its arrays lie.
      frozen: Bytes a chip of what a step reads and never changes.
      training: One step.
      sampling: One batch of samples; None where it was left out.
      samples: The number of images in that.
    """

    config: ConfigDict
    topology: Topology
    facts: Facts
    parameters: int
    layout: State
    frozen: int
    training: Analysis
    sampling: Analysis | None
    samples: int

    @property
    def images(self) -> int:
        """Images that a chip has at a time."""
        train = self.config.train
        return train.batch_size // (len(self.topology.devices) * train.accumulate)

    @property
    def state(self) -> dict[str, int]:
        """Bytes a chip of each part of the training state."""
        return parts_a_chip(self.layout)

    def state_split(self, fsdp: int) -> int:
        """Bytes a chip of the training state, were it split so many ways."""
        mesh = meshes.device_mesh(fsdp, self.topology.devices)
        rules = self.config.mesh
        places = meshes.shardings(self.layout, mesh, rules.rules, rules.min_size)
        return sum(parts_a_chip(jax.tree.map(_laid, self.layout, places)).values())


def make_plan(
    config: ConfigDict,
    topology: Topology,
    *,
    facts: Facts,
    samples: int | None = None,
    report: Report = lambda line: None,
) -> Plan:
    """Compiles a recipe's training step and sampler.

    Args:
      config: The recipe.
      topology: The chips.
      facts: What is known of the data.
      samples: Images that are sampled at a time, over all chips; 0 leaves the sampler out; a
        training batch when None. A noisy classifier draws none.
      report: Takes lines of progress.

    Returns:
      The plan.

    Raises:
      ValueError: The chips do not divide the batch, or do not make the mesh, or the network cannot
        take the images, or samples are asked of a noisy classifier.
    """
    program = _program(config, topology, facts)
    draws = getattr(program.blueprint.objective, "kind", None) is not None
    count = config.train.batch_size * draws if samples is None else samples
    if count and not draws:
        raise ValueError(f"a noisy classifier draws no samples: samples must be 0, got {count}")
    return Plan(
        config=config,
        topology=topology,
        facts=facts,
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.state.params)),
        layout=program.state,
        frozen=bytes_a_chip(frozen_shapes(program)),
        training=_step(program, config, topology, report),
        sampling=_sampler(program, topology, count, report) if count else None,
        samples=count,
    )


def search(
    config: ConfigDict,
    topology: Topology,
    *,
    facts: Facts,
    report: Report = lambda line: None,
) -> tuple[ConfigDict, list[Trial]]:
    """Looks for the largest batch of a recipe that fits.

    Args:
      config: The recipe; the search starts at its batch.
      topology: The chips.
      facts: What is known of the data.
      report: Takes lines of progress.

    Returns:
      The recipe at the largest batch found, and all that were compiled.

    Raises:
      ValueError: As `make_plan`, or not even one image a chip fits.
    """
    chips = len(topology.devices) * config.train.accumulate
    first = _program(config, topology, facts)

    def of(images: int) -> ConfigDict:
        changed = copied(config)
        changed.train.batch_size = images * chips
        return changed

    def measure(images: int) -> tuple[int, bool]:
        there = of(images)
        program = _program(there, topology, facts, first.blueprint.frozen)
        found = _step(program, there, topology, report)
        return found.used, found.fits

    start = config.train.batch_size // chips
    trials = largest(measure, start=start, limit=topology.chip.hbm)
    best = max((t.images for t in trials if t.fits), default=0)
    if not best:
        raise ValueError(
            f"no batch fits {topology.name}: one image a chip needs "
            f"{min(t.used for t in trials) / 2**30:.2f} GiB; try mesh.fsdp"
        )
    return of(best), trials


def bytes_a_chip(tree: Any) -> int:
    """Bytes that one chip has of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def parts_a_chip(state: State) -> dict[str, int]:
    """Bytes a chip of each part of a training state, by what the report calls it."""
    return {
        "parameters": bytes_a_chip(state.params),
        "their averages": bytes_a_chip(state.ema),
        "the optimiser's": bytes_a_chip(state.opt_state),
    }


def frozen_shapes(program: Program) -> Any:
    """Shapes of what a step reads and never changes, whole on every chip."""
    return _whole(program.frozen, program)


def model_of_shapes(program: Program) -> Model:
    """The model that a program trains, of shapes, whole on every chip.

    The weaker network of autoguidance is taken to be as large as the network.
    """
    plan = program.blueprint
    model = Model(**_whole_fields(program, plan.model(program.state.params)))
    weaker = getattr(plan.sampling.guidance, "weak", None)
    return dataclasses.replace(model, weak=model) if weaker else model


def _whole_fields(program: Program, fields: dict[str, Any]) -> dict[str, Any]:
    """A model's fields, its parameters as shapes."""
    names = ("params", "codec_params", "condition_params")
    return {**fields, **{name: _whole(fields[name], program) for name in names}}


def _whole(tree: Any, program: Program) -> Any:
    """Shapes of a tree's leaves, whole on every chip."""
    place = meshes.replicated(program.mesh)
    return jax.tree.map(lambda leaf: _laid(leaf, place), tree)


def _laid(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=place)


def _program(
    config: ConfigDict, topology: Topology, facts: Facts, frozen: FrozenParameters | None = None
) -> Program:
    mesh = meshes.device_mesh(config.mesh.fsdp, topology.devices)
    return build(config, facts, mesh, frozen)


def _step(program: Program, config: ConfigDict, topology: Topology, report: Report) -> Analysis:
    name = f"the training step at batch {config.train.batch_size:,}"
    arguments = (program.state, frozen_shapes(program), program.batch)
    return analyse(program.step, arguments, topology, name=name, report=report)


def _sampler(program: Program, topology: Topology, count: int, report: Report) -> Analysis:
    """Compiles sampling under the recipe's guidance, the parameters whole on every chip."""
    front = functools.partial(sharded_sample, mesh=program.mesh)

    def sample(model: Model, key: jax.Array, cond: dict[str, Any]) -> jax.Array:
        z = drawn(model, key, cond, count, front)
        return model.decode(z)

    key = jax.eval_shape(lambda: jax.random.key(0))
    cond = program.blueprint.shown(count)
    return analyse(
        jax.jit(sample),
        (model_of_shapes(program), *_whole((key, cond), program)),
        topology,
        name=f"the sampler of {count:,} images",
        report=report,
    )
