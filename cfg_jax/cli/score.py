"""The command `score`: samples against a reference, by the scores that papers quote."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import jax
from absl import flags

from cfg_jax.cli import flagging, say
from cfg_jax.diffusion import checks
from cfg_jax.evaluation import archive as archives
from cfg_jax.evaluation import comparison, inception, made, record
from cfg_jax.loading import load
from cfg_jax.runtime import files

PURPOSE = """Scores samples against a reference as published figures are: FID, sFID, Inception
score, KID, precision and recall, in the features of the Inception network of FID, whose weights
are fetched once. Both are a folder or zip of images; or an .npz file of uint8 images (arr_0, as
`sample` and guided-diffusion write them, x or image) or of statistics (mu and sigma, as pytorch-fid
and EDM do); or a trained model, a run or its file of `export`, which stands for samples that it
draws and, as the reference, for the images it was trained on. Prints a table and writes JSON."""

DRAWN = ("count", "seed", "w")
"""The flags that say what a model draws."""

MOST = 1_000_000
"""No more samples are drawn."""

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
    named = flagging.written(values, "out", ".json") if values["out"] is not None else None
    samples = _samples(flagging.path(values, "samples"), values)
    other = _given(values, "reference")
    reference = None if other is None else _reference(other)
    out = named or _beside(samples.path)
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
    for name, score in scores.items():
        if not math.isfinite(score):
            raise ValueError(f"{name} of {samples.path} is no finite number: {score}")
    report = {
        "scores": scores,
        "left_out": {} if values["metrics"] else obstacles,
        "settings": {
            "samples": str(samples.path),
            "sample_images": samples.count,
            "drawn": _drawn(values) if _is_model(samples.path) else None,
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


def _is_model(path: Path) -> bool:
    """Whether a trained model lies at a path."""
    return path.suffix == ".safetensors" or (path / "config.json").is_file()


def _samples(path: Path, values: dict[str, Any]) -> archives.Archive:
    """What is scored: stored images or statistics, or what a model draws."""
    if not _is_model(path):
        for name in DRAWN:
            if values[name] is not None:
                raise ValueError(f"--{name} belongs to samples of a model, and {path} is none")
        return archives.open_archive(path)
    drawn = _drawn(values)
    if not 2 <= drawn["count"] <= MOST:
        raise ValueError(f"--count must lie in [2, {MOST}], got {drawn['count']}")
    if not 0 <= drawn["seed"] < 2**32:
        raise ValueError(f"--seed must lie in [0, {2**32 - 1}], got {drawn['seed']}")
    if drawn["w"] is not None:
        checks.number("--w", drawn["w"], -1e6, 1e6)
    return made.images_of(path, load(path), **drawn)


def _drawn(values: dict[str, Any]) -> dict[str, Any]:
    """What a model draws, by the flags of `DRAWN`."""
    default = {"count": 10_000, "seed": 0, "w": None}
    return {name: default[name] if values[name] is None else values[name] for name in DRAWN}


def _reference(path: Path) -> archives.Archive:
    return made.training_images(path) if _is_model(path) else archives.open_archive(path)


def _beside(path: Path) -> Path:
    """The file for the scores of what lies at a path."""
    place = path if path.name not in ("", "..") else path.resolve()
    if not place.name:
        raise ValueError("give --out: the samples' folder has no name")
    return place.with_name(f"{place.name}.scores.json")


def _given(values: dict[str, Any], name: str) -> Path | None:
    """The path of a flag that need not be given."""
    return None if values[name] is None else flagging.path(values, name)


def _define(values: flags.FlagValues) -> None:
    names = ",".join(comparison.METRICS)
    for name, purpose in (
        ("samples", "the images to score, or the model whose samples are scored"),
        ("reference", "real images or their statistics, or the model that was trained on them"),
        ("metrics", f"some of {names} (pr: precision and recall); all possible if not given"),
        ("weights", "the network's .pth file; fetched if not given"),
        ("out", "the .json file; SAMPLES.scores.json if not given"),
        (
            "cache",
            "a folder for weights and the reference's features; ~/.cache/cfg_jax if not given",
        ),
    ):
        flags.DEFINE_string(name, None, purpose, flag_values=values)
    whole = functools.partial(flags.DEFINE_integer, flag_values=values)
    whole("batch", 64, "images at a time, over all local devices")
    whole("count", None, "of a model: how many samples it draws; 10000 if not given")
    whole("seed", None, "of a model: random seed of the noise; 0 if not given")
    flags.DEFINE_float(
        "w", None, "of a model: guidance strength; its own if not given", flag_values=values
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
