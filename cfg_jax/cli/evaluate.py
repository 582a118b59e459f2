"""The command `evaluate`: scores of samples at each of several guidance strengths, as a report."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from cfg_jax import bulk, evaluation
from cfg_jax.cli import flagging
from cfg_jax.cli.sample import SAMPLING, define, loaded
from cfg_jax.data import open_dataset
from cfg_jax.run import Run
from cfg_jax.training import guided
from cfg_jax.training.mesh import device_mesh

PURPOSE = """Scores samples at each guidance strength by label accuracy, Inception score and Fréchet
distance, in the features of a small classifier trained on the same data (trained at the first call,
then kept). Writes report.json, report.md, tradeoff.png and samples_by_w.png."""

PICTURED = 10
"""Classes in the picture of samples, at most."""


def run(argv: list[str]) -> None:
    """Parses the arguments, trains or reads the classifier, sweeps over w and writes the report."""
    defined = flags.FlagValues()
    define(defined)
    flags.DEFINE_string("w", "0,0.1,0.3,1,4", "guidance strengths", flag_values=defined)
    flags.DEFINE_integer("samples", 1000, "images a strength", flag_values=defined)
    flags.DEFINE_string(
        "out", None, "where the report goes; WORKDIR/evaluation if not given", flag_values=defined
    )
    flags.DEFINE_string("data-path", None, "the images, if they have moved", flag_values=defined)
    values = flagging.parse(defined, "evaluate", PURPOSE, argv)
    strengths = flagging.listed(values["w"], "w")
    if values["samples"] < 2:
        raise ValueError(f"--samples must be at least 2, got {values['samples']}")
    source = loaded(values)
    if source.null is None:
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

    pictured = source.null if source.null <= PICTURED else PICTURED
    examples: dict[float, np.ndarray] = {}

    def keep(w: float, samples: np.ndarray) -> None:
        examples[w] = samples[:pictured]

    rows = evaluation.sweep(
        sampler(source, values),
        classifier,
        real,
        labels=np.arange(values["samples"]) % source.null,
        ws=strengths,
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
            "samples_per_w": values["samples"],
            "held_out_images": real.count,
            "seed": values["seed"],
        },
        examples=examples,
        titles=[source.class_names[i] for i in range(pictured)],
    )
    print((out / "report.md").read_text())


def sampler(source: Run, values: dict[str, Any]):
    """`(labels, w) -> images`, in batches of one size, with the same noise for every w."""
    key, mesh = jax.random.key(values["seed"]), device_mesh(devices=jax.local_devices())
    batch = values["batch"]

    def sample(labels: np.ndarray, w: float) -> np.ndarray:
        parts = []
        for start, here, chosen in bulk.full_batches(len(labels), labels, batch):
            x = source.sample(key, chosen, w=w, offset=start, mesh=mesh)
            parts.append(np.clip(x, -1.0, 1.0)[:here])
        return np.concatenate(parts)

    return sample
