"""Writes a sweep over w: report.json, report.md, tradeoff.png and samples_by_w.png."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cfg_jax.data.media import Medium
from cfg_jax.evaluation import record
from cfg_jax.evaluation.report_parts import (
    BLUE,
    INK,
    RED,
    STRENGTHS,
    TITLES,
    listed,
    page_figure,
    table,
    write,
)
from cfg_jax.evaluation.sweep import Row, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = {
    "label_accuracy": ("label accuracy", ".2%"),
    "inception_score": ("Inception score ↑", ".3f"),
    "frechet_distance": ("Fréchet distance ↓", ".4g"),
}
"""Title and format of each score in the table."""

_EXPLANATION = """\
- **label accuracy**: the share of samples that the classifier assigns to the class asked for.
- **Inception score** (Salimans et al. 2016), between 1 and the number of classes: high when every
  sample is surely of some class and all classes are equally frequent. Higher is better.
- **Fréchet distance** (Dowson & Landau 1982; Heusel et al. 2017) between the features of the
  samples and those of held-out real images, each taken for a Gaussian. Lower is better.
- **real training images** are the reference: scored in the same way, they say what a perfect copy
  of the training data would get.

## How it was measured

Every strength was given the same labels and the same noise, so that the rows differ by it alone.
The samples, clipped to [-1, 1], were scored by a small convolutional classifier trained on the same
real images; it classifies {accuracy:.2%} of the held-out ones correctly. Its penultimate layer
gives the features, its probabilities the Inception score.

**These are not the FID and IS of papers.** The features are this classifier's, not the Inception
network's, and the Fréchet distance is biased upwards for few images: the numbers compare only with
each other, for the same classifier and the same number of samples.
"""


def write_report(
    directory: Path,
    rows: Sequence[Row],
    *,
    reference: Scores,
    held_out_accuracy: float,
    settings: Mapping[str, Any],
    medium: Medium,
    examples: Mapping[float, np.ndarray],
    titles: Sequence[str],
    strength: str = "w",
    beside: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes a sweep's scores, as JSON, table and figure, and its samples side by side.

    Args:
      directory: Made where missing; files of an earlier report are replaced.
      rows: The scores, one row a strength, as `sweep` returns them.
      reference: The scores of the real training images.
      held_out_accuracy: The classifier's, in [0, 1].
      settings: What else decides the numbers, such as steps, solver, samples per w and seed: values
        that JSON can hold. Versions and the date are added.
      medium: How samples are seen.
      examples: For each w some of its samples, (columns, *shape) in [-1, 1]: the same labels and
        noise for every w.
      titles: What each column of `examples` shows, such as its class.
      strength: What the rows' w is, one of `STRENGTHS`.
      beside: Further rows of the picture, by what they show, like examples.

    Raises:
      TypeError: JSON cannot hold a setting.
      ValueError: There are no rows, a score is not finite, or examples do not fit rows or titles.
    """
    if not rows:
        raise ValueError("a report needs at least one row")
    if set(examples) != {row.w for row in rows}:
        raise ValueError(f"there are examples at w = {sorted(examples)}, but rows at other w")
    for w, images in examples.items():
        if len(images) != len(titles):
            raise ValueError(f"there are {len(images)} examples at w = {w:g}, {len(titles)} titles")
    report = {
        "rows": [_named(row, strength) for row in rows],
        "reference": dataclasses.asdict(reference),
        "classifier": {"held_out_accuracy": held_out_accuracy},
        "settings": dict(settings),
        **record.stamp(),
    }
    figures = {
        "tradeoff.png": tradeoff_figure(rows, reference, strength),
        "samples_by_w.png": samples_figure(medium, examples, titles, strength, beside),
    }
    write(directory, report, markdown(report), figures)


def _named(row: Row, strength: str) -> dict[str, float]:
    """A row's scores under the name of what was swept over."""
    scores = dataclasses.asdict(row)
    return {strength: scores.pop("w"), **scores}


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people: a table, what its columns mean, how they were measured.

    Args:
      report: The contents of report.json.
    """
    strength = next(name for name in STRENGTHS if name in report["rows"][0])
    reference = ("real training images", report["reference"])
    return "\n".join(
        [
            f"# Samples over the {TITLES[strength]}",
            "",
            *table(report["rows"], COLUMNS, strength=strength, reference=reference),
            "",
            "![Inception score against Fréchet distance](tradeoff.png)",
            "",
            "![The same labels and noise for every strength](samples_by_w.png)",
            "",
            STRENGTHS[strength],
            _EXPLANATION.format(accuracy=report["classifier"]["held_out_accuracy"]),
            *listed(report),
            "",
        ]
    )


def tradeoff_figure(rows: Sequence[Row], reference: Scores, strength: str = "w") -> "Figure":
    """Draws Inception score against Fréchet distance, a point a strength, joined in order of w."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    ordered = sorted(rows, key=lambda row: row.w)
    x = np.array([row.inception_score for row in ordered])
    y = np.array([row.frechet_distance for row in ordered])
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        x,
        y,
        "-o",
        color=BLUE,
        markersize=6,
        linewidth=1.5,
        label=f"samples, labelled with {TITLES[strength].removeprefix('guidance strength ')}",
    )
    axes.plot(
        reference.inception_score,
        reference.frechet_distance,
        "*",
        color=RED,
        markersize=14,
        label="real training images",
    )
    every = np.append(y, reference.frechet_distance)
    if every.min() > 0 and every.max() > 20 * every.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(0.12)
    axes.ticklabel_format(axis="x", useOffset=False)
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0.0)
    axes.set_xlabel("Inception score   (further right is better →)")
    axes.set_ylabel("Fréchet distance   (← lower is better)")
    axes.set_title(f"Fidelity against diversity over the {TITLES[strength]}")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.draw_without_rendering()  # Settles the layout: labels are placed in its pixels.
    star = (reference.inception_score, reference.frechet_distance)
    _label_points(figure, axes, np.stack([x, y], -1), [f"{row.w:g}" for row in ordered], [star])
    return figure


def samples_figure(
    medium: Medium,
    examples: Mapping[float, np.ndarray],
    titles: Sequence[str],
    strength: str = "w",
    beside: Mapping[str, np.ndarray] | None = None,
) -> "Figure":
    """Draws a row of images a strength; a column is one label and one noise.

    Args:
      medium: As in `write_report`.
      examples: As in `write_report`.
      titles: As in `write_report`.
      strength: As in `write_report`.
      beside: As in `write_report`.
    """
    ws, name = sorted(examples), "w" if strength == "w" else "scale"
    others = beside or {}
    rows = [*others, *(f"{name} = {w:g}" for w in ws)]
    every = [*others.values(), *(examples[w] for w in ws)]
    images = medium.tiles(medium.stored(np.concatenate(every)))
    return page_figure(images, rows, titles, f"The same labels and noise for every {name}")


def _label_points(
    figure: "Figure",
    axes: "Axes",
    points: np.ndarray,
    labels: Sequence[str],
    others: Sequence[tuple[float, float]],
) -> None:
    """Writes each label near its point, where it covers least of points, curve and other labels.

    Args:
      figure: Already laid out.
      axes: In the figure.
      points: (n, 2) in data coordinates, a curve in this order.
      labels: One a point.
      others: More points to keep clear.
    """
    size = 9.0
    scale = 72 / figure.dpi  # Pixels to typographic points.
    positions = scale * axes.transData.transform(points)
    curve = [
        a + t * (b - a) for a, b in itertools.pairwise(positions) for t in np.linspace(0, 1, 50)
    ]
    covered = np.array([*curve, *positions, *(scale * axes.transData.transform(others))])
    for point, position, label in zip(points, positions, labels, strict=True):
        half = size * np.array([0.32 * len(label), 0.5])
        offset = _clearest(position, half, covered)
        axes.annotate(
            label,
            point,
            xytext=tuple(offset),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6},
            zorder=1.5,  # The thin line to its point lies under the point.
        )
        grid = np.stack(np.meshgrid(*np.linspace(-half, half, 7).T), -1).reshape(-1, 2)
        covered = np.concatenate([covered, position + offset + grid])


def _clearest(position: np.ndarray, half: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """An offset, a near one if it may be, where a box and the line to it cover little."""

    def crowding(offset):
        inside = np.all(np.abs(covered - position - offset) < half + 4.0, axis=-1)
        line = position + np.linspace(0.3, 0.9, 16)[:, None] * offset
        crossed = np.linalg.norm(covered[:, None] - line, axis=-1).min(-1) < 3.0
        return np.sum(inside | crossed) + np.linalg.norm(offset) / 10.0

    return min(_OFFSETS, key=crowding)


_OFFSETS = [
    radius * np.array([math.cos(angle), math.sin(angle)])
    for radius in (13.0, 20.0, 30.0, 42.0)
    for angle in np.linspace(0.0, 2 * math.pi, 16, endpoint=False)
]
"""Where a label may stand beside its point, in typographic points."""
