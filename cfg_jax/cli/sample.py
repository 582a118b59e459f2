"""The command `sample`: images of chosen labels, as a picture or as an .npz file."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from cfg_jax import bulk
from cfg_jax.cli import INTERRUPTED, FailedError, flagging
from cfg_jax.data.images import save_grid, to_uint8
from cfg_jax.diffusion import checks
from cfg_jax.files import atomic
from cfg_jax.run import Run, load
from cfg_jax.sampling import grids
from cfg_jax.training import config as recipe
from cfg_jax.training.mesh import data_mesh

PURPOSE = """Samples images from a trained model, over all devices. --out ending in .png gives a
picture, a row a label; .npz gives arr_0 (uint8, NHWC) and arr_1 (labels), as guided-diffusion's
evaluator reads. The same seed gives the same images. Interrupted, the same command goes on where
it stopped."""

SAMPLING = ("steps", "solver", "grid", "v", "eta", "order")
"""The flags that stand for the recipe's fields of how to sample."""


def define(values: flags.FlagValues) -> None:
    """The flags that every command that samples has."""
    text, whole, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    grid_names = ", ".join(grids.GRIDS)
    table: tuple[tuple[str, Any, Any, str], ...] = (
        ("workdir", text, None, "the run to sample from"),
        ("step", whole, None, "its checkpoint; the newest if not given"),
        ("steps", whole, None, "steps of the solver"),
        ("solver", text, None, f"one of {', '.join(recipe.SOLVERS)}; default brings its own grid"),
        ("grid", text, None, f"where the solver steps: one of {grid_names}"),
        ("v", real, None, "of ancestral: 0 is the smallest, 1 the largest reverse variance"),
        ("eta", real, None, "of ddim and dpmpp: 0 is deterministic, 1 fully stochastic"),
        ("order", whole, None, "of dpmpp and unipc: 1, 2 or 3"),
        ("seed", whole, 0, "of the noise"),
        ("batch", whole, 256, "images at a time, over all devices"),
    )
    for name, kind, default, purpose in table:
        told = f"{purpose}; the recipe's if not given" if name in SAMPLING else purpose
        kind(name, default, told, flag_values=values)


def loaded(values: dict[str, Any]) -> Run:
    """The run that the flags name, its recipe changed by those that say how to sample."""
    run = load(flagging.required(values, "workdir"), step=values["step"])
    for name in SAMPLING:
        if values[name] is not None:
            run.config.sample[name] = values[name]
    checks.steps(run.config.sample.steps)
    recipe.check(run.config)
    if values["batch"] < 1:
        raise ValueError(f"--batch must be at least 1, got {values['batch']}")
    return run


def run(argv: list[str]) -> None:
    """Parses the arguments, samples, and writes the file."""
    defined = flags.FlagValues()
    define(defined)
    flags.DEFINE_string(
        "labels", None, "such as 0-9 or 1,3,5-7; all if not given", flag_values=defined
    )
    flags.DEFINE_integer(
        "per-label", 8, "images a label; without labels, images", flag_values=defined
    )
    flags.DEFINE_float(
        "w", None, "guidance strength, 0 for none; the recipe's if not given", flag_values=defined
    )
    flags.DEFINE_string("out", None, "the file to write, .png or .npz", flag_values=defined)
    values = flagging.parse(defined, "sample", PURPOSE, argv)
    out = Path(flagging.required(values, "out"))
    if out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got {out}")
    if values["per-label"] < 1:
        raise ValueError(f"--per-label must be at least 1, got {values['per-label']}")
    source = loaded(values)
    w = source.config.sample.w if values["w"] is None else values["w"]
    checks.finite("w", w)
    labels = _labels(source, values)
    parts = out.with_name(out.name + ".parts")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        images = _images(source, values, labels, w, parts)
    except KeyboardInterrupt:
        raise FailedError(
            f"interrupted; the same command goes on with {parts}", INTERRUPTED
        ) from None
    _write(out, images, labels, values["per-label"])
    bulk.discard(parts)
    print(f"{len(images)} images: {out}")


def _labels(source: Run, values: dict[str, Any]) -> np.ndarray | None:
    """One label an image, each label `per-label` times."""
    if source.null is None:
        if values["labels"]:
            raise ValueError(f"{source.workdir} is an unconditional model and takes no --labels")
        return None
    chosen = flagging.labels(values["labels"]) if values["labels"] else range(source.null)
    source.check_labels(list(chosen))
    return np.repeat(np.asarray(chosen, np.int32), values["per-label"])


def _images(
    source: Run, values: dict[str, Any], labels: np.ndarray | None, w: float, parts: Path
) -> np.ndarray:
    """uint8 images, one a label."""
    count = values["per-label"] if labels is None else len(labels)
    batch = min(values["batch"], count)
    key, mesh = jax.random.key(values["seed"]), data_mesh()

    def draw(offset, some):
        there = {"batch": batch} if some is None else {"labels": some}
        return to_uint8(source.sample(key, w=w, offset=offset, mesh=mesh, **there))

    settings = {
        "checkpoint": f"{source.workdir.absolute()}/checkpoints/{source.step}",
        "sampler": source.config.sample.to_dict() | {"w": w},
        "seed": values["seed"],
        "labels": None if labels is None else labels.tolist(),
    }
    return bulk.collect(
        draw, count=count, labels=labels, batch=batch, parts=parts, settings=settings
    )


def _write(out: Path, images: np.ndarray, labels: np.ndarray | None, columns: int) -> None:
    if out.suffix == ".png":
        save_grid(out, images, min(columns, len(images)))
        return
    arrays = [images] if labels is None else [images, labels.astype(np.int64)]
    with atomic(out) as file:
        np.savez(file, *arrays)
