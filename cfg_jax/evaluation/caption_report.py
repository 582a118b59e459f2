"""Writes the scores of captions over w: report.json, report.md, accuracy.png, samples_by_w.png."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from cfg_jax.data.samples import to_uint8
from cfg_jax.evaluation import record
from cfg_jax.evaluation.of_captions import CaptionEvaluation
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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = {
    "caption_accuracy": ("caption accuracy ↑", ".1%"),
    "caption_accuracy_held_out": ("of held-out captions ↑", ".1%"),
    "caption_accuracy_1": ("one digit", ".1%"),
    "caption_accuracy_2": ("two digits", ".1%"),
    "caption_accuracy_3": ("three digits", ".1%"),
    "r_precision": ("R-precision ↑", ".1%"),
    "frechet_distance": ("Fréchet distance ↓", ".4g"),
    "diversity": ("diversity", ".3f"),
}
"""Title and format of each score in the table, where it was measured."""

LONGEST = 34
"""Letters of a line of a caption beside its samples, at most."""

_EXPLANATION = """\
- **caption accuracy**: the share of captions whose sample shows exactly what they ask for: every
  digit in its colour, in the order and direction or the corner that the caption names, and nothing
  else. The first column counts captions of which every pair of colour and digit and every relation
  of two digits occurs in training scenes.
- **held-out captions** have a pair of colour and digit, or a relation of two digits, that no
  training scene has: they measure whether the model composes what it has learned. Captions of
  **one, two and three digits** are counted over both kinds.
- **Fréchet distance** (Dowson & Landau 1982; Heusel et al. 2017) between the features of the
  samples and those of held-out real scenes, each taken for a Gaussian. Lower is better.
- **diversity**: the total variance of the samples' features, as a share of that of held-out real
  scenes. Strong guidance lowers it.
- **real scenes** are the reference: the held-out scenes that the captions were said of, scored in
  the same way. What they lack is the error of the detector.

## How it was measured

Every strength was given the same captions and the same noise, so that the rows differ by it alone.
The captions are those of held-out scenes, a third of them of each number of digits. A small
convolutional detector found the digits, their colours and places in the samples, clipped to
[-1, 1]. It was trained on digits of the training scenes, in all colours and in all cells; of the
held-out real scenes, made of digits that it has never seen, it reads {accuracy:.2%} without any
mistake. The mean of its last layer gives the features, so the Fréchet distance compares only with
others of the same detector and the same number of samples: it is not the FID of papers.
"""


def write_report(directory: Path, found: CaptionEvaluation, settings: Mapping[str, Any]) -> None:
    """Writes the scores of captions, as JSON, table and figure, and samples side by side.

    Args:
      directory: Made where missing; files of an earlier report are replaced.
      found: From `evaluate_captions`.
      settings: What else decides the numbers: values that JSON can hold. Versions and the date are
        added.

    Raises:
      TypeError: JSON cannot hold a setting.
      ValueError: A score is not finite.
    """
    report = {
        "rows": found.rows,
        "reference": found.reference,
        "detector": {"held_out_accuracy": found.judge.detector.held_out_accuracy},
        "settings": dict(settings),
        **record.stamp(),
    }
    figures = {"accuracy.png": accuracy_figure(report), "samples_by_w.png": samples_figure(found)}
    write(directory, report, markdown(report), figures)


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people: a table, what its columns mean, how they were measured.

    Args:
      report: The contents of report.json.
    """
    rows = report["rows"]
    columns = {name: shown for name, shown in COLUMNS.items() if name in rows[0]}
    columns |= {
        name: (name.replace("_", " "), ".4g")
        for name in rows[0]
        if name not in COLUMNS and name != "w"
    }
    return "\n".join(
        [
            f"# Samples of captions over the {TITLES['w']}",
            "",
            *table(rows, columns, strength="w", reference=("real scenes", report["reference"])),
            "",
            "![Caption accuracy over w](accuracy.png)",
            "",
            "![The same captions and noise for every w; held-out ones are marked *]"
            "(samples_by_w.png)",
            "",
            STRENGTHS["w"],
            _EXPLANATION.format(accuracy=report["detector"]["held_out_accuracy"]),
            *listed(report),
            "",
        ]
    )


def accuracy_figure(report: Mapping[str, Any]) -> "Figure":
    """Draws caption accuracy over w: of seen and held-out captions, and by the number of digits.

    Args:
      report: The contents of report.json.
    """
    from matplotlib.figure import Figure

    panels = (
        {
            "caption_accuracy": ("seen pairs and relations", BLUE),
            "caption_accuracy_held_out": ("held-out ones", RED),
        },
        {
            "caption_accuracy_1": ("one digit", "#7fb069"),
            "caption_accuracy_2": ("two digits", BLUE),
            "caption_accuracy_3": ("three digits", INK),
        },
    )
    rows = sorted(report["rows"], key=lambda row: row["w"])
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    for axes, lines in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for name, (title, colour) in lines.items():
            if name not in rows[0]:
                continue
            points = [[row["w"], row[name]] for row in rows]
            axes.plot(*np.transpose(points), "-o", color=colour, markersize=5, label=title)
            axes.axhline(report["reference"][name], color=colour, linewidth=0.8, linestyle=":")
        axes.set_xlabel(TITLES["w"])
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel("samples that show what the caption says")
    figure.suptitle("Caption accuracy over w; dotted: real scenes")
    return figure


def samples_figure(found: CaptionEvaluation) -> "Figure":
    """Draws a row of pictures a caption, held-out ones marked: a real scene, then each w.

    Args:
      found: From `evaluate_captions`.
    """
    ws = sorted(found.examples)
    shown = [found.captions.x[: len(found.examples[ws[0]])], *(found.examples[w] for w in ws)]
    pages = np.stack(shown, axis=1)
    names = [
        fill(f"{text} *" if novel else text, LONGEST)
        for text, novel in zip(found.captions.texts, found.captions.held_out, strict=True)
    ]
    columns = ["real", *(f"w = {w:g}" for w in ws)]
    images = to_uint8(pages.reshape(-1, *pages.shape[2:]))
    figure = page_figure(images, names[: len(pages)], columns, "", margin=3.6)
    figure.axes[0].set_anchor("E")
    figure.suptitle("The same noise for every w; * held-out captions")
    return figure
