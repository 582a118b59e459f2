"""What reports are made of: tables, pages and figures as PNG, and how they are written."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from cfg_jax.data.images import tile
from cfg_jax.evaluation import record
from cfg_jax.guidance import to_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, INK, RED = "#2f6db3", "#333333", "#c0392b"

TITLES = {"w": "guidance strength w", "classifier_scale": "classifier scale"}

STRENGTHS = {
    "w": """\
`w` is the strength of guidance as Ho & Salimans (2022) count it: 0 is no guidance. Many libraries
count the scale `s = 1 + w` instead.
""",
    "classifier_scale": """\
The classifier scale is the strength of a noisy classifier's gradient, `s` of Dhariwal & Nichol
(2021): 0 is none. Around an unconditional network (w = -1) 1 aims at p(x|c); around a conditional
one (w = 0), 0 does.
""",
}
"""What may be swept over, and what it means."""


def table(
    rows: Sequence[Mapping[str, float]],
    columns: Mapping[str, tuple[str, str]],
    *,
    strength: str,
    reference: tuple[str, Mapping[str, float]],
) -> list[str]:
    """The lines of a table of scores in Markdown.

    Args:
      rows: One a strength, by names; `strength` among them.
      columns: Title and format of each score that is shown, by its name.
      strength: What was swept over, one of `STRENGTHS`.
      reference: What the last row shows, and its scores.
    """
    by_w = strength == "w"

    def line(name: str, scale: str, scores: Mapping[str, float]) -> str:
        said = [f"{scores[key]:{form}}" for key, (_, form) in columns.items()]
        return f"| {' | '.join([name, *([scale] if by_w else []), *said])} |"

    heads = ["w", "s = 1 + w"] if by_w else ["classifier scale"]
    heads += [title for title, _ in columns.values()]
    values = [row[strength] for row in rows]
    shown = [
        line(f"{value:g}", f"{to_scale(value):g}", row)
        for value, row in zip(values, rows, strict=True)
    ]
    return [
        f"| {' | '.join(heads)} |",
        "| ---: " * len(heads) + "|",
        *shown,
        line(reference[0], "", reference[1]),
    ]


def listed(report: Mapping[str, Any]) -> list[str]:
    """What decides a report's numbers, one a line, in Markdown."""
    settings = {**report["settings"], **report["versions"], "date": report["date"]}
    return [f"- {name}: {value}" for name, value in settings.items()]


def page_figure(
    images: UInt8[np.ndarray, "count height width _"],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    *,
    margin: float = 1.0,
) -> "Figure":
    """Draws pictures in rows and columns that are named.

    Args:
      images: Row by row; 1 or 3 channels.
      rows: What each row shows.
      columns: What each column shows.
      title: What the page shows.
      margin: What the names of the rows need at the left, in inches.
    """
    from matplotlib.figure import Figure

    _, height, width, _ = images.shape
    gap = max(1, height // 16)
    page = tile(images, len(columns), padding=gap)
    cell = max(0.6, height / 75)  # Inches: at 150 dots each pixel is at least two dots wide.
    size = (margin + cell * len(columns) * width / height, 0.9 + cell * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(_colour(page), interpolation="nearest")
    axes.set_xticks(gap + (width - 1) / 2 + (width + gap) * np.arange(len(columns)), columns)
    axes.set_yticks(gap + (height - 1) / 2 + (height + gap) * np.arange(len(rows)), rows)
    axes.xaxis.tick_top()
    if max(map(len, columns)) > 6:  # Too long to stand side by side.
        for name in axes.get_xticklabels():
            name.set(rotation=40, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    return figure


def _colour(page: UInt8[np.ndarray, "height width _"]) -> UInt8[np.ndarray, "height width 3"]:
    return np.broadcast_to(page, (*page.shape[:2], 3))


def write(
    directory: Path, report: Mapping[str, Any], told: str, figures: Mapping[str, "Figure"]
) -> None:
    """Writes report.json, report.md and figures.

    Args:
      directory: Made where missing; files of an earlier report are replaced.
      report: The contents of report.json.
      told: Those of report.md.
      figures: By the names of their files.

    Raises:
      TypeError: JSON cannot hold what is in the report.
      ValueError: A number is not finite.
    """
    # JSON has no NaN: allow_nan=False raises rather than write what other readers reject.
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    files = {name: _png(figure) for name, figure in figures.items()}
    files |= {"report.md": told.encode(), "report.json": text.encode()}
    record.write_files(directory, files)


def _png(figure: "Figure") -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()
