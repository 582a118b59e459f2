"""The plan of a recipe: its training step and sampler, compiled for chips that are not there."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cfg_jax.networks import UNet
from cfg_jax.planning.analysis import Analysis, Report, analyse
from cfg_jax.planning.search import Trial, largest
from cfg_jax.planning.topology import Topology
from cfg_jax.run import Run
from cfg_jax.runtime import mesh as meshes
from cfg_jax.training import config as recipe
from cfg_jax.training.program import Program, build


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe needs on a topology.

    Attributes:
      config: The recipe.
      topology: The chips.
      shape: One image's (height, width, channels).
      num_classes: Of the data.
      parameters: The network's, their number.
      state: Bytes a chip of each part of the training state.
      training: One step.
      sampling: One batch of samples; None where it was left out.
      samples: The number of images in that.
    """

    config: ConfigDict
    topology: Topology
    shape: tuple[int, ...]
    num_classes: int
    parameters: int
    state: dict[str, int]
    training: Analysis
    sampling: Analysis | None
    samples: int

    @property
    def images(self) -> int:
        """Images that a chip has at a time."""
        train = self.config.train
        return train.batch_size // (len(self.topology.devices) * train.accumulate)


def make_plan(
    config: ConfigDict,
    topology: Topology,
    *,
    shape: tuple[int, ...],
    num_classes: int,
    samples: int | None = None,
    report: Report = lambda line: None,
) -> Plan:
    """Compiles a recipe's training step and sampler.

    Args:
      config: The recipe.
      topology: The chips.
      shape: One image's (height, width, channels).
      num_classes: Of the data; 0 without labels.
      samples: Images that are sampled at a time, over all chips; 0 leaves the sampler out; a
        training batch when None. A noisy classifier draws none.
      report: Takes lines of progress.

    Returns:
      The plan.

    Raises:
      ValueError: The chips do not divide the batch, or do not make the mesh, or the network cannot
        take the images, or samples are asked of a noisy classifier.
    """
    recipe.check(config)
    program = _program(config, topology, shape, num_classes)
    draws = isinstance(program.network, UNet)
    count = config.train.batch_size * draws if samples is None else samples
    if count and not draws:
        raise ValueError(f"a noisy classifier draws no samples: samples must be 0, got {count}")
    return Plan(
        config=config,
        topology=topology,
        shape=shape,
        num_classes=num_classes,
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.state.params)),
        state={
            "parameters": bytes_a_chip(program.state.params),
            "their averages": bytes_a_chip(program.state.ema),
            "the optimiser's": bytes_a_chip(program.state.opt_state),
        },
        training=_step(program, config, topology, report),
        sampling=_sampler(program, config, topology, shape, count, report) if count else None,
        samples=count,
    )


def search(
    config: ConfigDict,
    topology: Topology,
    *,
    shape: tuple[int, ...],
    num_classes: int,
    report: Report = lambda line: None,
) -> tuple[ConfigDict, list[Trial]]:
    """Looks for the largest batch of a recipe that fits.

    Args:
      config: The recipe; the search starts at its batch.
      topology: The chips.
      shape: One image's (height, width, channels).
      num_classes: Of the data.
      report: Takes lines of progress.

    Returns:
      The recipe at the largest batch found, and all that were compiled.

    Raises:
      ValueError: As `make_plan`, or not even one image a chip fits.
    """
    recipe.check(config)
    chips = len(topology.devices) * config.train.accumulate

    def of(images: int) -> ConfigDict:
        changed = config.copy_and_resolve_references()
        changed.train.batch_size = images * chips
        return changed

    def measure(images: int) -> tuple[int, bool]:
        there = of(images)
        program = _program(there, topology, shape, num_classes)
        found = _step(program, there, topology, report)
        return found.used, found.fits

    start = _program(config, topology, shape, num_classes).batch["image"].shape[0] // chips
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


def _program(
    config: ConfigDict, topology: Topology, shape: tuple[int, ...], num_classes: int
) -> Program:
    mesh = meshes.device_mesh(config.mesh.fsdp, topology.devices)
    return build(config, shape, num_classes, mesh)


def _step(program: Program, config: ConfigDict, topology: Topology, report: Report) -> Analysis:
    name = f"the training step at batch {config.train.batch_size:,}"
    return analyse(program.step, (program.state, program.batch), topology, name=name, report=report)


def _sampler(
    program: Program,
    config: ConfigDict,
    topology: Topology,
    shape: tuple[int, ...],
    count: int,
    report: Report,
) -> Analysis:
    """Compiles `Run.sample`, the parameters whole on every chip."""
    network, mesh = program.network, program.mesh
    assert isinstance(network, UNet)

    def sample(params: Any, key: jax.Array, told: dict[str, Any]) -> jax.Array:
        run = Run(
            workdir=Path(),
            step=0,
            config=config,
            network=network,
            params=params,
            shape=shape,
            class_names=(),
        )
        labels, others = told.get("label"), {k: v for k, v in told.items() if k != "label"}
        return run.sample(key, labels, **others, batch=None if told else count, mesh=mesh)

    def laid(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)

    whole = meshes.replicated(mesh)
    params = jax.tree.map(laid, program.state.params)
    key = laid(jax.eval_shape(lambda: jax.random.key(0)))
    told = jax.tree.map(laid, network.parts((count, *shape)))
    return analyse(
        jax.jit(sample),
        (params, key, told),
        topology,
        name=f"the sampler of {count:,} images",
        report=report,
    )
