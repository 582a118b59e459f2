"""The figures and tables of docs/which_solver_which_guidance.md, of what its script measured."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cfg_jax.data.images import tile

DEFAULT = "default"
"""What the default solver and the default grid are called."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#000000")
MARKERS = "os^vDPX*"


def errors_figure(found: dict[str, Any]) -> Figure:
    """Error over calls: a column a w; solvers on the default grid above, grids below."""
    strengths = list(map(float, found["unsettled"]))
    calls = [point[0] for point in found["solvers"][DEFAULT][f"{strengths[0]:g}"]]
    made = Figure(figsize=(9.0, 6.0), layout="constrained")
    panels = made.subplots(2, len(strengths), squeeze=False, sharex=True, sharey="col")
    for row, (kind, what) in enumerate(
        {
            "solvers": "solvers, on the default grid",
            "grids": "grids, with the default solver",
        }.items()
    ):
        for column, w in enumerate(strengths):
            axes = panels[row, column]
            for (name, curves), colour, marker in zip(
                found[kind].items(), reversed(COLOURS), reversed(MARKERS), strict=False
            ):
                wide = 2.4 if name == DEFAULT else 1.1
                points = np.array(curves[f"{w:g}"])
                axes.loglog(
                    *points.T, color=colour, marker=marker, lw=wide, ms=5, label=name, zorder=wide
                )
            axes.set_xticks(calls, calls)
            axes.minorticks_off()
            axes.grid(color="#dddddd", lw=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            if row == 0:
                axes.set_title("w = 0, no guidance" if w == 0 else f"w = {w:g}", fontsize=11)
            else:
                axes.set_xlabel("network calls")
        panels[row, 0].set_ylabel(f"{what}\nRMSE × 1000", fontsize=9)
        panels[row, -1].legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8
        )
    return made


def tradeoff_figure(found: dict[str, list[dict]]) -> Figure:
    """Inception score against Fréchet distance, a curve a method, its w growing from the star."""
    made = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = made.subplots()
    (none,) = found["none"]
    start = (none["inception_score"], none["frechet_distance"])
    guided = {name: points for name, points in found.items() if name != "none"}
    for (name, points), colour, marker in zip(guided.items(), COLOURS, MARKERS, strict=False):
        curve = np.array([[p["inception_score"], p["frechet_distance"]] for p in points])
        strengths = ", ".join(f"{point['w']:g}" for point in points)
        axes.plot(*curve.T, color=colour, marker=marker, lw=1.4, label=f"{name}: {strengths}")
    axes.plot(*start, "*", color="#c0392b", ms=15, label="no guidance")
    axes.set_xlabel("Inception score   (further right is better →)")
    axes.set_ylabel("Fréchet distance   (↓ lower is better)")
    axes.set_ylim(bottom=0.0)
    axes.grid(color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="method: w")
    return made


def pictures_figure(rows: dict[str, np.ndarray]) -> Figure:
    """Pictures, uint8, a row a method."""
    count = len(next(iter(rows.values())))
    page = tile(np.concatenate(list(rows.values())), count)
    made = Figure(figsize=(0.48 * count, 0.48 * len(rows)))
    made.subplots_adjust(0.0, 0.0, 1.0, 1.0)
    axes = made.subplots()
    axes.imshow(np.broadcast_to(page, (*page.shape[:2], 3)), interpolation="nearest")
    middle = page.shape[0] / len(rows)
    axes.set_yticks(middle * (np.arange(len(rows)) + 0.5), list(rows), fontsize=9)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return made


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def tables(report: dict[str, Any], against: dict[str, Any] | None) -> dict[str, str]:
    """The page's tables by the name of their place.

    Args:
      report: What this script measured.
      against: What `solvers_vs_diffusers.py` did, or None.
    """
    over_calls = report["over_calls"]
    found = {
        "noise": table(
            ["solver at w = 1", *(f"{calls} calls" for calls in over_calls[DEFAULT])],
            [
                [f"`{name}`", *(f"{scores['frechet_distance']:.2f}" for scores in row.values())]
                for name, row in over_calls.items()
            ],
        ),
        "guidance": table(
            ["guidance", "w", "label accuracy", "Inception score ↑", "Fréchet distance ↓", "cost"],
            [
                [
                    "no guidance" if name == "none" else f"`{name}`",
                    f"{row['w']:g}",
                    f"{row['label_accuracy']:.1%}",
                    f"{row['inception_score']:.2f}",
                    f"{row['frechet_distance']:.2f}",
                    row["evaluations"],
                ]
                for name, rows in report["guidance"].items()
                for row in rows
            ],
        ),
        "inversion": table(
            ["w", "steps", "`exact=False`: median, worst", "`exact=True`: median, worst"],
            [
                [f"{a['w']:g}", a["steps"]]
                + [f"{row['median']:.2g}, {row['worst']:.2g}" for row in (a, b)]
                for a, b in zip(report["inversion"][::2], report["inversion"][1::2], strict=True)
            ],
        ),
    }
    if against is not None:
        cells = itertools.groupby(against["cells"], key=lambda cell: cell["w"])
        calls = dict.fromkeys(cell["calls"] for cell in against["cells"])
        found["diffusers"] = table(
            ["w", *(f"{count} calls" for count in calls)],
            [[f"{w:g}", *(f"{c['ours']:.3g} / {c['best']:.3g}" for c in row)] for w, row in cells],
        )
    return found


def fill(page: str, found: dict[str, str]) -> str:
    """A page with each table between its markers, `<!-- table: NAME -->` and `<!-- end -->`."""
    for name, text in found.items():
        place = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = place.subn(lambda m, text=text: f"{m[1]}\n{text}\n\n{m[2]}", page)
        if count != 1:
            raise ValueError(f"the page has {count} places for the table {name}")
    return page
