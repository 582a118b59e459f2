"""Guidance by a noisy classifier beside classifier-free guidance, on trained digits.

    python experiments/classifier_guidance.py --workdir RUN --classifier CLASSIFIER [--samples 1000]

RUN is the work directory of `configs/digits.py`, CLASSIFIER that of `configs/digits_classifier.py`.
Remakes, for digits, the curves of Inception score against Fréchet distance of Dhariwal & Nichol
2021, "Diffusion Models Beat GANs on Image Synthesis" (Figure 4; Table 4 guides an unconditional and
a conditional network), and of Ho & Salimans 2022, "Classifier-Free Diffusion Guidance" (Figure 4).
Every point has the same labels and the same noise; scores are those of `evaluate`, by a small
classifier of clean images that knows nothing of the noisy one: they compare with each other alone.

Writes the figure, and beside it the scores as JSON. A quarter of an hour on two CPU cores.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

import cfg_jax
from cfg_jax import bulk, evaluation
from cfg_jax.data import open_dataset
from cfg_jax.run import NoisyClassifier, Run

FIGURE = Path(__file__).parent / "figures" / "classifier_guidance.png"
INK = "#333333"


class Curve(NamedTuple):
    """One way to guide, over its strength.

    Attributes:
      name: What the legend calls it.
      colour: Told apart by colour-blind readers as well.
      strengths: What is swept over: w where there is no classifier, else the classifier's scale.
      w: Of classifier-free guidance beside the classifier; None where it is swept over.
      form: Of the classifier's guidance.
    """

    name: str
    colour: str
    strengths: tuple[float, ...]
    w: float | None = None
    form: str = "eps"


CURVES = (
    Curve("classifier-free: w", "#333333", (0.0, 0.1, 0.3, 1.0, 4.0)),
    Curve("unconditional + classifier: s", "#D55E00", (1.0, 2.0, 4.0, 8.0, 16.0), w=-1.0),
    Curve("the same, mean shifted: s", "#E69F00", (1.0, 4.0, 16.0), w=-1.0, form="mean"),
    Curve("conditional + classifier: s", "#0072B2", (0.5, 1.0, 2.0, 4.0, 8.0), w=0.0),
    Curve("classifier-free, w = 0.3, + classifier: s", "#009E73", (1.0, 2.0, 4.0, 8.0), w=0.3),
)


def guiding(curve: Curve, strength: float, noisy: NoisyClassifier) -> dict:
    """One point of a curve, as arguments of `Run.sample`."""
    if curve.w is None:
        return {"w": strength}
    return {
        "w": curve.w,
        "classifier": noisy.log_prob,
        "classifier_scale": strength,
        "classifier_form": curve.form,
    }


def measure(
    run: Run,
    noisy: NoisyClassifier,
    curves: Sequence[Curve],
    *,
    samples: int,
    steps: int,
    seed: int,
) -> dict:
    """Samples and scores every point of every curve.

    Returns:
      The curves' rows of scores by their names, and the real training images' scores.
    """
    data = [open_dataset(run.config.data, split=split) for split in ("train", "test")]
    scorer = evaluation.train_classifier(*data, cache=run.workdir / "evaluation")
    train, held_out = (evaluation.load_arrays(split) for split in data)
    real = evaluation.moments(scorer.features_and_probabilities(held_out[0])[0])
    labels, key = np.arange(samples) % run.classes(), jax.random.key(seed)

    def rows(curve: Curve) -> list[dict]:
        def sample(labels, strength):
            there = guiding(curve, strength, noisy)
            parts = [
                np.clip(run.sample(key, some, steps=steps, offset=start, **there), -1, 1)[:here]
                for start, here, some in bulk.full_batches(samples, labels, 250)
            ]
            return np.concatenate(parts)

        found = evaluation.sweep(sample, scorer, real, labels=labels, ws=curve.strengths)
        scores = map(dataclasses.asdict, found)
        return [{"strength": row.pop("w"), **row} for row in scores]

    return {
        "curves": {curve.name: rows(curve) for curve in curves},
        "real training images": dataclasses.asdict(evaluation.score(*train, scorer, real)),
        "settings": {
            "samples": samples,
            "steps": steps,
            "seed": seed,
            "solver": run.config.sample.solver,
            "training steps": [run.step, noisy.step],
        },
    }


def table(report: dict) -> str:
    """Every point, one line each."""
    lines = [
        "| guidance | strength | label accuracy | Inception score ↑ | Fréchet distance ↓ |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, rows in report["curves"].items():
        for row in rows:
            lines.append(
                f"| {name} | {row['strength']:g} | {row['label_accuracy']:.1%} "
                f"| {row['inception_score']:.3f} | {row['frechet_distance']:.2f} |"
            )
    return "\n".join(lines)


def figure(report: dict, curves: Sequence[Curve]) -> Figure:
    """Inception score against Fréchet distance: a line a curve, the strength at each point.

    All of them on the left; on the right those that stay near the real images.
    """
    made = Figure(figsize=(10.0, 5.4), layout="constrained")
    everything, near = made.subplots(1, 2)
    real = report["real training images"]
    for axes in (everything, near):
        for curve in curves:
            rows = report["curves"][curve.name]
            x = np.array([row["inception_score"] for row in rows])
            y = np.array([row["frechet_distance"] for row in rows])
            if axes is near and x.min() < real["inception_score"] - 0.3:
                continue
            style = "--" if curve.form == "mean" else "-"
            axes.plot(x, y, style, marker="o", markersize=4, color=curve.colour, label=curve.name)
            side = -1 if curve.w is None or curve.form == "mean" else 1
            for row, point in zip(rows, np.stack([x, y], 1), strict=True):
                if axes is near or x.min() < real["inception_score"] - 0.3:
                    axes.annotate(
                        f"{row['strength']:g}",
                        point,
                        xytext=(3 * side, -4 * side),
                        textcoords="offset points",
                        ha="left" if side > 0 else "right",
                        va="top" if side > 0 else "bottom",
                        fontsize=8,
                        color=curve.colour,
                    )
        star = [real["inception_score"], real["frechet_distance"]]
        axes.plot(*star, "*", markersize=12, color="#CC79A7", label="real training images")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.margins(0.1)
        axes.set_xlabel("Inception score   (further right is better →)", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)
    everything.set_ylabel("Fréchet distance   (← lower is better)", color=INK)
    near.set_title("near the real images", fontsize=10, color=INK)
    made.legend(
        *everything.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    return made


def main(argv: list[str] | None = None) -> None:
    """Samples, prints the table, and writes figure and scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="of the diffusion model")
    parser.add_argument("--classifier", type=Path, required=True, help="of the noisy classifier")
    parser.add_argument("--samples", type=int, default=1000, help="of each strength")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FIGURE)
    arguments = parser.parse_args(argv)
    if arguments.samples < 2:
        parser.error(f"--samples must be at least 2, got {arguments.samples}")
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1, got {arguments.steps}")
    if arguments.out.suffix != ".png" or not arguments.out.parent.is_dir():
        parser.error(f"--out must be a .png file in a folder that exists, got {arguments.out}")
    try:
        run, noisy = (
            cfg_jax.load(arguments.workdir),
            cfg_jax.load_noisy_classifier(arguments.classifier),
        )
        run.check_classifier(noisy, "mean")
    except ValueError as error:
        parser.error(str(error))
    report = measure(
        run,
        noisy,
        CURVES,
        samples=arguments.samples,
        steps=arguments.steps,
        seed=arguments.seed,
    )
    print(table(report))
    figure(report, CURVES).savefig(arguments.out, dpi=110)
    arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
