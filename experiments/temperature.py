"""Why guidance, and not just a low temperature: both, and truncation, in pictures.

    python experiments/temperature.py --workdir runs/digits [--samples 1000]

GANs and flows trade diversity for fidelity by truncating or shrinking the noise that they are
given. Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", recall in their Section 1 that of a
diffusion model neither a scaled score nor less noise in the reverse process does it: the samples
get blurred. Five ways to sharpen one network, on the same labels and noise:

    guidance             ε̃ = (1 + w) ε(z, c) - w ε(z, ∅)
    score / τ            ε̃ = ε(z, c) / τ: guidance of 1 + w = 1 / τ without its last term
    noise × √τ           z_λ' = μ̃ + σ̃ √τ n, from √τ n
    truncated noise      z_λ' = μ̃ + σ̃ n_ψ, from n_ψ
    truncated start      the probability-flow ODE, which draws no other noise, from n_ψ

with n ~ N(0, I), μ̃ and σ̃² the mean and the variance of an ancestral step, and each entry of n_ψ
from N(0, 1) truncated to [-ψ, ψ], n_ψ = Φ⁻¹(Φ(-ψ) + (2 Φ(ψ) - 1) Φ(n)), as BigGAN truncates. In the
limit of small steps they make of one Gaussian N(m, s²) another of mean m and variance

    score / τ            s² τ / (2 - τ)
    noise × √τ           s² τ, the variance of p(x)^(1/τ)
    truncated            s² τ_ψ,  τ_ψ = 1 - 2 ψ φ(ψ) / (2 Φ(ψ) - 1)

but what holds for one Gaussian holds for nothing else. The first figure shows classes in the plane,
by the exact ε of `cfg_jax.mixtures`, beside the density p(x|c)^(1/τ) that a low temperature means.
Of three Gaussians guidance makes classes as certain as temperature does and keeps more of their
spread, by moving them apart; of classes along arms temperature and truncation lose both ends, which
p(x|c)^(1/τ) keeps: they contract a class towards its mean.

The second figure shows a trained network's digits, and their scores as `evaluate` makes them. 8×8
digits have no fine detail to blur, and a class' mean is a legible digit: the orders of ImageNet are
there, but less apart. At an Inception score of 9.88 guidance has a Fréchet distance of 2.3, the
others one of 3.0 to 3.7.

Prints the tables; writes FILE.png with FILE.json, all that was measured of the digits, and
FILE_plane.png. What is scored already is kept in the run. About 5 minutes on two CPU cores.
"""

import argparse
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gaussian_mixture
import numpy as np
import scoring
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from temperature_plane import arms, plane, plane_figure, plane_table, shown
from temperature_ways import WAYS, Way, sharpened
from tqdm import tqdm

import cfg_jax
from cfg_jax import evaluation, grids
from cfg_jax.data.images import tile
from cfg_jax.data.media import medium
from cfg_jax.evaluation.of_model import taken

FIGURES = Path(__file__).parent / "figures"
FIGURE = FIGURES / "temperature.png"

PICTURED = 30
"""Digits in a row of the picture."""


def measure(
    run: cfg_jax.Run,
    judge: evaluation.Judge,
    asked: evaluation.Asked,
    arguments: argparse.Namespace,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, np.ndarray]]:
    """Samples and scores a trained network in every way.

    Returns:
      The scores over each way's strengths, by its name; and its first `PICTURED` images at the
      strength of the pictures, beside those that nothing sharpened.
    """
    how = {"steps": arguments.steps, "v": scoring.ancestral(run.sampling.solver).v}

    def images(way: Way, strength: float, count: int) -> np.ndarray:
        entries = taken(asked.entries, np.arange(count) % len(asked.labels))
        walk = sharpened(way, strength, grid=grids.UniformU(), **how)
        sample = evaluation.sampler(
            run,
            entries,
            {strength: walk},
            seed=arguments.seed,
            batch=arguments.batch,
            mesh=scoring.mesh_for(count, arguments.batch),
        )
        return sample(np.arange(count), strength)

    def scores(way: Way, strength: float) -> dict[str, float]:
        return judge.scores(images(way, strength, len(asked.labels)), asked.labels)

    settings = {**how, "step": run.step, "samples": arguments.samples, "seed": arguments.seed}
    kept = functools.partial(scoring.kept, run.workdir / "evaluation" / "temperature.json")
    curves: dict[str, list[dict[str, Any]]] = {way.name: [] for way in WAYS}
    with tqdm(total=sum(len(way.strengths) for way in WAYS), desc="points", unit="point") as bar:
        for way in WAYS:
            for strength in way.strengths:
                told = {**settings, "way": way.name, "strength": str(strength)}
                found = kept(told, functools.partial(scores, way, strength))
                curves[way.name].append({"strength": str(strength), **found})
                bar.update()
    pictures = {"none of them": images(WAYS[0], 0.0, PICTURED)}
    return curves, pictures | {shown(way): images(way, way.shown, PICTURED) for way in WAYS}


def figure(report: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> Figure:
    """The pictures, uint8, a row a way; the scores, a curve a way."""
    made = Figure(figsize=(13.0, 7.6), layout="constrained")
    above, below = made.subfigures(2, 1, height_ratios=(1.0, 1.7))
    page = above.subplots()
    tiles = tile(np.concatenate(list(pictures.values())), PICTURED)
    page.imshow(np.broadcast_to(tiles, (*tiles.shape[:2], 3)), interpolation="nearest")
    height = tiles.shape[0] / len(pictures)
    page.set_yticks(height * (np.arange(len(pictures)) + 0.5), list(pictures), fontsize=10)
    page.set_xticks([])
    page.tick_params(length=0)
    page.spines[:].set_visible(False)

    left, right = below.subplots(1, 2)
    for way in WAYS:
        over = report["curves"][way.name]
        told = ", ".join(number(row["strength"]) for row in over)
        scoring.curve(left, over, colour=way.colour, label=f"{way.name}: {way.symbol} = {told}")
        accuracy, distance = (
            [row[score] for row in over] for score in ("label_accuracy", "frechet_distance")
        )
        right.plot(accuracy, distance, "-o", color=way.colour, markersize=4)
    real = report["real training images"]
    scoring.tradeoff(left)
    scoring.star(left, real)
    left.legend(loc="upper left", frameon=False, fontsize=9)
    right.plot(real["label_accuracy"], real["frechet_distance"], "*", color=scoring.PINK, ms=12)
    scoring.log_distance(right)
    right.set_xlabel("label accuracy", color=scoring.INK)
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    scoring.plain(right)
    return made


def number(strength: str) -> str:
    """A strength in few figures."""
    return f"{float(strength):.2g}".replace("inf", "∞")


def table(report: Mapping[str, Any]) -> str:
    """Every way at every strength, and the real training images."""
    rows = [
        ((way.name, f"{way.symbol} = {number(row['strength'])}"), row)
        for way in WAYS
        for row in report["curves"][way.name]
    ]
    real = (("real training images", ""), report["real training images"])
    return scoring.table(["sharpened by", "strength"], [*rows, real])


def main(argv: list[str] | None = None) -> None:
    """Draws, samples, prints the tables, writes figures and scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--workdir", type=Path, required=True, help="a trained run")
    parser.add_argument("--points", type=int, default=300, help="of a class in the plane")
    scoring.add_arguments(parser, out=FIGURE, steps=25)
    arguments = parser.parse_args(argv)
    scoring.check_arguments(parser, arguments)
    if arguments.points < 2:
        parser.error(f"--points must be at least 2, got {arguments.points}")
    cfg_jax.use_cores()
    try:
        run = cfg_jax.load(arguments.workdir)
        run.guided(1.0)  # refuses a network that has nothing to hide
        data = scoring.splits(run.config)
        judge = evaluation.judge_of(*data)
        asked = evaluation.asked(run, data[1], arguments.samples)
    except ValueError as error:
        parser.error(str(error))
    planes = {
        "one Gaussian a class": plane(
            gaussian_mixture.three_classes(std=0.45),
            reach=2.6,
            count=arguments.points,
            seed=arguments.seed,
        ),
        "a spiral's arm a class": plane(
            arms(), reach=2.6, count=arguments.points, seed=arguments.seed
        ),
    }
    print(plane_table(planes))
    beside = arguments.out.with_name(f"{arguments.out.stem}_plane.png")
    plane_figure(planes).savefig(beside, dpi=92, facecolor="white")
    curves, pictures = measure(run, judge, asked, arguments)
    kind = medium(run.facts)
    report = {
        "curves": curves,
        "real training images": dataclasses.asdict(judge.training),
        "settings": {
            "data": run.config.data.kind,
            "training steps": run.step,
            "v": scoring.ancestral(run.sampling.solver).v,
            "steps": arguments.steps,
            "samples": arguments.samples,
            "seed": arguments.seed,
        },
    }
    pages = {name: kind.seen(x) for name, x in pictures.items()}
    print(table(report))
    scoring.write(arguments.out, figure(report, pages), report)


if __name__ == "__main__":
    main()
