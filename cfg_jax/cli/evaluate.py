"""The command `evaluate`: scores of samples over guidance strengths, or of a classifier over λ."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from cfg_jax import evaluation
from cfg_jax.cli import flagging, models, say
from cfg_jax.cli.models import Chosen
from cfg_jax.data import Dataset
from cfg_jax.data.media import medium
from cfg_jax.diffusion import checks
from cfg_jax.loading import describe
from cfg_jax.model import Model
from cfg_jax.recipe import copied, flatten
from cfg_jax.runtime import files
from cfg_jax.runtime.mesh import fitting

WS, CAPTION_WS, SCALES = "0,0.1,0.3,1,4", "0,1,3", "0,1,2,4,8"

PURPOSE = """Scores samples at each guidance strength by label accuracy, Inception score and Fréchet
distance, in the features of a small classifier trained on the same data (trained at the first call,
then kept). Writes report.json, report.md, tradeoff.png and samples_by_w.png. With --classifier the
strengths are those of --classifier-scale, at one w, or of --w, at one scale. A network whose
condition cannot be named is shown what held-out data lend it. A model of the captions of scenes is
scored by whether a small detector finds in its samples what the captions of held-out scenes ask
for: accuracy.png takes the place of tradeoff.png. Of a noisy classifier it measures accuracy and
cross-entropy on held-out data at each noise level instead: report.json, report.md and
accuracy.png; of a codec, how held-out data come back: report.json, report.md and
reconstructions.png."""

SAMPLES = 1000
"""Samples a strength, or noisy examples a noise level, if nobody says."""

OF_CLASSIFIERS = {"workdir", "model", "step", "ema", "seed", "batch", "samples", "out", "data-path"}
"""The flags that the evaluation of a noisy classifier has."""


def run(argv: list[str]) -> None:
    """Parses the arguments, evaluates and writes the report."""
    changes, rest = models.split(argv)
    defined = flags.FlagValues()
    models.define(defined, argv)
    flags.DEFINE_string(
        "w",
        None,
        f"guidance strengths; {WS} if not given, of captions {CAPTION_WS}, or 0 beside "
        "--classifier, where -1 makes the network unconditional",
        flag_values=defined,
    )
    flags.DEFINE_string(
        "classifier-scale",
        None,
        f"the classifier's strengths; {SCALES} if not given, or 1 where --w has several",
        flag_values=defined,
    )
    flags.DEFINE_integer(
        "samples",
        None,
        f"samples a strength, or noisy examples a noise level; {SAMPLES} if not given. Of captions "
        f"of seen pairs and of held-out ones each; {evaluation.CAPTIONS} if not given",
        flag_values=defined,
    )
    flags.DEFINE_string(
        "out", None, "where the report goes; WORKDIR/evaluation if not given", flag_values=defined
    )
    values = flagging.parse(defined, "evaluate", PURPOSE, rest, more=models.help_of_sampling)
    if values["samples"] is not None and not 2 <= values["samples"] <= 1_000_000:
        raise ValueError(f"--samples must lie in [2, 1000000], got {values['samples']}")
    place, model = models.named(values)
    points = _points(values, CAPTION_WS if model.facts.texts else WS)
    out = place / "evaluation" if values["out"] is None else flagging.path(values, "out")
    if model.kind is None:
        for name in sorted(set(defined) - OF_CLASSIFIERS):
            if defined[name].present:
                raise ValueError(f"--{name} does not belong to a {model.role}")
        if model.role not in REPORTS:
            raise ValueError(f"{place} holds a {model.role}, of which there is no report")
        REPORTS[model.role](model, place, out, values)
    else:
        _by_strength(models.chosen(place, model, values, changes), place, out, values, points)
    say((out / "report.md").read_text(encoding="utf-8"))


def _by_strength(
    chosen: Chosen, place: Path, out: Path, values: dict[str, Any], swept: tuple[str, dict]
) -> None:
    """Writes the report of a diffusion model."""
    model, (name, points) = chosen.model, swept
    if chosen.classifier is None and not model.conditioners:
        raise ValueError(f"{model!r} is unconditional: there is no guidance to sweep over")
    source = models.data_of(chosen.config, values["data-path"])
    guiding = {
        strength: models.guiding(chosen.classifier, values, w=w, scale=scale)
        for strength, (w, scale) in points.items()
    }
    for arguments in guiding.values():
        model.guided(**arguments)  # a mistake shows before anything is trained
    flagging.folder_of(out / "report.json")
    train, held_out = source.open("train"), source.open("test")
    captioned = chosen.classifier is None and evaluation.entry_of(model, held_out) is not None
    samples = values["samples"] or (evaluation.CAPTIONS if captioned else SAMPLES)
    asked = {
        "guiding": guiding,
        "samples": samples,
        "seed": values["seed"],
        "batch": values["batch"],
        "mesh": fitting(
            min(values["batch"], samples), devices=jax.local_devices(), held=model.params
        ),
    }
    settings = {
        **_where(model, place, chosen.config),
        **_how(chosen),
        **_told(chosen.classifier, values, name, points),
    }
    if captioned:
        _of_captions(model, out, train, held_out, asked, settings)
        return
    found = evaluation.evaluate(model, train, held_out, classifier=chosen.classifier, **asked)
    say(f"the classifier's held-out accuracy is {found.judge.scorer.held_out_accuracy:.4f}")
    evaluation.write_report(
        out,
        found.rows,
        reference=found.judge.training,
        held_out_accuracy=found.judge.scorer.held_out_accuracy,
        settings={
            **settings,
            "samples_per_w": len(found.asked.labels),
            "held_out_images": found.judge.real.count,
            "seed": values["seed"],
        },
        medium=medium(model.facts),
        examples=found.examples,
        titles=found.asked.titles,
        strength=name,
        beside=found.asked.beside,
    )


def _of_captions(
    model: Model,
    out: Path,
    train: Dataset,
    held_out: Dataset,
    asked: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """Writes the report of a model of captions."""
    clip = evaluation.train_agreement(train, held_out, cache=files.cache())
    found = evaluation.evaluate_captions(model, train, held_out, scorers=(clip,), **asked)
    accuracy = found.judge.detector.held_out_accuracy
    say(f"the detector reads {accuracy:.2%} of the held-out scenes without a mistake")
    counted = {
        "held_out_r_precision": clip.held_out_r_precision,
        "samples_per_w": len(found.captions.texts),
        "held_out_images": found.judge.real.count,
        "seed": asked["seed"],
    }
    evaluation.write_caption_report(out, found, {**settings, **counted})


def _where(model: Model, place: Path, config: Any) -> dict[str, Any]:
    return {
        "workdir": str(place),
        "training_steps": getattr(model, "step", None),
        "data": config.data.kind,
    }


def _how(chosen: Chosen) -> dict[str, Any]:
    """How the model sampled, in words that JSON can hold."""
    sampling = chosen.model.sampling
    fields = flatten(chosen.config).items()
    given = {name: v for name, v in fields if name.startswith("sample.") and v is not None}
    return {**given, "guidance": str(sampling.guidance)}


def _points(values: dict[str, Any], default: str) -> tuple[str, dict[float, tuple[float, float]]]:
    """What is swept over, and for each of its values w and the classifier's scale."""
    if values["classifier"] is None:
        return "w", {w: (w, 1.0) for w in _strengths(values, "w", default)}
    ws = _strengths(values, "w", "0")
    scales = _strengths(values, "classifier-scale", SCALES if len(ws) == 1 else "1")
    if len(scales) == 1 and len(ws) > 1:
        return "w", {w: (w, scales[0]) for w in ws}
    if len(ws) > 1:
        raise ValueError("one of --w and --classifier-scale takes several numbers, not both")
    return "classifier_scale", {scale: (ws[0], scale) for scale in scales}


def _strengths(values: dict[str, Any], name: str, default: str) -> tuple[float, ...]:
    found = flagging.listed(default if values[name] is None else values[name], name)
    for strength in found:
        checks.number(f"--{name}", strength, -models.STRONGEST, models.STRONGEST)
    return found


def _told(
    classifier: Model | None,
    values: dict[str, Any],
    name: str,
    points: dict[float, tuple[float, float]],
) -> dict[str, Any]:
    """What the report says of a classifier that guided."""
    if classifier is None:
        return {}
    w, scale = next(iter(points.values()))
    return {
        "classifier": values["classifier"],
        "classifier_form": values["classifier-form"],
        **({"classifier_scale": scale} if name == "w" else {"w": w}),
    }


def _of_codec(model: Model, place: Path, out: Path, values: dict[str, Any]) -> None:
    """Writes the report of a codec."""
    config = copied(describe(place).config)
    source = models.data_of(config, values["data-path"])
    train, data = source.open("train"), source.open("test")
    samples = min(values["samples"] or SAMPLES, len(data.source))
    features = evaluation.features_of(train, data)
    scores, rows = evaluation.coding(
        model, data, samples=samples, batch=values["batch"], features=features
    )
    evaluation.write_coding_report(
        out,
        scores,
        rows,
        settings={
            **_where(model, place, config),
            "held_out_examples": samples,
        },
        medium=medium(model.facts),
    )


def _by_noise_level(model: Model, place: Path, out: Path, values: dict[str, Any]) -> None:
    """Writes the report of a noisy classifier."""
    config = copied(describe(place).config)
    x, labels = evaluation.load_arrays(models.data_of(config, values["data-path"]).open("test"))
    samples = values["samples"] or SAMPLES
    levels, overall = evaluation.by_noise_level(
        model, x, labels, samples=samples, seed=values["seed"], batch=values["batch"]
    )
    evaluation.write_classifier_report(
        out,
        levels,
        overall,
        class_counts=np.bincount(labels).tolist(),
        settings={
            **_where(model, place, config),
            "held_out_images": len(labels),
            "samples": samples,
            "seed": values["seed"],
        },
    )


REPORTS = {"codec": _of_codec, "noisy classifier": _by_noise_level}
"""What is written of models that do not sample, by their `role`."""
