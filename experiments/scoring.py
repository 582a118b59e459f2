"""What the experiments on trained networks share: samples, their scores, the table and the axes."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from ml_collections import ConfigDict

from cfg_jax import recipe
from cfg_jax.cli import recipes
from cfg_jax.data import Dataset
from cfg_jax.evaluation import record
from cfg_jax.model import Model
from cfg_jax.runtime import bulk
from cfg_jax.runtime.mesh import fitting
from cfg_jax.sampling.solvers import Ancestral
from cfg_jax.training.loop import StoppedError

BLACK, BLUE, VERMILION = "#333333", "#0072B2", "#D55E00"  # told apart by colour-blind readers too
GREEN, ORANGE, PINK, SKY = "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
INK, PALE = BLACK, "#dddddd"

SCORES = {
    "label_accuracy": ("label accuracy", ".1%"),
    "inception_score": ("Inception score ↑", ".3f"),
    "frechet_distance": ("Fréchet distance ↓", ".2f"),
}
"""Each score's name in a table, and its format."""

AXES = {
    "inception_score": "Inception score   (higher is better)",
    "frechet_distance": "Fréchet distance   (lower is better)",
}
"""What an axis of each score is called."""


def splits(config: ConfigDict) -> tuple[Dataset, Dataset]:
    """The data of a recipe: those of training, and those that are held out.

    Raises:
      ValueError: They cannot be read.
    """
    source = recipe.make(config.data, "data", path="config.data")
    return source.open("train"), source.open("test")


def recipe_of(
    path: Path, changes: Sequence[str], adapt: Callable[[ConfigDict], None] | None = None
) -> ConfigDict:
    """The recipe in a file, with `--config.FIELD=VALUE` changes: of a network that guides itself.

    Args:
      path: The file, or the name of a recipe that comes with cfg_jax.
      changes: Arguments of the command line, all of them such changes.
      adapt: What the experiment itself changes, before the others.

    Raises:
      ValueError: The file is missing or has a mistake, or a change is none, or it trains otherwise.
    """
    changed, others = recipes.split(changes)
    if others:
        raise ValueError(f"unexpected argument {others[0]!r}")
    config = recipes.read(str(path))
    if adapt is not None:
        adapt(config)
    recipe.override_all(config, changed)
    objective = recipe.make(config.objective, "objective", path="config.objective")
    if objective.kind is None or not hidden(config):
        raise ValueError(f"{path} must train a diffusion model with and without its condition")
    return config


def hidden(config: ConfigDict) -> list[str]:
    """The entries of the condition that guidance hides, and training now and then."""
    nodes = {name: node for name, node in config.condition.items() if node is not None}
    return [name for name, node in nodes.items() if node.guided and node.p_uncond]


def ancestral(solver: Any) -> Ancestral:
    """The paper's sampler, with the v of a model's own solver where that is one with a number."""
    own = isinstance(solver, Ancestral) and solver.v is not None
    return solver if own else Ancestral()


def kept(
    path: Path, settings: Mapping[str, Any], measure: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """What `measure` found, now or before: kept in a JSON file, by the settings it depends on."""
    held = json.loads(path.read_text()) if path.exists() else {}
    name = json.dumps(settings, sort_keys=True)
    if name not in held:
        held[name] = measure()
        record.write_files(path.parent, {path.name: json.dumps(held, indent=1).encode()})
    return held[name]


def draw(
    model: Model,
    texts: Sequence[str],
    *,
    w: float,
    seed: int,
    batch: int,
    negative: Sequence[str] | None = None,
) -> np.ndarray:
    """A sample of each caption, kept within [-1, 1], from the same noise whatever is asked.

    Args:
      model: A model of captions alone.
      texts: The captions.
      w: The guidance strength.
      seed: Of the noise.
      batch: Samples at a time.
      negative: What stands in the null's place, one a caption.
    """
    key, made = jax.random.key(seed), []
    for start, count, index in bulk.full_batches(len(texts), min(batch, len(texts))):
        instead = {"text": [negative[i] for i in index]} if negative else None
        asked = [texts[i] for i in index]
        x = model.sample(key, text=asked, w=w, negative=instead, offset=start)
        made.append(np.clip(np.asarray(x), -1.0, 1.0)[:count])
    return np.concatenate(made)


def table(head: Sequence[str], rows: Sequence[tuple[Sequence[Any], Mapping[str, float]]]) -> str:
    """A table in Markdown: what names a point, and its scores.

    Args:
      head: The titles of the columns that name a point.
      rows: For each point its names, as many, and its scores.
    """
    titles = [*head, *(title for title, _ in SCORES.values())]
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for names, scores in rows:
        lines.append([*names, *(format(scores[score], how) for score, (_, how) in SCORES.items())])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def curve(axes: Axes, rows: Sequence[Mapping[str, float]], *, colour: str, **style: Any) -> None:
    """Draws Fréchet distance over Inception score, the points joined in their order."""
    x, y = ([row[name] for row in rows] for name in ("inception_score", "frechet_distance"))
    axes.plot(x, y, color=colour, **{"marker": "o", "markersize": 4, "linewidth": 1.5, **style})


def least(axes: Axes, x: Sequence[float], y: Sequence[float], *, colour: str) -> None:
    """Rings the lowest point of a curve."""
    lowest = int(np.argmin(y))
    ring = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.2}
    axes.plot(x[lowest], y[lowest], "o", color=colour, **ring)


def star(axes: Axes, training: Mapping[str, float]) -> None:
    """Draws the real training images, where their scores are."""
    curve(
        axes,
        [training],
        colour=PINK,
        marker="*",
        markersize=12,
        linestyle="none",
        label="real training images",
    )


def names(
    axes: Axes, rows: Sequence[Mapping[str, float]], texts: Sequence[str], *, colour: str, **at: Any
) -> None:
    """Writes a text beside each point of a curve."""
    for row, text in zip(rows, texts, strict=True):
        axes.annotate(
            text,
            (row["inception_score"], row["frechet_distance"]),
            textcoords="offset points",
            fontsize=8,
            color=colour,
            **{"xytext": (4, -4), "ha": "left", "va": "top", **at},
        )


def plain(axes: Axes) -> None:
    """A pale grid, no frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def log_distance(axes: Axes) -> None:
    """A logarithmic axis of Fréchet distances, ticked 1, 2, 5, 10."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def tradeoff(axes: Axes) -> None:
    """Axes of Fréchet distance over Inception score."""
    log_distance(axes)
    axes.margins(0.1)
    axes.set_xlabel(AXES["inception_score"], color=INK)
    axes.set_ylabel(AXES["frechet_distance"], color=INK)
    plain(axes)


def add_arguments(parser: argparse.ArgumentParser, *, out: Path, steps: int) -> None:
    """The arguments that every experiment has: --samples, --steps, --seed, --batch and --out."""
    parser.add_argument("--samples", type=int, default=1000, help="images a point (default: 1000)")
    parser.add_argument("--steps", type=int, default=steps, help=f"of sampling (default: {steps})")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--batch", type=int, default=250, help="images at a time (default: 250)")
    parser.add_argument("--out", type=Path, default=out, help="the figure, a .png file")


def mesh_for(images: int, batch: int) -> Mesh:
    """The devices that so many images are split over, a batch at a time."""
    return fitting(min(images, batch), devices=jax.local_devices())


def check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuses what is out of range in one line, with exit code 2."""
    check_least(parser, arguments, samples=2, steps=1, batch=1)
    check_out(parser, arguments)


def measured(
    parser: argparse.ArgumentParser, measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The report of an experiment that trains; a mistake is one line, and so is a stop."""
    try:
        return measure()
    except ValueError as error:
        parser.error(str(error))
    except StoppedError as stopped:
        raise SystemExit(f"{stopped}; the same command goes on") from None


def check_least(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, **least: int
) -> None:
    """Refuses numbers that are smaller than the least of their names."""
    for name, lowest in least.items():
        if (given := getattr(arguments, name)) < lowest:
            flag = name.replace("_", "-")
            parser.error(f"--{flag} must be at least {lowest}, got {given}")


def check_out(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuses a figure that cannot be written."""
    if arguments.out.suffix != ".png" or not arguments.out.parent.is_dir():
        parser.error(f"--out must be a .png file in a folder that exists, got {arguments.out}")


def write(out: Path, figure: Figure, report: Mapping[str, Any]) -> None:
    """Writes the figure, and beside it the report as JSON, with versions and date."""
    figure.savefig(out, dpi=110, facecolor="white")
    text = json.dumps({**report, **record.stamp()}, indent=1, allow_nan=False)
    out.with_suffix(".json").write_text(text + "\n")
