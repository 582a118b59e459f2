"""Looks into one step of a run again: its loss, example by example, and the pictures of its batch.

Batches and noise are functions of (seed, step, example), so the steps from the newest checkpoint
before it can be made again as they were, and nothing of the run changes.
"""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cfg_jax import recipe
from cfg_jax.blueprint import Blueprint
from cfg_jax.data.media import Medium, medium
from cfg_jax.diffusion import condition
from cfg_jax.diffusion.condition import KEPT
from cfg_jax.recipe.claims import compare
from cfg_jax.recipe.description import describe
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.runtime.files import atomic
from cfg_jax.training.beginning import beginning, kept
from cfg_jax.training.loop import described, stream
from cfg_jax.training.program import Program, build
from cfg_jax.training.step import losses, setting


class Replay(NamedTuple):
    """One step, made again.

    Attributes:
      step: Its number, from 1.
      loss: The mean over its batch.
      grad_norm: Its gradient's global norm, before clipping.
      examples: A row an example, the greatest loss first: its place on the line of all batches, its
        label if it has one, the entries of its condition that were hidden, its λ, its loss.
      picture: The examples in that order.
    """

    step: int
    loss: float
    grad_norm: float
    examples: list[dict[str, Any]]
    picture: Path


def replay(config: ConfigDict, workdir: Path, step: int) -> Replay:
    """Makes a step of a run again, and writes WORKDIR/replay/STEP.json and STEP.png.

    Args:
      config: The run's recipe.
      workdir: The run's directory.
      step: Which step, from 1.

    Returns:
      What it was.

    Raises:
      ValueError: There is no such run, it is another recipe's, or the step is below 1.
    """
    if step < 1:
        raise ValueError(f"--replay-step must be at least 1; got {step}")
    if step > config.train.steps:
        raise ValueError(
            f"--replay-step must be at most train.steps, {config.train.steps}; got {step}"
        )
    describe(workdir)
    data = recipe.make(config.data, "data", path="config.data").open("train")
    program = build(config, data.facts, frozen=kept(config, workdir), data=data)
    compare(workdir, described(config, data, program))
    mesh = program.mesh
    frozen = jax.device_put(program.frozen, meshes.replicated(mesh))
    with Checkpoints(workdir) as checkpoints:
        before = max((s for s in checkpoints.steps() if s < step), default=0)
        state = checkpoints.restore(before, program.state) if before else beginning(config, program)
    read = stream(config, data, program.blueprint, before)
    try:
        for _ in range(before + 1, step):
            state, _ = program.step(state, frozen, meshes.global_batch(next(read), mesh))
        batch = meshes.global_batch(next(read), mesh)
    finally:
        read.close()
    each, logsnr, hidden = jax.device_get(_looked_at(program, state, frozen, batch))
    _, metrics = program.step(state, frozen, batch)
    order = np.argsort(np.where(np.isfinite(each), -each, -np.inf), kind="stable")
    labels = {name: np.asarray(batch[name]) for name in data.arrays if np.ndim(batch[name]) == 1}
    rows = [
        {
            "example": (step - 1) * config.train.batch_size + int(i),
            **{name: values[i].item() for name, values in labels.items()},
            "hidden": [name for name, gone in hidden.items() if gone[i]],
            **({} if logsnr is None else {"logsnr": float(logsnr[i])}),
            "loss": float(each[i]),
        }
        for i in order
    ]
    return _write(
        Replay(
            step,
            float(metrics.loss),
            float(metrics.grad_norm),
            rows,
            workdir / "replay" / f"{step}.png",
        ),
        np.asarray(batch["x"])[order],
        medium(data.facts),
    )


def _looked_at(program: Program, state: Any, frozen: Any, batch: Any) -> Any:
    """Each example's loss, its λ if it has one, and by entries' names whether it was hidden."""

    @jax.jit
    def look(state, frozen, batch):
        drawn = program.prepare(frozen, batch, state.step)
        each = losses(program.blueprint, state.params, frozen, drawn).each
        cond = getattr(drawn.draw, "cond", None)
        gone = {} if cond is None else hidden(program.blueprint, cond)
        return each, getattr(drawn.draw, "logsnr", None), gone

    return look(state, frozen, batch)


def hidden(plan: Blueprint, cond: Any) -> dict[str, Any]:
    """Which examples are shown the null of each entry that training hides."""
    nulls = setting(plan).null

    def gone(entry: Any, null: Any) -> Any:
        none = condition.broadcast(null, entry)
        same = [
            (a == b).reshape(len(a), -1).all(1)
            for a, b in zip(jax.tree.leaves(entry), jax.tree.leaves(none), strict=True)
        ]
        return functools.reduce(jnp.logical_and, same)

    return {name: gone(cond[name], null) for name, null in nulls.items() if null is not KEPT}


def table(found: Replay, most: int = 10) -> str:
    """What a person wants to see of it first."""
    names = list(found.examples[0])
    lines = [
        f"step {found.step}: loss {found.loss:.6g}, norm of its gradient {found.grad_norm:.6g}",
        "".join(f"{name:>14}" for name in names),
    ]
    for row in found.examples[:most]:
        cells = (
            f"{v:.6g}" if isinstance(v, float) else ", ".join(v) if isinstance(v, list) else str(v)
            for v in row.values()
        )
        lines.append("".join(f"{cell:>14}" for cell in cells))
    return "\n".join([*lines, f"all of them, in this order: {found.picture}"])


def _write(found: Replay, x: np.ndarray, kind: Medium) -> Replay:
    found.picture.parent.mkdir(exist_ok=True)
    kind.grid(found.picture, x, 8)
    with atomic(found.picture.with_suffix(".json")) as file:
        rows = {**found._asdict(), "picture": str(found.picture)}
        file.write(json.dumps(rows, indent=2).encode() + b"\n")
    return found
