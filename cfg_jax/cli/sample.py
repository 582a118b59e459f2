"""The command `sample`: samples under chosen conditions, as a page, as files or as an .npz file."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from cfg_jax.cli import INTERRUPTED, FailedError, entries, flagging, models, say
from cfg_jax.cli.entries import Asked
from cfg_jax.cli.models import Chosen
from cfg_jax.data.images import interleave
from cfg_jax.data.media import medium
from cfg_jax.diffusion import checks
from cfg_jax.evaluation.of_model import taken
from cfg_jax.model import Model
from cfg_jax.recipe import flatten
from cfg_jax.runtime import bulk, manifest, processes
from cfg_jax.runtime.mesh import fitting

PURPOSE = """Samples from a trained model, over all devices. --out ending in .png gives a page, a
row a label; .npz gives arr_0 and arr_1 (labels), as guided-diffusion's evaluator reads; .wav and
.gif are for sounds and videos. The same seed gives the same samples. Rerun an interrupted command
to resume it."""


def run(argv: list[str]) -> None:
    """Parses the arguments, samples, and writes the file."""
    changes, rest = models.split(argv)
    defined = flags.FlagValues()
    models.define(defined, argv)
    flags.DEFINE_integer(
        "per-label", 8, "samples of each label; without labels, samples", flag_values=defined
    )
    flags.DEFINE_float(
        "w",
        None,
        "guidance strength, 0 for none; the recipe's if not given, or 0 beside --classifier, where "
        "-1 makes the network unconditional",
        flag_values=defined,
    )
    flags.DEFINE_float(
        "scale", None, "guidance strength as s = 1 + w, in the place of --w", flag_values=defined
    )
    flags.DEFINE_float(
        "classifier-scale", None, "the classifier's strength; 1 if not given", flag_values=defined
    )
    flags.DEFINE_string("out", None, "the file to write", flag_values=defined)
    flagging.define_processes(defined)
    values = flagging.parse(defined, "sample", PURPOSE, rest, more=models.help_of_sampling)
    out = flagging.path(values, "out")
    flagging.start_processes(values, "sample")
    chosen = models.chosen(*models.named(values), values, changes)
    kind = medium(chosen.model.facts)
    kind.check(out)
    guiding = _guiding(chosen, values)
    asked = entries.asked(chosen, values)
    parts = out.with_name(out.name + ".parts")
    flagging.folder_of(out)
    try:
        with processes.together(lambda: "they go on where they stopped"):
            x = _samples(chosen, asked, guiding, values, parts)
    except KeyboardInterrupt:
        raise FailedError(
            f"interrupted; the same command goes on with {parts}", INTERRUPTED
        ) from None
    if x is not None:
        told = {"model": repr(chosen.model), **_told(chosen, guiding, values)}
        _write(chosen.model, out, x, asked, told)
        bulk.discard(parts)
        say(f"{len(x)} {kind.noun}s: {out}")


def _guiding(chosen: Chosen, values: dict[str, Any]) -> dict[str, Any]:
    """How strongly what is to guide, as arguments of `Model.sample`."""
    if values["w"] is not None and values["scale"] is not None:
        raise ValueError("give --w or --scale, not both: s = 1 + w")
    w = values["w"] if values["scale"] is None else values["scale"] - 1.0
    if w is None:
        w = chosen.model.sampling.w if chosen.classifier is None else 0.0
        w = w if chosen.classifier is not None or chosen.model.guidable else 0.0
    scale = 1.0 if values["classifier-scale"] is None else values["classifier-scale"]
    for name, value in (("w", w), ("classifier-scale", scale)):
        checks.finite(name, value)
        checks.within(name, value, -models.STRONGEST, models.STRONGEST)
    guiding = models.guiding(chosen.classifier, values, w=w, scale=scale)
    if instead := models.negative(chosen.model, values):
        guiding["negative"] = instead
    chosen.model.guided(**guiding)  # a mistake shows before anything is made
    return guiding


def _samples(
    chosen: Chosen, asked: Asked, guiding: dict[str, Any], values: dict[str, Any], parts: Path
) -> np.ndarray | None:
    """Samples as they are stored, one a condition; None in all processes but the first."""
    model, kind = chosen.model, medium(chosen.model.facts)
    size = min(values["batch"], asked.number)
    key = jax.random.key(values["seed"])
    mesh = fitting(size, devices=jax.local_devices(), held=model.params)

    def draw(offset: int, index: Any) -> np.ndarray:
        shown = taken(asked.entries, index)
        batch = None if shown else len(index)
        x = model.sample(key, shown, **guiding, batch=batch, offset=offset, mesh=mesh)
        return kind.stored(x)

    settings = {
        **_told(chosen, guiding, values),
        "model": manifest.identity(model.params),
        "classifier": chosen.classifier and manifest.identity(chosen.classifier.params),
        "weak": model.weak and manifest.identity(model.weak.params),
        "entries": {
            name: manifest.identity(_arrays(entry)) for name, entry in asked.entries.items()
        },
    }
    return bulk.collect(
        draw,
        count=asked.number,
        batch=size,
        parts=parts,
        settings=settings,
    )


def _told(chosen: Chosen, guiding: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """How the samples were asked for, as JSON values."""
    fields = flatten(chosen.config).items()
    return {
        **{name: v for name, v in fields if name.startswith(("sample.", "guidance."))},
        **{f"guiding.{name}": v for name, v in guiding.items() if name != "classifier"},
        "seed": values["seed"],
    }


def _arrays(values: Any) -> Any:
    """The values of an entry as arrays of numbers, text as its bytes."""
    array = np.asarray(values)
    return array.view(np.uint8) if array.dtype.kind in "US" else array


def _write(model: Model, out: Path, x: np.ndarray, asked: Asked, told: dict[str, Any]) -> None:
    """Samples; on a page with what their conditions show above, and what lent them below."""
    kind = medium(model.facts)
    columns = min(asked.columns, len(x))
    if out.suffix.lower() == ".png":
        below = None if asked.lent is None else kind.stored(asked.lent)
        above = [asked.made[name].drawn(entry, x) for name, entry in asked.entries.items()]
        rows = [*(kind.stored(row) for row in above if row is not None), x]
        rows = rows if below is None else [*rows, below]
        names = _names(asked, columns, len(rows))
        kind.grid(out, interleave(rows, columns), columns, names=names, told=told)
        return
    classes = [asked.made[name].classes(entry) for name, entry in asked.entries.items()]
    labels = next((found for found in classes if found is not None), None)
    kind.save_samples(out, x, labels, columns=columns)


def _names(asked: Asked, columns: int, stacked: int) -> list[str]:
    """What each row was asked for, if that is one thing; so many rows show the same samples."""
    for name, entry in asked.entries.items():
        made = asked.made[name]
        if made.classes(entry) is not None or isinstance(entry, list):
            titles = made.titles(entry)
            rows = [titles[start : start + columns] for start in range(0, len(titles), columns)]
            each = [row[0] if len(set(row)) == 1 else "" for row in rows]
            return [text for name in each for text in (name, *[""] * (stacked - 1))]
    return []
