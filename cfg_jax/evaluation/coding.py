"""How well a trained codec brings held-out data back, and what its latents hold, as a report."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cfg_jax.data import Dataset
from cfg_jax.data.images import interleave
from cfg_jax.data.media import Medium
from cfg_jax.evaluation import record
from cfg_jax.evaluation.classifier import train_classifier
from cfg_jax.evaluation.detector import is_scenes, train_detector
from cfg_jax.evaluation.features import extract, over_devices
from cfg_jax.evaluation.frechet import frechet_distance, moments
from cfg_jax.evaluation.reconstruction import (
    WINDOW,
    bits_per_dimension,
    codebook_usage,
    psnr,
    ssim,
)
from cfg_jax.evaluation.report_parts import listed, write
from cfg_jax.model import Model
from cfg_jax.runtime import files

PICTURED, COLUMNS = 24, 8
"""Examples that are pictured, and how many stand side by side."""

MEANINGS = {
    "psnr": "peak signal-to-noise ratio in dB, the mean over examples; higher is better",
    "ssim": "structural similarity (Wang et al. 2004), at most 1; higher is better",
    "mean_absolute_error": "of values in [-1, 1]",
    "frechet_distance": (
        "between the features of reconstructions and those of the originals, by a network trained "
        "on the same data; lower is better"
    ),
    "bits_per_dimension": "KL(q(ẑ|x) ‖ N(0, 1)) for each number of an example, in bits",
    "latent_std": "standard deviation of ẑ over all examples, their own noise included",
    "codes_used": "share of the codes that occur",
    "perplexity": "exponential of the entropy of how often codes occur, over the whole set",
}
"""What each score is."""

Features = Callable[[np.ndarray], np.ndarray]


def features_of(train: Dataset, held_out: Dataset, *, cache: Path | None = None) -> Features | None:
    """What examples of some data are compared in: a network's features, trained once and kept.

    Args:
      train: What it learns from: scenes, or examples with labels.
      held_out: What it is tested on.
      cache: The folder where it is kept; `files.cache()` when None.

    Returns:
      `x -> (n, features)` of floats in [-1, 1]: a detector's of scenes, a classifier's where there
      are labels, and None of other data.
    """
    cache = cache or files.cache()
    if is_scenes(train):
        return train_detector(train, held_out, cache=cache).features
    if not train.num_classes:
        return None
    scorer = train_classifier(train, held_out, cache=cache)
    return lambda x: scorer.features_and_probabilities(x)[0]


def coding(
    model: Model,
    data: Dataset,
    *,
    samples: int = 1000,
    batch: int = 64,
    features: Features | None = None,
    progress: bool = True,
) -> tuple[dict[str, float], np.ndarray]:
    """Encodes and decodes held-out data, at the mean of the latents.

    Args:
      model: A trained codec.
      data: Held-out data.
      samples: Examples, evenly chosen; all where there are not as many.
      batch: Examples at a time, over all local devices.
      features: `x -> (n, features)` of floats in [-1, 1], for the Fréchet distance; left out when
        None.
      progress: Whether to show a progress bar.

    Returns:
      The scores by the names of `MEANINGS`; and rows of originals, reconstructions and differences.
    """
    count = min(samples, len(data.source))
    place = np.arange(count) * len(data.source) // count

    def coded(model: Model, x: Any) -> Any:
        found = model.network.apply(model.params, x, method="coded")
        latents = found.latents
        if hasattr(latents, "kl"):
            return found.x, {"kl": latents.kl(), "mean": latents.mean, "logvar": latents.logvar}
        return found.x, {"codes": latents.codes}

    starts = range(0, count, batch)
    x = data.floats(place)
    back, latents = extract(
        over_devices(coded, model),
        (x[start : start + batch] for start in starts),
        count=count,
        progress=progress,
        name="reconstructions",
    )
    back = np.clip(back, -1.0, 1.0)
    scores = {
        "psnr": float(np.minimum(psnr(back, x, data_range=2.0), 200.0).mean()),
        "mean_absolute_error": float(np.abs(back - x).mean()),
        **_of_latents(model, latents, x[0].size),
    }
    if x.ndim == 4 and min(x.shape[1:3]) >= WINDOW:
        scores["ssim"] = float(ssim(back, x, data_range=2.0).mean())
    if features is not None and count > 1:
        scores["frechet_distance"] = frechet_distance(moments(features(back)), moments(features(x)))
    shown = min(PICTURED, count)
    rows = interleave([x[:shown], back[:shown], (back - x)[:shown]], COLUMNS)
    return {name: scores[name] for name in MEANINGS if name in scores}, rows


def _of_latents(model: Model, latents: Mapping[str, np.ndarray], size: int) -> dict[str, float]:
    """What latents hold, of examples of so many numbers."""
    if "codes" in latents:
        entries = model.network.codec.entries
        usage = codebook_usage(np.bincount(latents["codes"].ravel(), minlength=entries))
        return {"codes_used": usage.used, "perplexity": usage.perplexity}
    mean = latents["mean"].astype(np.float64)
    variance = np.var(mean) + np.exp(latents["logvar"].astype(np.float64)).mean()
    return {
        "bits_per_dimension": bits_per_dimension(latents["kl"], dimensions=size),
        "latent_std": float(np.sqrt(variance)),
    }


def write_report(
    directory: Path,
    scores: Mapping[str, float],
    rows: np.ndarray,
    *,
    settings: Mapping[str, Any],
    medium: Medium,
) -> None:
    """Writes report.json, report.md and reconstructions.png.

    Args:
      directory: Made where missing; files of an earlier report are replaced.
      scores: As from `coding`.
      rows: As from `coding`.
      settings: What else decides the numbers: values that JSON can hold.
      medium: How examples are seen.
    """
    report = {"scores": dict(scores), "settings": dict(settings), **record.stamp()}
    write(directory, report, markdown(report), {})
    medium.grid(directory / "reconstructions.png", medium.stored(rows), COLUMNS)


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people.

    Args:
      report: The contents of report.json.
    """
    scores = report["scores"].items()
    return "\n".join(
        [
            "# A codec on held-out data",
            "",
            "| score | value | |",
            "| --- | ---: | --- |",
            *(f"| {name} | {value:.5g} | {MEANINGS[name]} |" for name, value in scores),
            "",
            "![Originals, reconstructions and differences, row by row](reconstructions.png)",
            "",
            *listed(report),
            "",
        ]
    )
