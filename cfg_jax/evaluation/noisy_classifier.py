"""How well a noisy classifier p(c|z_λ) knows held-out images at each noise level, as a report."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from cfg_jax.data.samples import to_float
from cfg_jax.diffusion import process
from cfg_jax.diffusion.labels import label_log_prob
from cfg_jax.evaluation import record
from cfg_jax.evaluation.features import extract, over_devices
from cfg_jax.evaluation.report_parts import BLUE, INK, RED, listed, write
from cfg_jax.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 20
"""Equal parts that λ's range is split into."""

_EXPLANATION = """\
λ is the log signal-to-noise ratio: images are clean on the right of the figure and noise on the
left, where nobody can do better than chance ({chance:.2%}; a cross-entropy of {entropy:.3f}). Each
row has {samples} held-out images, each with its own λ, uniform in the row's range, and its own
noise. "p(λ)" is the mean over the noise levels of training: its cross-entropy is the training loss
of held-out images.

- **accuracy**: the share of images whose most probable class is their own.
- **cross-entropy**: the mean of -log p(c|z_λ), in nats.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
    """What a classifier knows in a range of λ.

    Attributes:
      low: The noisier end.
      high: The cleaner end.
      accuracy: Share of images whose most probable class is their own, in [0, 1].
      cross_entropy: The mean of -log p(c|z_λ), in nats.
    """

    low: float
    high: float
    accuracy: float
    cross_entropy: float


def by_noise_level(
    model: Model,
    images: np.ndarray,
    labels: Int[np.ndarray, " n"],
    *,
    samples: int,
    seed: int = 0,
    batch: int = 256,
    bins: int = BINS,
) -> tuple[list[Level], Level]:
    """Classifies noised images in equal parts of λ's range, and at λ ~ p(λ).

    Image, λ and noise of an example are functions of the seed and its number: neither the batch nor
    the devices change the result.

    Args:
      model: The noisy classifier.
      images: Held-out ones as they are stored, evenly chosen from where there are more than
        samples.
      labels: Theirs.
      samples: Noised images a part.
      seed: Of λ and the noise.
      batch: Images at a time, over all local devices.
      bins: How many parts.

    Returns:
      The parts, the noisiest first, and all of p(λ).
    """
    schedule = model.schedule
    place = np.arange(samples) * len(images) // samples
    edges = np.linspace(schedule.logsnr_min, schedule.logsnr_max, bins + 1)
    level_key, noise_key = jax.random.split(jax.random.key(seed))
    u = jax.random.uniform(level_key, (bins + 1, samples))
    inside = edges[:-1, None] + np.diff(edges)[:, None] * u[:-1]
    logsnr = jnp.concatenate([inside, schedule.logsnr(u[-1:])]).ravel()
    held = (model, images[place], labels[place], logsnr, noise_key)

    def scored(held: Any, number: Any) -> tuple[Any, Any]:
        model, images, labels, logsnr, key = held
        image, label = images[number % samples], labels[number % samples]
        x = model.encode(to_float(image))
        noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape[1:]))
        z = process.forward(x, noise(number), logsnr=logsnr[number])
        logits = model.network.apply(model.params, z, logsnr[number], {})
        return logits.argmax(1) == label, -label_log_prob(logits, label)

    numbers = np.arange((bins + 1) * samples)
    hits, losses = extract(
        over_devices(scored, held),
        (numbers[start : start + batch] for start in range(0, len(numbers), batch)),
        count=len(numbers),
        name="noisy images",
    )
    levels = _levels(edges, hits.reshape(-1, samples), losses.reshape(-1, samples))
    return levels[:-1], levels[-1]


def _levels(edges: np.ndarray, hits: np.ndarray, losses: np.ndarray) -> list[Level]:
    """The scores of each part between edges, and of all at the end: a row of examples each."""
    bounds = [*itertools.pairwise(edges), (edges[0], edges[-1])]
    return [
        Level(
            low=float(low),
            high=float(high),
            accuracy=float(hit.mean()),
            cross_entropy=float(loss.mean(dtype=np.float64)),
        )
        for (low, high), hit, loss in zip(bounds, hits, losses, strict=True)
    ]


def write_report(
    directory: Path,
    levels: Sequence[Level],
    overall: Level,
    *,
    class_counts: Sequence[int],
    settings: Mapping[str, Any],
) -> None:
    """Writes report.json, report.md and accuracy.png.

    Args:
      directory: Made where missing; files of an earlier report are replaced.
      levels: The parts, from `by_noise_level`.
      overall: All of p(λ).
      class_counts: How many of the held-out images each class has: they say what chance is.
      settings: What else decides the numbers, "samples" a part among them: values for JSON.
    """
    shares = np.asarray(class_counts) / np.sum(class_counts)
    report: dict[str, Any] = {
        "levels": [dataclasses.asdict(level) for level in levels],
        "p(logsnr)": dataclasses.asdict(overall),
        "chance": {
            "accuracy": float(shares.max()),
            "cross_entropy": float(-sum(p * math.log(p) for p in shares if p > 0)),
        },
        "settings": dict(settings),
        **record.stamp(),
    }
    write(directory, report, markdown(report), {"accuracy.png": figure(levels, report["chance"])})


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people.

    Args:
      report: The contents of report.json.
    """

    def line(name: str, scores: Mapping[str, float]) -> str:
        return f"| {name} | {scores['accuracy']:.2%} | {scores['cross_entropy']:.4f} |"

    return "\n".join(
        [
            "# A noisy classifier over the noise level λ",
            "",
            "| λ | accuracy | cross-entropy |",
            "| ---: | ---: | ---: |",
            *(line(f"{row['low']:g} to {row['high']:g}", row) for row in report["levels"]),
            line("p(λ)", report["p(logsnr)"]),
            line("chance", report["chance"]),
            "",
            "![Accuracy and cross-entropy over λ](accuracy.png)",
            "",
            _EXPLANATION.format(
                chance=report["chance"]["accuracy"],
                entropy=report["chance"]["cross_entropy"],
                samples=report["settings"]["samples"],
            ),
            *listed(report),
            "",
        ]
    )


def figure(levels: Sequence[Level], chance: Mapping[str, float]) -> "Figure":
    """Draws accuracy above cross-entropy, over λ, each with chance as a dashed line."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7.0, 5.0), layout="constrained")
    upper, lower = drawn.subplots(2, sharex=True)
    middle = [(level.low + level.high) / 2 for level in levels]
    for axes, name, colour in ((upper, "accuracy", BLUE), (lower, "cross_entropy", RED)):
        values = [getattr(level, name) for level in levels]
        axes.plot(middle, values, "-o", color=colour, markersize=4)
        axes.axhline(chance[name], color=INK, linestyle="--", linewidth=0.8, label="chance")
        axes.set_ylim(bottom=0.0)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    upper.set_ylabel("held-out accuracy")
    upper.legend(frameon=False)
    lower.set_ylabel("cross-entropy in nats")
    lower.set_xlabel("λ, the log signal-to-noise ratio   (noise ← → clean)")
    return drawn
