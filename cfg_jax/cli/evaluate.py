"""The command `evaluate`: scores of samples over guidance strengths, or of a classifier over λ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from cfg_jax import evaluation
from cfg_jax.cli import conditions, flagging
from cfg_jax.cli.sample import SAMPLING, define, loaded, strengths
from cfg_jax.data import Dataset, open_dataset
from cfg_jax.data.images import enlarge, to_uint8
from cfg_jax.run import NoisyClassifier, Run, load_noisy_classifier
from cfg_jax.runtime import bulk
from cfg_jax.runtime.mesh import device_mesh
from cfg_jax.training import guided
from cfg_jax.training.conditions import of_examples
from cfg_jax.training.workdir import describe

WS, SCALES = "0,0.1,0.3,1,4", "0,1,2,4,8"

PURPOSE = """Scores samples at each guidance strength by label accuracy, Inception score and Fréchet
distance, in the features of a small classifier trained on the same data (trained at the first call,
then kept). Writes report.json, report.md, tradeoff.png and samples_by_w.png. With --classifier the
strengths are those of --classifier-scale, at one w, or of --w, at one scale. A network that takes
more than labels is shown what held-out images lend it. Of the run of a noisy classifier it measures
accuracy and cross-entropy on held-out images at each noise level instead: report.json, report.md
and accuracy.png."""

OF_CLASSIFIERS = {"workdir", "step", "ema", "seed", "batch", "samples", "out", "data-path"}
"""The flags that the evaluation of a noisy classifier has."""

PICTURED = 10
"""Classes in the picture of samples, at most."""


def run(argv: list[str]) -> None:
    """Parses the arguments, trains or reads the classifier, sweeps over w and writes the report."""
    defined = flags.FlagValues()
    define(defined)
    flags.DEFINE_string(
        "w",
        None,
        f"guidance strengths; {WS} if not given, or 0 beside --classifier, where -1 makes the "
        "network unconditional",
        flag_values=defined,
    )
    flags.DEFINE_string(
        "classifier-scale",
        None,
        f"the classifier's strengths; {SCALES} if not given, or 1 where --w has several",
        flag_values=defined,
    )
    flags.DEFINE_integer(
        "samples", 1000, "images a strength; noisy images a noise level", flag_values=defined
    )
    flags.DEFINE_string(
        "out", None, "where the report goes; WORKDIR/evaluation if not given", flag_values=defined
    )
    flags.DEFINE_string("data-path", None, "the images, if they have moved", flag_values=defined)
    values = flagging.parse(defined, "evaluate", PURPOSE, argv)
    if values["samples"] < 2:
        raise ValueError(f"--samples must be at least 2, got {values['samples']}")
    if describe(Path(flagging.required(values, "workdir"))).config.objective == "classifier":
        for name in sorted(set(defined) - OF_CLASSIFIERS):
            if defined[name].present:
                raise ValueError(f"--{name} does not belong to a noisy classifier")
        _by_noise_level(values)
        return
    name, points = _points(values)
    source, noisy = loaded(values)
    if source.nothing is None and noisy is None:
        raise ValueError(f"{source.workdir} is unconditional: there is no guidance to sweep over")
    if values["data-path"]:
        source.config.data.path = values["data-path"]
    out = Path(values["out"] or source.workdir / "evaluation")

    train, held_out = (open_dataset(source.config.data, split=s) for s in ("train", "test"))
    classifier = evaluation.train_classifier(train, held_out, cache=source.workdir / "evaluation")
    print(f"the classifier's held-out accuracy is {classifier.held_out_accuracy:.4f}")
    images, _ = evaluation.load_arrays(held_out)
    real = evaluation.moments(classifier.features_and_probabilities(images)[0])
    reference = evaluation.score(*evaluation.load_arrays(train), classifier, real)

    asked = _asked(source, noisy, held_out, values["samples"])
    examples: dict[float, np.ndarray] = {}

    def keep(w: float, samples: np.ndarray) -> None:
        examples[w] = samples[: len(asked.titles)]

    rows = evaluation.sweep(
        sampler(source, noisy, values, points, asked.parts),
        classifier,
        real,
        labels=asked.labels,
        ws=list(points),
        on_samples=keep,
    )
    evaluation.write_report(
        out,
        rows,
        reference=reference,
        held_out_accuracy=classifier.held_out_accuracy,
        settings={
            "workdir": str(source.workdir),
            "training_steps": source.step,
            "data": source.config.data.name,
            **{name: source.config.sample[name] for name in SAMPLING},
            "guidance": guided.describe(source.config),
            **_told(noisy, values, name, points),
            "samples_per_w": len(asked.labels),
            "held_out_images": real.count,
            "seed": values["seed"],
        },
        examples=examples,
        titles=asked.titles,
        strength=name,
        beside=asked.beside,
    )
    print((out / "report.md").read_text())


def _points(values: dict[str, Any]) -> tuple[str, dict[float, tuple[float, float]]]:
    """What is swept over, and for each of its values w and the classifier's scale."""
    if values["classifier"] is None:
        return "w", {w: (w, 1.0) for w in flagging.listed(values["w"] or WS, "w")}
    ws = flagging.listed(values["w"] or "0", "w")
    given = values["classifier-scale"] or (SCALES if len(ws) == 1 else "1")
    scales = flagging.listed(given, "classifier-scale")
    if len(scales) == 1 and len(ws) > 1:
        return "w", {w: (w, scales[0]) for w in ws}
    if len(ws) > 1:
        raise ValueError("one of --w and --classifier-scale takes several numbers, not both")
    return "classifier_scale", {scale: (ws[0], scale) for scale in scales}


def _told(
    noisy: NoisyClassifier | None,
    values: dict[str, Any],
    name: str,
    points: dict[float, tuple[float, float]],
) -> dict[str, Any]:
    """What the report says of a classifier that guided."""
    if noisy is None:
        return {}
    w, scale = next(iter(points.values()))
    return {
        "classifier": str(noisy.workdir),
        "classifier_form": values["classifier-form"],
        **({"classifier_scale": scale} if name == "w" else {"w": w}),
    }


def _by_noise_level(values: dict[str, Any]) -> None:
    """Writes the report of a noisy classifier."""
    noisy = load_noisy_classifier(values["workdir"], step=values["step"], ema=values["ema"])
    if values["data-path"]:
        noisy.config.data.path = values["data-path"]
    images, labels = evaluation.load_arrays(open_dataset(noisy.config.data, split="test"))
    levels, overall = evaluation.by_noise_level(
        jax.tree_util.Partial(noisy.network.apply, noisy.params),
        images,
        labels,
        schedule=noisy.schedule,
        samples=values["samples"],
        seed=values["seed"],
        batch=values["batch"],
    )
    out = Path(values["out"] or noisy.workdir / "evaluation")
    evaluation.write_classifier_report(
        out,
        levels,
        overall,
        class_counts=np.bincount(labels).tolist(),
        settings={
            "workdir": str(noisy.workdir),
            "training_steps": noisy.step,
            "data": noisy.config.data.name,
            "held_out_images": len(labels),
            "samples": values["samples"],
            "seed": values["seed"],
        },
    )
    print((out / "report.md").read_text())


class Asked(NamedTuple):
    """What is sampled at each strength.

    Attributes:
      labels: The class that each sample should have.
      parts: What the network is shown, by the names of the condition's parts.
      titles: Of the first samples, which are pictured.
      beside: Pictures that stand beside those, by what they are: uint8 images.
    """

    labels: np.ndarray
    parts: dict[str, np.ndarray]
    titles: Sequence[str]
    beside: dict[str, np.ndarray]


def _asked(source: Run, noisy: NoisyClassifier | None, data: Dataset, samples: int) -> Asked:
    """All labels in turn; or, for a network that is shown more, what held-out images lend it."""
    if not source.network.takes_more_than_labels:
        classes = source.classes(None if noisy is None else noisy.log_prob)
        labels = np.arange(samples) % classes
        return Asked(labels, {"label": labels}, data.class_names[:PICTURED], {})
    conditions.check(source, data)
    first = conditions.by_label(data, range(min(data.num_classes, PICTURED)), 1)
    others = np.setdiff1d(np.arange(len(data.source)), first)
    index = np.resize(np.concatenate([first, others]), max(samples, len(first)))
    examples = [data.source[int(i)] for i in index]
    parts, images = of_examples(source.network, examples)
    labels = np.array([example["label"] for example in examples])
    beside = {"held out": images[: len(first)]}
    if "small" in parts:
        small = to_uint8(parts["small"][: len(first)])
        beside = {"small": enlarge(small, source.network.upscale), **beside}
    return Asked(labels, parts, [data.class_names[n] for n in labels[: len(first)]], beside)


def sampler(
    source: Run,
    noisy: NoisyClassifier | None,
    values: dict[str, Any],
    points: dict[float, tuple[float, float]],
    parts: dict[str, np.ndarray],
):
    """`(labels, strength) -> images`, in batches of one size, with the same noise for each."""
    key, mesh = jax.random.key(values["seed"]), device_mesh(devices=jax.local_devices())
    batch = values["batch"]

    def sample(labels: np.ndarray, strength: float) -> np.ndarray:
        made = []
        w, scale = points[strength]
        guiding = strengths(noisy, values, w=w, scale=scale)
        for start, here, index in bulk.full_batches(len(labels), np.arange(len(labels)), batch):
            told: dict[str, Any] = {part: array[index] for part, array in parts.items()}
            shown = told.pop("label", None)
            x = source.sample(key, shown, **guiding, **told, offset=start, mesh=mesh)
            made.append(np.clip(x, -1.0, 1.0)[:here])
        return np.concatenate(made)

    return sample
