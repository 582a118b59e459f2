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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import scoring
from matplotlib.figure import Figure

import cfg_jax
from cfg_jax import beside, evaluation, grids

FIGURE = Path(__file__).parent / "figures" / "classifier_guidance.png"


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
    Curve("classifier-free: w", scoring.BLACK, (0.0, 0.1, 0.3, 1.0, 4.0)),
    Curve("unconditional + classifier: s", scoring.VERMILION, (1.0, 2.0, 4.0, 8.0, 16.0), w=-1.0),
    Curve("the same, mean shifted: s", scoring.ORANGE, (1.0, 4.0, 16.0), w=-1.0, form="mean"),
    Curve("conditional + classifier: s", scoring.BLUE, (0.5, 1.0, 2.0, 4.0, 8.0), w=0.0),
    Curve("classifier-free, w = 0.3, + classifier: s", scoring.GREEN, (1.0, 2.0, 4.0, 8.0), w=0.3),
)


def guiding(curve: Curve, strength: float, noisy: cfg_jax.Model) -> dict[str, Any]:
    """What guides at one point of a curve, as arguments of `Model.sample`."""
    if curve.w is None:
        return {"w": strength}
    return {
        "w": curve.w,
        "classifier": noisy,
        "classifier_scale": strength,
        "classifier_form": curve.form,
    }


def measure(
    run: cfg_jax.Run,
    noisy: cfg_jax.Run,
    curves: Sequence[Curve],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Samples and scores every point of every curve.

    Returns:
      The curves' rows of scores by their names, and the real training images' scores.
    """
    data = scoring.splits(run.config)
    judge = evaluation.judge_of(*data)
    asked = evaluation.asked(run, data[1], arguments.samples, noisy)
    solver = scoring.ancestral(run.sampling.solver)
    walk = {"solver": solver, "grid": grids.UniformU(), "steps": arguments.steps}

    def rows(curve: Curve) -> list[dict[str, float]]:
        sample = evaluation.sampler(
            run,
            asked.entries,
            {s: {**walk, **guiding(curve, s, noisy)} for s in curve.strengths},
            seed=arguments.seed,
            batch=arguments.batch,
            mesh=scoring.mesh_for(len(asked.labels), arguments.batch),
        )
        found = evaluation.sweep(
            sample, judge.scorer, judge.real, labels=asked.labels, ws=curve.strengths
        )
        scores = map(dataclasses.asdict, found)
        return [{"strength": row.pop("w"), **row} for row in scores]

    return {
        "curves": {curve.name: rows(curve) for curve in curves},
        "real training images": dataclasses.asdict(judge.training),
        "settings": {
            "samples": arguments.samples,
            "steps": arguments.steps,
            "seed": arguments.seed,
            "solver": str(solver),
            "training steps": [run.step, noisy.step],
        },
    }


def check(run: cfg_jax.Run, noisy: cfg_jax.Run) -> None:
    """Raises ValueError unless these are a diffusion model and a classifier that can guide it."""
    if noisy.kind is not None:
        raise ValueError(f"{noisy!r} is a diffusion model, not a noisy classifier")
    run.guided(1.0)  # refuses a classifier, and what guidance has nothing to hide of
    beside.check(run, noisy)


def table(report: dict) -> str:
    """Every point, one line each."""
    return scoring.table(
        ["guidance", "strength"],
        [
            ((name, f"{row['strength']:g}"), row)
            for name, rows in report["curves"].items()
            for row in rows
        ],
    )


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
            least = min(row["inception_score"] for row in rows)
            far = least < real["inception_score"] - 0.3
            if axes is near and far:
                continue
            line = "--" if curve.form == "mean" else "-"
            scoring.curve(axes, rows, colour=curve.colour, linestyle=line, label=curve.name)
            if axes is near or far:
                left = curve.w is None or curve.form == "mean"
                at = {"xytext": (-3, 4), "ha": "right", "va": "bottom"} if left else {}
                texts = [f"{row['strength']:g}" for row in rows]
                scoring.names(axes, rows, texts, colour=curve.colour, **at)
        scoring.star(axes, real)
        scoring.tradeoff(axes)
    near.set_ylabel("")
    near.set_title("near the real images", fontsize=10, color=scoring.INK)
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
    scoring.add_arguments(parser, out=FIGURE, steps=50)
    arguments = parser.parse_args(argv)
    scoring.check_arguments(parser, arguments)
    cfg_jax.use_cores()
    try:
        run, noisy = cfg_jax.load(arguments.workdir), cfg_jax.load(arguments.classifier)
        check(run, noisy)
        report = measure(run, noisy, CURVES, arguments)
    except ValueError as error:
        parser.error(str(error))
    print(table(report))
    scoring.write(arguments.out, figure(report, CURVES), report)


if __name__ == "__main__":
    main()
