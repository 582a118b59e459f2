"""The command `score`: a file of samples against a reference, by the scores that papers quote."""

import json
from pathlib import Path
from typing import Any

import jax
from absl import flags

from cfg_jax.cli import flagging, say
from cfg_jax.evaluation import archive as archives
from cfg_jax.evaluation import comparison, inception, record
from cfg_jax.runtime import files

PURPOSE = """Scores samples against a reference as published figures are: FID, sFID, Inception
score, KID, precision and recall, in the features of the Inception network of FID, whose weights
are fetched once. Both are .npz files: of uint8 images (arr_0), as `sample` and guided-diffusion
write them, or of statistics (mu and sigma), as pytorch-fid and EDM do. Prints a table and writes
JSON."""

ROWS = (
    ("fid", "FID ↓", ".4g"),
    ("sfid", "sFID ↓", ".4g"),
    ("is", "Inception score ↑", ".2f"),
    ("kid", "KID ↓", ".3g"),
    ("precision", "precision ↑", ".4f"),
    ("recall", "recall ↑", ".4f"),
)
"""Scores in the table, what it calls them, and how they are written."""


def run(argv: list[str]) -> None:
    """Parses the arguments, measures both files, and writes the scores."""
    defined = flags.FlagValues()
    _define(defined)
    values = flagging.parse(defined, "score", PURPOSE, argv)
    if values["batch"] < 1:
        raise ValueError(f"--batch must be at least 1, got {values['batch']}")
    samples = archives.open_archive(flagging.path(values, "samples"))
    other = _given(values, "reference")
    reference = archives.open_archive(other) if other else None
    out = _given(values, "out") or samples.path.with_suffix(".scores.json")
    if reference:
        comparison.check_sizes(samples, reference)
    obstacles = comparison.obstacles(samples, reference)
    metrics = _metrics(values["metrics"], obstacles)
    rows = -(-values["batch"] // jax.local_device_count()) * jax.local_device_count()
    scores, checksum = comparison.score_files(
        samples,
        reference,
        metrics,
        weights=_given(values, "weights"),
        cache=_given(values, "cache") or files.cache(),
        batch=rows,
    )
    report = {
        "scores": scores,
        "left_out": {} if values["metrics"] else obstacles,
        "settings": {
            "samples": str(samples.path),
            "sample_images": samples.count,
            "reference": str(reference.path) if reference else None,
            "reference_images": reference.count if reference else None,
            "weights_sha256": checksum,
            "inception_score_parts": comparison.PARTS,
            "kid_subsets": comparison.SUBSETS,
            "kid_largest_subset": comparison.SUBSET_SIZE,
            "neighbours": comparison.NEIGHBOURS,
        },
        **record.stamp(),
    }
    flagging.folder_of(out)
    with files.atomic(out) as file:
        file.write((json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    say(table(report))


def _given(values: dict[str, Any], name: str) -> Path | None:
    """The path of a flag that need not be given."""
    return flagging.path(values, name) if values[name] else None


def _define(values: flags.FlagValues) -> None:
    names = ",".join(comparison.METRICS)
    for name, purpose in (
        ("samples", "the .npz file to score"),
        ("reference", "the .npz file of real images or statistics"),
        ("metrics", f"some of {names} (pr: precision and recall); all possible if not given"),
        ("weights", "the network's .pth file; fetched if not given"),
        ("out", "the .json file; SAMPLES.scores.json if not given"),
        (
            "cache",
            "a folder for weights and the reference's features; ~/.cache/cfg_jax if not given",
        ),
    ):
        flags.DEFINE_string(name, None, purpose, flag_values=values)
    flags.DEFINE_integer(
        "batch", 64, "images at a time, over all local devices", flag_values=values
    )


def _metrics(given: str | None, obstacles: dict[str, str]) -> list[str]:
    """The scores to compute, in the order of `METRICS`."""
    chosen = given.split(",") if given else [m for m in comparison.METRICS if m not in obstacles]
    unknown = [name for name in chosen if name not in comparison.METRICS]
    if unknown:
        raise ValueError(f"--metrics takes {','.join(comparison.METRICS)}; got {unknown[0]!r}")
    for name in chosen:
        if name in obstacles:
            raise ValueError(f"{name} cannot be computed: {obstacles[name]}")
    if not chosen:
        raise ValueError(f"no score can be computed: {next(iter(obstacles.values()))}")
    return [name for name in comparison.METRICS if name in chosen]


def table(report: dict[str, Any]) -> str:
    """The scores for people, in Markdown, and what one should know of them."""
    scores, settings = report["scores"], report["settings"]
    lines = ["| score | value |", "| --- | ---: |"]
    for name, title, form in ROWS:
        if name in scores:
            spread = f" ± {scores[f'{name}_std']:{form}}" if f"{name}_std" in scores else ""
            lines.append(f"| {title} | {scores[name]:{form}}{spread} |")
    if "fid_bias" in scores:
        bias = scores["fid_bias"]  # Below zero where the samples are too few to tell it.
        amount = f", here by about {bias:.3g}" if bias > 0 else ""
        lines += [
            "",
            f"FID is biased upwards for few samples{amount}: compare it only with figures of "
            f"{settings['sample_images']} samples too (papers take 50000).",
        ]
    if settings["weights_sha256"] not in (None, inception.SHA256):
        lines += ["", "These weights are not the published ones: compare with no paper's figures."]
    lines += [f"\n{name} is left out: {why}." for name, why in report["left_out"].items()]
    return "\n".join(lines)
