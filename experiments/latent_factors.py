"""How far a codec should compress: quality over training time, and over sampling throughput.

    python experiments/latent_factors.py --workdir runs/latent_factors [--minutes 3]

Remakes Figures 6 and 7 of Rombach et al. 2022, "High-Resolution Image Synthesis with Latent
Diffusion Models", on the scenes of `configs/scenes.py`, 32×32: one transformer, the same captions,
schedule and batch, over the places of z for codecs that divide the sides by f = 1 (pixels), 2, 4
and 8. Each f gets the same training time; the Fréchet distance to real scenes, in the detector's
features, and the share of captions whose sample shows what they ask for, are read at four moments
on the way, and at the end for several numbers of sampling steps. Samples are unguided, as there.

Expected, as in the paper: with more places learning is slower by more than their cost, so that
pixels are last over time and over throughput by far; the middle wins, where f = 8 loses what its
codec does not bring back. Here a digit fills one place of f = 8, so that f may well be best, and no
codec shows where compression becomes too much. Seen: so it is, f = 8 first by far; pixels and f = 2
learn nothing in three minutes.

The machine may be shared. So seconds a training step and seconds a sample are measured first, all
networks in turns within one process, and each f is then given as many steps as the minutes hold by
the medians: the axes are steps times median seconds, and images a second by the medians.

Trains the codecs and the networks into WORKDIR. What is trained or scored already is not done
again, so the same command goes on where it was stopped. Prints the tables, writes the figure and
beside it the numbers as JSON. About 70 minutes on two CPU cores beside other work, most of them for
sampling and timing pixels.
"""

import argparse
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scoring
from benchmarks.network_turns import Turns, turns, unguided
from benchmarks.sampling_bench import timed
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from ml_collections import ConfigDict
from tqdm import tqdm

import cfg_jax
from cfg_jax import evaluation, recipe
from cfg_jax.cli import recipes
from cfg_jax.data import Dataset
from cfg_jax.data.scenes import SIDE
from cfg_jax.evaluation.of_captions import CaptionJudge, Captions
from cfg_jax.training.loop import train

FIGURE = Path(__file__).parent / "figures" / "latent_factors.png"

CODECS: Mapping[int, Mapping[str, int]] = {
    2: {"channels": 32, "groups": 4, "latent_channels": 4},
    4: {"channels": 96, "groups": 32, "latent_channels": 8},
    8: {"channels": 192, "groups": 32, "latent_channels": 32},
}
"""What differs between the codecs of `configs/scenes_codec.py` with patches of f.

In groups of one channel, which 32 of 32 would be, the norms of black places divide by the noise of
a drawn ẑ: after 400 steps such a codec brought back 26 dB of a drawn one, and 14 dB of the mean.
"""

FACTORS = (1, *CODECS)
PIXELS = 1
STEPS = {1: (5, 10), 2: (5, 10, 20), 4: (5, 10, 20, 40), 8: (5, 10, 20, 40)}
"""Sampling steps of each f; pixels are slow."""
STEPS_OVER_TIME = 10
MOMENTS = (1, 2, 4, 8)  # eighths of the training

COLOURS = dict(
    zip(FACTORS, (scoring.BLACK, scoring.ORANGE, scoring.BLUE, scoring.VERMILION), strict=True)
)
SCORES = {
    "frechet_distance": ("Fréchet distance", ".3f"),
    "accuracy": ("caption accuracy", ".1%"),
}
"""Each score's name in a table, and its format."""

Row = dict[str, float]


def codec_recipe(factor: int, steps: int) -> ConfigDict:
    """The recipe of a codec that divides the sides by a factor."""
    config = recipes.read("scenes_codec")
    config.network.codec.update({"patch": factor, **CODECS[factor]})
    config.train.steps = config.train.checkpoint_every = steps
    config.train.sample_every = 0
    return config


def model_recipe(factor: int, codecs: Path, batch: int) -> ConfigDict:
    """The recipe of the network over the places of a factor, its rate without a decay's end."""
    config = recipes.read("scenes")
    if factor == PIXELS:
        config.codec = recipe.node("Pixels")
    else:
        config.codec.update({"patch": factor, **CODECS[factor], "run": str(codecs / f"{factor}")})
    config.network.period = SIDE / factor
    config.optimiser.decay, config.optimiser.warmup = "constant", 20
    config.optimiser.learning_rate = 1e-3
    config.train.batch_size = batch
    config.train.sample_every = 0
    return config


def seconds(
    contestants: Mapping[int, Turns], *, rounds: int, clock: str = "wall"
) -> dict[str, float]:
    """The medians over the rounds: "F training" of a step, and "F sampling N" of N steps' image."""
    training = {f"{factor} training": made.training for factor, made in contestants.items()}
    sampling = {
        f"{factor} sampling {steps}": made.sampling(steps)
        for factor, made in contestants.items()
        for steps in STEPS[factor]
    }
    times = timed("training", training, rounds=rounds, clock=clock)
    times |= timed("sampling", sampling, rounds=rounds, clock=clock)
    batch = {str(factor): made.batch for factor, made in contestants.items()}
    return {
        name: statistics.median(taken) / (batch[name.split()[0]] if "sampling" in name else 1)
        for name, taken in times.items()
    }


def steps_within(minutes: float, step: float) -> int:
    """So many steps of so many seconds that all `MOMENTS` are whole, one at least at the first."""
    return MOMENTS[-1] * max(1, round(60.0 * minutes / step / MOMENTS[-1]))


def trained(config: ConfigDict, place: Path, steps: int) -> Path:
    """The work directory of a recipe, trained so many steps now if it is not yet."""
    config.train.steps = steps
    config.train.checkpoint_every = config.train.keep_every = steps // MOMENTS[-1]
    config.train.log_every = min(50, steps // MOMENTS[-1])
    train(config, place)
    return place


def of_codec(place: Path, held_out: Dataset, judge: CaptionJudge) -> Row:
    """How a codec brings held-out scenes back, and how large its z is."""
    model = cfg_jax.load(place)
    scores, _ = evaluation.coding(model, held_out, features=judge.detector.features)
    size = model.encode(held_out.floats(np.arange(1)))[0].size
    return {"numbers": size, **scores}


def scored(
    run: cfg_jax.Run,
    judge: CaptionJudge,
    captions: Captions,
    *,
    steps: int,
    seed: int,
    batch: int,
) -> Row:
    """The scores of a sample of each caption."""
    texts = np.array(captions.texts)
    sample = evaluation.sampler(
        run,
        {"text": texts},
        {0.0: {"guide": unguided, "steps": steps}},
        seed=seed,
        batch=batch,
        mesh=scoring.mesh_for(len(texts), batch),
    )
    return summed_up(judge.scores(sample(texts, 0.0), captions))


def summed_up(scores: Mapping[str, float]) -> Row:
    """The distance, and the accuracy over seen and held-out captions, as many of each."""
    both = [scores[name] for name in ("caption_accuracy", "caption_accuracy_held_out")]
    return {"frechet_distance": scores["frechet_distance"], "accuracy": float(np.mean(both))}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures all that is not there yet.

    Args:
      arguments: The command's.

    Returns:
      The report: "codecs", "seconds", "over_time", "over_throughput", "real" and "settings".
    """
    codecs, batch = arguments.workdir / "codecs", arguments.batch
    for factor in CODECS:
        train(codec_recipe(factor, arguments.codec_steps), codecs / f"{factor}")
    made = {factor: model_recipe(factor, codecs, batch) for factor in FACTORS}
    training, held_out = scoring.splits(made[PIXELS])
    judge = evaluation.caption_judge_of(training, held_out)
    captions = evaluation.captions_of(held_out, "text", arguments.samples)
    asked = {"batch": batch, "rounds": arguments.rounds}

    def times() -> dict[str, float]:
        contestants = {factor: turns(config, training) for factor, config in made.items()}
        return seconds(contestants, rounds=arguments.rounds)

    found = scoring.kept(arguments.workdir / "seconds.json", asked, times)
    report: dict[str, Any] = {"codecs": {}, "seconds": found, "over_time": {}}
    report["over_throughput"] = {}
    for factor in tqdm(reversed(FACTORS), desc="factors", total=len(FACTORS)):
        if factor != PIXELS:
            held = functools.partial(of_codec, codecs / f"{factor}", held_out, judge)
            name = {"codec": factor, "steps": arguments.codec_steps}
            report["codecs"][factor] = scoring.kept(arguments.workdir / "codecs.json", name, held)
        step = found[f"{factor} training"]
        last = steps_within(arguments.minutes, step)
        place = trained(made[factor], arguments.workdir / f"{factor}_{last}", last)

        def scores(at: int, steps: int, place: Path = place) -> Row:
            told = {"at": at, "samples": arguments.samples, "steps": steps, "seed": arguments.seed}

            def draw() -> Row:
                how = {"steps": steps, "seed": arguments.seed, "batch": arguments.sample_batch}
                return scored(cfg_jax.load(place, step=at), judge, captions, **how)

            return scoring.kept(place / "evaluation" / "latent_factors.json", told, draw)

        report["over_time"][factor] = [
            {"training_steps": at, "minutes": at * step / 60.0, **scores(at, STEPS_OVER_TIME)}
            for at in (last * moment // MOMENTS[-1] for moment in MOMENTS)
        ]
        report["over_throughput"][factor] = [
            {
                "sampling_steps": steps,
                "images_per_second": 1.0 / found[f"{factor} sampling {steps}"],
                **scores(last, steps),
            }
            for steps in STEPS[factor]
        ]
    report["real"] = summed_up(judge.scores(captions.x, captions))
    report["settings"] = {
        **asked,
        "minutes": arguments.minutes,
        "codec steps": arguments.codec_steps,
        "captions": len(captions.texts),
        "sampling steps over time": STEPS_OVER_TIME,
        "seed": arguments.seed,
    }
    return report


def tables(report: Mapping[str, Any]) -> str:
    """The numbers for people: of codecs, over time, over throughput."""
    codecs = [["f", "numbers of z", "PSNR", "Fréchet distance"]]
    codecs += [
        [factor, int(row["numbers"]), f"{row['psnr']:.1f} dB", f"{row['frechet_distance']:.3f}"]
        for factor, row in sorted(report["codecs"].items())
    ]
    titles = [title for title, _ in SCORES.values()]

    def scores(row: Row) -> list[str]:
        return [format(row[name], how) for name, (_, how) in SCORES.items()]

    over_time = [["f", "training steps", "minutes", *titles]]
    over_throughput = [["f", "sampling steps", "images a second", *titles]]
    for factor in FACTORS:
        for row in report["over_time"][factor]:
            at = [f"{row['training_steps']:,}", f"{row['minutes']:.2f}"]
            over_time.append([factor, *at, *scores(row)])
        for row in report["over_throughput"][factor]:
            at = [row["sampling_steps"], f"{row['images_per_second']:.3g}"]
            over_throughput.append([factor, *at, *scores(row)])
    over_time.append(["real scenes", "", "", *scores(report["real"])])
    return "\n\n".join(markdown(lines) for lines in (codecs, over_time, over_throughput))


def markdown(lines: Sequence[Sequence[Any]]) -> str:
    """A table of a head and rows, numbers to the right."""
    head, *rows = lines
    return "\n".join(
        f"| {' | '.join(map(str, line))} |" for line in (head, ["---:"] * len(head), *rows)
    )


def panel(axes: Axes, report: Mapping[str, Any], curves: str, x: str, score: str) -> None:
    """A curve of a score for each f."""
    for factor in FACTORS:
        rows = report[curves][factor]
        label = f"f = {factor}" + (", pixels" if factor == PIXELS else "")
        xs, ys = ([row[name] for row in rows] for name in (x, score))
        axes.plot(xs, ys, "o-", color=COLOURS[factor], markersize=4, label=label)
    axes.axhline(report["real"][score], color=scoring.PINK, linewidth=1.2, linestyle=":")
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(SCORES[score][0], color=scoring.INK)
    scoring.plain(axes)


def figure(report: Mapping[str, Any]) -> Figure:
    """Distance and accuracy over training time; distance over sampling throughput."""
    made = Figure(figsize=(13.0, 4.4), layout="constrained")
    distance, accuracy, throughput = made.subplots(1, 3)
    for axes, score in ((distance, "frechet_distance"), (accuracy, "accuracy")):
        panel(axes, report, "over_time", "minutes", score)
        axes.set_xlabel("minutes of training", color=scoring.INK)
    panel(throughput, report, "over_throughput", "images_per_second", "frechet_distance")
    throughput.set_xlabel("images a second", color=scoring.INK)
    for factor in FACTORS:
        for row in report["over_throughput"][factor]:
            throughput.annotate(
                f"{row['sampling_steps']}",
                (row["images_per_second"], row["frechet_distance"]),
                textcoords="offset points",
                xytext=(0, 6),
                ha="center",
                fontsize=8,
                color=COLOURS[factor],
            )
    for axes in (distance, throughput):
        scoring.log_distance(axes)
    accuracy.yaxis.set_major_formatter("{x:.0%}")
    distance.set_title("quality over training time", fontsize=11, color=scoring.INK)
    accuracy.set_title("captions that are right, over the same", fontsize=11, color=scoring.INK)
    title = "quality over sampling throughput, by steps"
    throughput.set_title(title, fontsize=11, color=scoring.INK)
    accuracy.legend(frameon=False, fontsize=9, loc="center left")
    made.supxlabel("⋯ as many real scenes", fontsize=10, color=scoring.INK)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what is not trained yet, measures, prints the tables, writes figure and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--workdir", type=Path, required=True, help="for codecs and networks")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, of each f")
    parser.add_argument("--batch", type=int, default=16, help="of training, and of the timing")
    parser.add_argument("--codec-steps", type=int, default=1000, help="of each codec's training")
    parser.add_argument("--rounds", type=int, default=3, help="of the timing, in turns")
    parser.add_argument("--samples", type=int, default=36, help="seen captions, and held-out ones")
    parser.add_argument("--sample-batch", type=int, default=32, help="samples at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--out", type=Path, default=FIGURE, help="the figure, a .png file")
    arguments = parser.parse_args(argv)
    least = {"batch": 1, "codec_steps": 1, "rounds": 1, "samples": 3, "sample_batch": 1}
    scoring.check_least(parser, arguments, **least)
    scoring.check_out(parser, arguments)
    if not 0.0 < arguments.minutes < math.inf:
        parser.error(f"--minutes must be positive, got {arguments.minutes}")
    cfg_jax.use_cores()
    report = scoring.measured(parser, lambda: measure(arguments))
    print(tables(report))
    scoring.write(arguments.out, figure(report), report)


if __name__ == "__main__":
    main()
