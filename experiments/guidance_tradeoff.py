"""Fidelity against diversity over w, p_uncond, steps and v: the tables of the guidance paper.

    python experiments/guidance_tradeoff.py --workdir runs/tradeoff [--config configs/digits.py]
        [--config.FIELD=VALUE ...] [--samples 1000]

Remakes what Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", show on ImageNet: scores over
the guidance strength w, for networks that hid the label in a share p_uncond of their training
(Table 1, Figure 4) and for the number of sampling steps T (Table 2, Figure 5); and beside them for
the interpolation v of the reverse variance (Equation 4) and for networks trained less long.

The paper's shape: the Inception score rises with w, FID is lowest at a small w > 0 and rises from
there (at 64×64 and p_uncond 0.1: 1.55 at w = 0.1, 26.22 at w = 4), p_uncond 0.1 and 0.2 do alike
and 0.5 worse. The numbers do not compare: here a small classifier of the same data gives the
features, as in `evaluate`. Measured on digits, one network each and 1,000 images a point: the same,
but for where the distance is smallest. Where the unguided Inception score falls well short of the
real images' 9.70, that is at w > 0: after 500 training steps (9.26), with v = 1 (9.37), with
p_uncond 0.5 (9.42). Where it comes near them, 9.55 and more, guidance has little to repair, and
w = 0 is best.

Trains a network for each p_uncond by the recipe, into WORKDIR/p_uncond_P, and samples each point
from the same labels and noise by the paper's Algorithm 2. What is trained or scored already is not
done again, so the same command goes on where it was stopped. Prints the tables, writes the figure
and beside it the scores as JSON. About 20 minutes on two CPU cores, a third of them training. For
CIFAR-10 on a GPU: --config configs/cifar10.py --steps 256 --samples 10000 --batch 1000.
"""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scoring
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from tqdm import tqdm

import cfg_jax
from cfg_jax import blueprint, evaluation, grids, recipe, solvers
from cfg_jax.data import Dataset
from cfg_jax.training.loop import StoppedError, train

ROOT = Path(__file__).parents[1]
FIGURE = Path(__file__).parent / "figures" / "guidance_tradeoff.png"

WS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
FEW = (0.0, 0.2, 1.0)  # w, where something else is of interest
P_UNCOND = (0.1, 0.2, 0.5)
VS = (0.0, 1.0)
STEPS = (8, 16, 50)
BELOW = ("trained", "steps", "v")  # in the lower panels of the figure
EARLY = 0.3  # of the training steps: a network trained less long; another of twice as many


CONTRASTS = (scoring.BLACK, scoring.BLUE, scoring.VERMILION, scoring.GREEN)


class Point(NamedTuple):
    """What is sampled, and how.

    Attributes:
      p_uncond: How often the training hid the label.
      trained: The number of training steps.
      v: The interpolation of the reverse variance, in [0, 1].
      steps: T, the number of sampling steps.
      w: The guidance strength.
    """

    p_uncond: float
    trained: int
    v: float
    steps: int
    w: float


Sweep = dict[float, list[Point]]
"""Points over w, by the value of what else is swept over."""

Curves = Mapping[str, list[dict[str, float]]]
"""Scores over w, by the value of what else is swept over."""


class Kind(NamedTuple):
    """Something that is swept over beside w.

    Attributes:
      title: Of its panel.
      symbol: Of its values, in tables and legends.
      values: They, beside the recipe's own.
      ws: The guidance strengths at each.
    """

    title: str
    symbol: str
    values: tuple[float, ...]
    ws: tuple[float, ...]


def kinds(config: ConfigDict) -> dict[str, Kind]:
    """What is swept over, by the field of a `Point`."""
    return {
        "p_uncond": Kind("how often training hid the label", "p_uncond", P_UNCOND, WS),
        "trained": Kind("training steps", "training steps", early(config), FEW),
        "steps": Kind("sampling steps T", "T", STEPS, FEW),
        "v": Kind("reverse variance v", "v", VS, FEW),
    }


def early(config: ConfigDict) -> tuple[int, ...]:
    """The steps of the checkpoints at about `EARLY` of the training, and at twice that."""
    every, last = config.train.checkpoint_every, config.train.steps
    first = every * max(1, round(EARLY * last / every))
    return tuple(step for step in (first, 2 * first) if step < last)


def sweeps(config: ConfigDict, *, steps: int) -> dict[str, Sweep]:
    """All points, by what is swept over: each differs from the recipe's in that and in w alone."""
    own = Point(
        p_uncond=config.condition[scoring.hidden(config)[0]].p_uncond,
        trained=config.train.steps,
        v=scoring.ancestral(blueprint.sampling(config).solver).v,
        steps=steps,
        w=0.0,
    )
    return {
        field: {
            value: [own._replace(**{field: value, "w": w}) for w in kind.ws]
            for value in sorted({*kind.values, getattr(own, field)})
        }
        for field, kind in kinds(config).items()
    }


def recipe_of(path: Path, changes: list[str]) -> ConfigDict:
    """The recipe in a file, with `--config.FIELD=VALUE` changes, its early checkpoints kept."""
    config = scoring.recipe_of(path, changes)
    config.train.keep_every = early(config)[0] if early(config) else 0
    return config


def trained(config: ConfigDict, workdir: Path, p_uncond: float) -> Path:
    """The work directory of the recipe's network of a p_uncond, trained now if it is not yet."""
    own, place = recipe.copied(config), workdir / f"p_uncond_{p_uncond:g}"
    for name in scoring.hidden(config):
        own.condition[name].p_uncond = p_uncond
    train(own, place)
    return place


def measure(
    sweep: Mapping[str, Sweep],
    places: Mapping[float, Path],
    judge: evaluation.Judge,
    held_out: Dataset,
    arguments: argparse.Namespace,
) -> dict[Point, dict[str, float]]:
    """Samples and scores every point that is not scored yet.

    Args:
      sweep: The points.
      places: The work directories by p_uncond.
      judge: What scores.
      held_out: Held-out data, which lend a condition that cannot be named.
      arguments: The command's: samples, seed and batch.

    Returns:
      The scores by point.
    """
    load = functools.lru_cache(maxsize=1)(cfg_jax.load)

    def scores(run: cfg_jax.Run, point: Point) -> dict[str, float]:
        asked = evaluation.asked(run, held_out, arguments.samples)
        walk = {"solver": solvers.Ancestral(v=point.v), "grid": grids.UniformU()}
        sample = evaluation.sampler(
            run,
            asked.entries,
            {point.w: {**walk, "w": point.w, "steps": point.steps}},
            seed=arguments.seed,
            batch=arguments.batch,
            mesh=scoring.mesh_for(len(asked.labels), arguments.batch),
        )
        return judge.scores(sample(asked.labels, point.w), asked.labels)

    points = itertools.chain.from_iterable(
        itertools.chain.from_iterable(by_value.values()) for by_value in sweep.values()
    )
    told = {"samples": arguments.samples, "seed": arguments.seed, "by": cfg_jax.__version__}
    found = {}
    for point in tqdm(sorted(set(points)), desc="points", unit="point"):
        place = places[point.p_uncond]
        run = load(place, step=point.trained)
        kept = place / "evaluation" / "guidance_tradeoff.json"
        measured = functools.partial(scores, run, point)
        found[point] = scoring.kept(kept, {**point._asdict(), **told}, measured)
    return found


def rows(sweep: Mapping[str, Sweep], found: Mapping[Point, dict[str, float]]) -> dict[str, Curves]:
    """The scores over w, by what is swept over and its value."""
    return {
        field: {
            f"{value:g}": [{"w": point.w, **found[point]} for point in points]
            for value, points in by_value.items()
        }
        for field, by_value in sweep.items()
    }


def tables(report: Mapping[str, Any], described: Mapping[str, Kind]) -> str:
    """A table for each thing that is swept over, and where the Fréchet distance is smallest."""
    parts = []
    for field, kind in described.items():
        curves = report["sweeps"][field]
        parts.append(
            scoring.table(
                [kind.symbol, "w"],
                [((v, f"{row['w']:g}"), row) for v, over in curves.items() for row in over],
            )
        )
        least = (min(over, key=lambda row: row["frechet_distance"]) for over in curves.values())
        where = (
            f"w = {row['w']:g} at {kind.symbol} {value}"
            for value, row in zip(curves, least, strict=True)
        )
        parts.append(f"smallest Fréchet distance: {', '.join(where)}")
    real = scoring.table(["images"], [(["real training images"], report["real training images"])])
    return "\n\n".join([*parts, real])


def against(axes: Axes, curves: Curves, kind: Kind, colours: Sequence[Any]) -> None:
    """Draws Fréchet distance over Inception score, a curve a value; names w along one of them."""
    for (value, over), colour in zip(curves.items(), colours, strict=True):
        scoring.curve(axes, over, colour=colour, label=f"{kind.symbol} = {value}")
        x, y = ([row[s] for row in over] for s in ("inception_score", "frechet_distance"))
        scoring.least(axes, x, y, colour=colour)
    furthest = max(curves.values(), key=lambda over: over[-1]["inception_score"])
    scoring.names(axes, furthest, [f"w = {row['w']:g}" for row in furthest], colour=scoring.INK)
    scoring.tradeoff(axes)
    axes.set_title(kind.title, fontsize=11, color=scoring.INK)


def over_w(axes: Axes, curves: Curves, score: str, colours: Sequence[Any]) -> None:
    """Draws a score over w: linear up to 0.2, then logarithmic, so that 0 has a place."""
    for over, colour in zip(curves.values(), colours, strict=True):
        x, y = ([row[name] for row in over] for name in ("w", score))
        axes.plot(x, y, "-o", color=colour, markersize=4)
        if score == "frechet_distance":
            scoring.least(axes, x, y, colour=colour)
    axes.set_xscale("symlog", linthresh=0.2, linscale=0.6)
    axes.set_xticks(WS, [f"{w:g}" for w in WS])
    axes.minorticks_off()
    axes.set_xlabel("guidance strength w", color=scoring.INK)
    axes.set_ylabel(scoring.AXES[score], color=scoring.INK)
    scoring.plain(axes)


def figure(report: Mapping[str, Any], described: Mapping[str, Kind]) -> Figure:
    """Above, the curves of p_uncond, against each other and over w; below, those of the others."""
    made = Figure(figsize=(13.0, 8.2), layout="constrained")
    (first, *others), below = made.subplots(2, 3)
    real, measured = report["real training images"], report["sweeps"]
    by_p = measured["p_uncond"]
    contrasts = [*CONTRASTS, *colormaps["viridis"](np.linspace(0.3, 1.0, len(by_p)))][: len(by_p)]
    against(first, by_p, described["p_uncond"], contrasts)
    for axes, score in zip(others, ("frechet_distance", "inception_score"), strict=True):
        over_w(axes, by_p, score, contrasts)
        axes.axhline(real[score], color=scoring.PINK, linewidth=1.2, linestyle=":")
        axes.set_title("the same, over w", fontsize=11, color=scoring.INK)
    scoring.log_distance(others[0])
    for axes, field in zip(below, BELOW, strict=True):
        shades = colormaps["viridis"](np.linspace(0.85, 0.0, len(measured[field])))
        against(axes, measured[field], described[field], shades)
    for axes in (first, *below):
        scoring.star(axes, real)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    told = "◯ smallest Fréchet distance of a curve      ★ ⋯ real training images"
    made.supxlabel(told, fontsize=10, color=scoring.INK)
    return made


def main(argv: list[str] | None = None) -> None:
    """Trains what is not trained yet, samples, prints the tables, writes figure and scores."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="--config.FIELD=VALUE changes a field of the recipe.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", type=Path, required=True, help="for the networks and scores")
    parser.add_argument(
        "--config", type=Path, default=ROOT / "configs" / "digits.py", help="the recipe"
    )
    scoring.add_arguments(parser, out=FIGURE, steps=25)
    arguments, changes = parser.parse_known_args(argv)
    scoring.check_arguments(parser, arguments)
    cfg_jax.use_cores()
    try:
        config = recipe_of(arguments.config, changes)
        data = scoring.splits(config)
        judge = evaluation.judge_of(*data)
        sweep = sweeps(config, steps=arguments.steps)
        places = {p: trained(config, arguments.workdir, p) for p in sweep["p_uncond"]}
        found = measure(sweep, places, judge, data[1], arguments)
    except ValueError as error:
        parser.error(str(error))
    except StoppedError as stopped:
        raise SystemExit(f"{stopped}; the same command goes on") from None
    report = {
        "sweeps": rows(sweep, found),
        "real training images": dataclasses.asdict(judge.training),
        "settings": {
            "data": config.data.kind,
            "training steps": config.train.steps,
            "solver": "ancestral",
            "v": scoring.ancestral(blueprint.sampling(config).solver).v,
            "steps": arguments.steps,
            "samples": arguments.samples,
            "seed": arguments.seed,
            "held-out images": judge.real.count,
        },
    }
    described = kinds(config)
    print(tables(report, described))
    scoring.write(arguments.out, figure(report, described), report)


if __name__ == "__main__":
    main()
