"""Guidance by captions: over w, by negative prompts, and by the weights of words.

    python experiments/text_guidance.py --workdir runs/scenes [--samples 252]

For a model of scenes (`configs/scenes.py`), whose samples a detector reads:

- over w, whether a sample shows what its caption asks for, apart for captions whose pairs of colour
  and digit were trained on and for held-out ones; R-precision by a CLIP trained on the data; the
  Fréchet distance to real scenes, and the diversity, in the detector's features. The shape that
  Ho & Salimans 2022 found for classes, and Saharia et al. 2022 ("Photorealistic Text-to-Image
  Diffusion Models with Deep Language Understanding", Figure 4) for text: agreement rises with w,
  then distance does.
- with a negative prompt in the null's place (u = (1 + w) ε(z, c) - w ε(z, c'), c' the same caption
  with one thing changed), guidance goes along that difference alone. Where c' is c, none is left.
- with the vectors of the first digit's words weighted, by the conventions of ComfyUI and of
  A1111's interface: whether that digit, and the other, is in the sample.

The same captions and noise everywhere. Prints the tables, writes the figure and beside it the
scores as JSON.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scoring
from matplotlib.figure import Figure
from tqdm import tqdm

import cfg_jax
from cfg_jax import evaluation
from cfg_jax.data.scene_captions import Wanted, parsed
from cfg_jax.data.scenes import COLOURS, DIGITS
from cfg_jax.evaluation.caption_match import agrees
from cfg_jax.evaluation.of_captions import CaptionJudge, Captions, captions_of
from cfg_jax.loading import describe
from cfg_jax.runtime import files

FIGURE = Path(__file__).parent / "figures" / "text_guidance.png"

WS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
NEGATIVE_WS = (0.5, 1.0, 3.0)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
WEIGHED_AT = 1.0  # w, where words are weighted
CONVENTIONS = ("comfyui", "a1111")

Draw = Callable[..., np.ndarray]
"""`scoring.draw`, told of its seed and batch."""


def some(captions: Captions, chosen: np.ndarray) -> Captions:
    """The captions of these numbers."""
    index = np.flatnonzero(chosen)
    return Captions(
        tuple(captions.texts[i] for i in index),
        tuple(captions.wanted[i] for i in index),
        captions.held_out[index],
        captions.x[index],
    )


def in_pairs(captions: Captions) -> Captions:
    """Those of two digits, one left of, right of, above or below the other."""
    return some(captions, captions.counts == 2)


def other_colour(caption: str) -> str:
    """The first digit in the next colour."""
    names = list(COLOURS)
    colour = caption.split()[1]
    return caption.replace(colour, names[(names.index(colour) + 1) % len(names)], 1)


def other_digit(caption: str) -> str:
    """Half of the digits further on in the place of the first digit."""
    digit = caption.split()[2]
    return caption.replace(digit, DIGITS[(DIGITS.index(digit) + 5) % len(DIGITS)], 1)


def other_way_round(caption: str) -> str:
    """The relation turned round: left of becomes right of, above below."""
    turned = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    relation = next(name for name in turned if f" {name} " in caption)
    return caption.replace(f" {relation} ", f" {turned[relation]} ")


NEGATIVES: Mapping[str, Callable[[str], str] | None] = {
    "the null": None,
    "relation turned round": other_way_round,
    "another digit": other_digit,
    "another colour": other_colour,
    "the caption itself": lambda caption: caption,
}
"""What stands in the place of the null, by what it is called."""


def accuracy(judge: CaptionJudge, x: np.ndarray, wanted: Sequence[Wanted]) -> float:
    """The share of samples that show exactly what their caption asks for."""
    found = judge.detector.found(x)
    return float(np.mean([agrees(*each) for each in zip(found, wanted, strict=True)]))


def shown(judge: CaptionJudge, x: np.ndarray, objects: Sequence[tuple[int, int]]) -> float:
    """The share of samples in which its digit is found in its colour, whatever else there is."""
    found = judge.detector.found(x)
    return float(
        np.mean(
            [
                any(np.array_equal(one[:2], wanted) for one in there)
                for there, wanted in zip(found, objects, strict=True)
            ]
        )
    )


def over_negatives(
    model: cfg_jax.Model, draw: Draw, judge: CaptionJudge, captions: Captions
) -> dict[str, list[dict[str, float]]]:
    """Caption accuracy over w with each thing in the null's place."""
    unguided = accuracy(judge, draw(model, captions.texts, w=0.0), captions.wanted)
    found = {}
    for name, changed in tqdm(NEGATIVES.items(), desc="negative prompts"):
        negative = None if changed is None else [changed(text) for text in captions.texts]
        rows = [{"w": 0.0, "caption_accuracy": unguided}]
        for w in NEGATIVE_WS:
            x = draw(model, captions.texts, w=w, negative=negative)
            rows.append({"w": w, "caption_accuracy": accuracy(judge, x, captions.wanted)})
        found[name] = rows
    return found


def over_weights(
    model: cfg_jax.Model, draw: Draw, judge: CaptionJudge, captions: Captions
) -> dict[str, list[dict[str, float]]]:
    """Which digits are there over the weight of the first one's words."""
    named = [parsed(" ".join(text.split()[:3])).objects[0] for text in captions.texts]
    others = [
        next((o for o in wanted.objects if o != first), first)
        for wanted, first in zip(captions.wanted, named, strict=True)
    ]
    found = {}
    for convention in tqdm(CONVENTIONS, desc="weights of words"):
        ((name, made),) = model.conditioners
        reading = dataclasses.replace(made, weights=convention)
        weighing = dataclasses.replace(model, conditioners=((name, reading),))
        rows = []
        for weight in WEIGHTS:
            texts = [weighted(text, weight) for text in captions.texts]
            x = draw(weighing, texts, w=WEIGHED_AT)
            rows.append(
                {
                    "weight": weight,
                    "weighted": shown(judge, x, named),
                    "other": shown(judge, x, others),
                    "caption_accuracy": accuracy(judge, x, captions.wanted),
                }
            )
        found[convention] = rows
    return found


def weighted(caption: str, weight: float) -> str:
    """The first digit's article, colour and name in brackets with a weight."""
    words = caption.split()
    return f"({' '.join(words[:3])}:{weight:g}) {' '.join(words[3:])}"


def measure(
    model: cfg_jax.Model, workdir: Path, *, samples: int, seed: int, batch: int
) -> dict[str, Any]:
    """All scores: "w", "negatives" and "weights", with those of the real scenes beside."""
    train, held_out = scoring.splits(describe(workdir).config)
    clip = evaluation.train_agreement(train, held_out, cache=files.cache())
    swept = evaluation.evaluate_captions(
        model,
        train,
        held_out,
        guiding={w: {"w": w} for w in WS},
        samples=samples,
        seed=seed,
        batch=batch,
        mesh=scoring.mesh_for(2 * samples, batch),
        scorers=(clip,),
    )
    pairs = in_pairs(captions_of(held_out, "text", samples))
    draw = functools.partial(scoring.draw, seed=seed, batch=batch)
    return {
        "w": swept.rows,
        "real": swept.reference,
        "negatives": over_negatives(model, draw, swept.judge, pairs),
        "weights": over_weights(model, draw, swept.judge, pairs),
        "detector": swept.judge.detector.held_out_accuracy,
        "captions": {"w": 2 * samples, "negatives and weights": len(pairs.texts)},
    }


def tables(report: Mapping[str, Any]) -> str:
    """The scores for people."""
    columns = {
        "caption_accuracy": "caption accuracy",
        "caption_accuracy_held_out": "of held-out captions",
        "r_precision": "R-precision",
        "frechet_distance": "Fréchet distance",
        "diversity": "diversity",
    }
    lines = [["w", *columns.values()], ["---:"] * (len(columns) + 1)]
    for row in report["w"]:
        lines.append([f"{row['w']:g}", *(f"{row[name]:.3f}" for name in columns)])
    lines += [[], ["in the null's place", *(f"w = {w:g}" for w in (0.0, *NEGATIVE_WS))]]
    lines.append(["---", *["---:"] * (len(NEGATIVE_WS) + 1)])
    for name, rows in report["negatives"].items():
        lines.append([name, *(f"{row['caption_accuracy']:.1%}" for row in rows)])
    lines += [[], ["weight", *(f"{c}: {part}" for c in CONVENTIONS for part in ("it", "other"))]]
    lines.append(["---:"] * (2 * len(CONVENTIONS) + 1))
    for number, weight in enumerate(WEIGHTS):
        rows = [report["weights"][convention][number] for convention in CONVENTIONS]
        shares = [f"{row[part]:.1%}" for row in rows for part in ("weighted", "other")]
        lines.append([f"{weight:g}", *shares])
    return "\n".join("| " + " | ".join(line) + " |" if line else "" for line in lines)


def figure(report: Mapping[str, Any]) -> Figure:
    """Agreement over w, distance against agreement, negative prompts, and weights of words."""
    made = Figure(figsize=(11.0, 8.0), layout="constrained")
    over_w, against, negatives, weights = made.subplots(2, 2).ravel()
    ws = [row["w"] for row in report["w"]]
    for name, title, colour in (
        ("caption_accuracy", "seen pairs", scoring.BLUE),
        ("caption_accuracy_held_out", "held-out pairs", scoring.VERMILION),
        ("r_precision", "R-precision by CLIP", scoring.GREEN),
    ):
        over_w.plot(ws, [row[name] for row in report["w"]], "o-", color=colour, label=title)
        over_w.axhline(report["real"][name], color=colour, linewidth=0.8, linestyle=":")
    over_w.set(xlabel="guidance strength w", ylabel="share right", ylim=(0.0, 1.02))
    over_w.set_title("agreement with the caption (dotted: real scenes)")
    both = [
        np.mean([row["caption_accuracy"], row["caption_accuracy_held_out"]]) for row in report["w"]
    ]
    distances = [row["frechet_distance"] for row in report["w"]]
    against.plot(both, distances, "o-", color=scoring.INK, label="Fréchet distance")
    for w, x, y in zip(ws, both, distances, strict=True):
        against.annotate(f"{w:g}", (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8)
    against.set(xlabel="caption accuracy, all captions", ylabel="Fréchet distance", yscale="log")
    against.set_title("distance against agreement, by w")
    colours = (scoring.BLACK, scoring.BLUE, scoring.GREEN, scoring.ORANGE, scoring.VERMILION)
    for (name, rows), colour in zip(report["negatives"].items(), colours, strict=True):
        strengths = [row["w"] for row in rows]
        shares = [row["caption_accuracy"] for row in rows]
        negatives.plot(strengths, shares, "o-", color=colour, label=name)
    negatives.set(xlabel="guidance strength w", ylabel="caption accuracy, two digits")
    negatives.set_title("what stands in the null's place")
    for (convention, rows), colour in zip(
        report["weights"].items(), (scoring.BLUE, scoring.ORANGE), strict=True
    ):
        x = [row["weight"] for row in rows]
        for name, style in (("weighted", "o-"), ("other", "s:")):
            label = f"{convention}: {'the weighted digit' if name == 'weighted' else 'the other'}"
            weights.plot(x, [row[name] for row in rows], style, color=colour, label=label)
    weights.set(xlabel="weight of the first digit's words", ylabel="share of samples that show it")
    weights.set_title(f"weights of words, w = {WEIGHED_AT:g}")
    for axes in (over_w, negatives, weights):
        axes.legend(fontsize=8, frameon=False)
    for axes in (over_w, against, negatives, weights):
        scoring.plain(axes)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a run of configs/scenes.py")
    parser.add_argument("--samples", type=int, default=252, help="seen captions, and held-out ones")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--batch", type=int, default=252, help="at a time (default: 252)")
    parser.add_argument("--out", type=Path, default=FIGURE, help="the figure, a .png file")
    arguments = parser.parse_args(argv)
    model = cfg_jax.load(arguments.workdir)
    report = measure(
        model,
        arguments.workdir,
        samples=arguments.samples,
        seed=arguments.seed,
        batch=arguments.batch,
    )
    scoring.write(arguments.out, figure(report), report)
    print(tables(report))


if __name__ == "__main__":
    main()
