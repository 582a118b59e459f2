"""Looks into one step of a run again: its loss, example by example, and the pictures of its batch.

Batches and noise are functions of (seed, step, example), so the steps from the newest checkpoint
before it can be made again as they were, and nothing of the run changes.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cfg_jax.data import open_dataset
from cfg_jax.data.images import save_grid
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.runtime.files import atomic
from cfg_jax.training import config as recipe
from cfg_jax.training.loop import stream
from cfg_jax.training.program import build
from cfg_jax.training.step import losses
from cfg_jax.training.workdir import Description, claim, describe


class Replay(NamedTuple):
    """One step, made again.

    Attributes:
      step: Its number, from 1.
      loss: The mean over its batch.
      grad_norm: Its gradient's global norm, before clipping.
      examples: A row an example, the greatest loss first: its place on the line of all batches, its
        label, the λ it was drawn, whether its label was hidden, its loss.
      picture: The images in that order.
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
    recipe.check(config)
    describe(workdir)
    data = open_dataset(config.data, split="train")
    recipe.check_data(config, data.vector)
    claim(workdir, Description(config, data.shape, data.class_names))
    mesh = meshes.device_mesh(config.mesh.fsdp)
    program = build(config, data.shape, data.num_classes, mesh)
    with Checkpoints(workdir) as checkpoints:
        before = max((s for s in checkpoints.steps() if s < step), default=0)
        state = checkpoints.restore(before, program.state) if before else program.start()
    read = stream(config, data, before)
    try:
        for _ in range(before + 1, step):
            state, _ = program.step(state, meshes.global_batch(next(read), mesh))
        batch = meshes.global_batch(next(read), mesh)
    finally:
        read.close()

    @jax.jit
    def look(state, batch):
        drawn = program.prepare(batch, state.step)
        loss = recipe.loss(config)
        return (
            losses(program.network, state.params, drawn, loss),
            drawn.draw.logsnr,
            _label(drawn.draw.cond),
        )

    each, logsnr, shown = jax.device_get(look(state, batch))
    images, labels = jax.device_get((batch["image"], batch["label"]))
    _, metrics = program.step(state, batch)
    order = np.argsort(np.where(np.isfinite(each), -each, -np.inf), kind="stable")
    rows = [
        {
            "example": (step - 1) * config.train.batch_size + int(i),
            "label": int(labels[i]),
            "hidden": shown is not None and int(shown[i]) != int(labels[i]),
            "logsnr": float(logsnr[i]),
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
        images[order],
    )


def table(found: Replay, most: int = 10) -> str:
    """What a person wants to see of it first."""
    lines = [
        f"step {found.step}: loss {found.loss:.6g}, norm of its gradient {found.grad_norm:.6g}",
        f"{'example':>12} {'label':>6} {'hidden':>6} {'logsnr':>8} {'loss':>12}",
    ]
    lines += [
        f"{row['example']:>12} {row['label']:>6} {'yes' if row['hidden'] else 'no':>6} "
        f"{row['logsnr']:>8.2f} {row['loss']:>12.6g}"
        for row in found.examples[:most]
    ]
    return "\n".join([*lines, f"all of them, in this order: {found.picture}"])


def _label(cond: Any) -> Any:
    """The labels that the network was shown; None where it takes none."""
    return cond.get("label") if isinstance(cond, dict) else cond


def _write(found: Replay, images: np.ndarray) -> Replay:
    found.picture.parent.mkdir(exist_ok=True)
    save_grid(found.picture, images, 8)
    with atomic(found.picture.with_suffix(".json")) as file:
        rows = {**found._asdict(), "picture": str(found.picture)}
        file.write(json.dumps(rows, indent=2).encode() + b"\n")
    return found
