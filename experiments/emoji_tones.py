"""Skin tones that were held out: what a model of emoji draws of captions that it never saw.

    python experiments/emoji_tones.py --workdir runs/emoji [--w 0,1,3,5]

For a model of `configs/emoji.py`, whose data hold one tone of each person or hand back: that word,
and that person, were seen, but never together. Each such caption is drawn once a strength, from the
same noise; the real picture that is nearest to what was drawn, in pixels and among all of training
and test, says what it shows: the very picture that was held out, at least that person, at least
that tone. Prints the table, draws some people in all five tones, and writes the scores as JSON
beside the figure.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import scoring
from matplotlib.figure import Figure

import cfg_jax
from cfg_jax.data.dataset import load
from cfg_jax.data.samples import to_float
from cfg_jax.loading import describe

FIGURE = Path(__file__).parent / "figures" / "emoji_tones.png"

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")

NAMED = re.compile(rf"(.+) ({'|'.join(TONES)}) skin tone")

SHOWN = (
    "firefighter",
    "girl",
    "Santa Claus",
    "astronaut",
    "woman dancing",
    "OK hand",
    "flexed biceps",
    "fairy",
)
"""Who is in the figure, where the data have them."""


class Pictures(NamedTuple):
    """All pictures, those of training first.

    Attributes:
      x: (n, height, width, channels) in [-1, 1].
      captions: Their captions.
      held_out: Whether each was held out.
    """

    x: np.ndarray
    captions: tuple[str, ...]
    held_out: np.ndarray


def pictures(workdir: Path) -> Pictures:
    """The pictures of a run's data."""
    parts = [
        load(data.source, skip_bad=True).arrays for data in scoring.splits(describe(workdir).config)
    ]
    return Pictures(
        np.concatenate([to_float(part["x"]) for part in parts]),
        tuple(texts[0] for part in parts for texts in part["text"]),
        np.concatenate([np.full(len(part["x"]), number == 1) for number, part in enumerate(parts)]),
    )


def toned(real: Pictures) -> list[tuple[str, str]]:
    """Person and tone of each held-out caption whose other four tones were trained on."""
    seen = {caption for caption, held in zip(real.captions, real.held_out, strict=True) if not held}
    found = []
    for caption in np.array(real.captions)[real.held_out]:
        match = NAMED.fullmatch(caption)
        if match and all(f"{match[1]} {t} skin tone" in seen for t in TONES if t != match[2]):
            found.append((match[1], match[2]))
    return found


def nearest(x: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The number of the real picture with the least squared error, of each sample."""
    x, real = (np.asarray(a, np.float32).reshape(len(a), -1) for a in (x, real))
    return ((real**2).sum(1) - 2.0 * x @ real.T).argmin(1)


def scores(x: np.ndarray, asked: Sequence[tuple[str, str]], real: Pictures) -> dict[str, float]:
    """The shares of samples whose nearest real picture is what was asked for."""
    captions = [real.captions[i] for i in nearest(x, real.x)]
    matches = [NAMED.fullmatch(caption) for caption in captions]
    found = [(match[1], match[2]) if match else (None, None) for match in matches]
    pairs = list(zip(found, asked, strict=True))
    return {
        "picture": float(np.mean([one == wanted for one, wanted in pairs])),
        "person": float(np.mean([one[0] == wanted[0] for one, wanted in pairs])),
        "tone": float(np.mean([one[1] == wanted[1] for one, wanted in pairs])),
    }


def figure(
    model: cfg_jax.Model, asked: Sequence[tuple[str, str]], real: Pictures, *, w: float, seed: int
) -> Figure:
    """A row a person: five tones from one noise each, and the real picture of the held-out one."""
    held = dict(asked)
    people = [name for name in SHOWN if name in held] or list(held)[: len(SHOWN)]
    captions = [f"{name} {tone} skin tone" for name in people for tone in TONES]
    key = jax.random.key(seed)
    row = jax.random.normal(key, (len(people), *model.shape))
    z = np.repeat(np.asarray(row), len(TONES), axis=0)
    x = np.clip(np.asarray(model.sample(key, text=captions, w=w, z=z)), -1.0, 1.0)
    made = Figure(figsize=(1.35 * (len(TONES) + 1), 1.45 * len(people)), layout="constrained")
    grid = made.subplots(len(people), len(TONES) + 1, squeeze=False)
    for name, axes, drawn in zip(
        people, grid, x.reshape(len(people), -1, *x.shape[1:]), strict=True
    ):
        original = real.x[real.captions.index(f"{name} {held[name]} skin tone")]
        for place, tone, picture in zip(axes, (*TONES, "real"), [*drawn, original], strict=True):
            place.imshow((picture + 1.0) / 2.0)
            place.set(xticks=[], yticks=[])
            mine = tone == held[name]
            for spine in place.spines.values():
                spine.set(visible=mine or tone == "real", color=scoring.VERMILION, linewidth=2.0)
            title = "held out, real" if tone == "real" else f"{tone} *" if mine else tone
            place.set_title(title, fontsize=8)
        axes[0].set_ylabel(name, fontsize=8)
    return made


def measure(
    model: cfg_jax.Model,
    asked: Sequence[tuple[str, str]],
    real: Pictures,
    ws: Sequence[float],
    *,
    seed: int,
    batch: int,
) -> list[dict[str, float]]:
    """The scores of every strength."""
    captions = [f"{name} {tone} skin tone" for name, tone in asked]
    return [
        {"w": w, **scores(scoring.draw(model, captions, w=w, seed=seed, batch=batch), asked, real)}
        for w in ws
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Draws, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a run of configs/emoji.py")
    parser.add_argument("--w", default="0,1,3,5", help="strengths; the figure is of the third")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--batch", type=int, default=128, help="at a time (default: 128)")
    parser.add_argument("--out", type=Path, default=FIGURE, help="the figure, a .png file")
    arguments = parser.parse_args(argv)
    ws = [float(w) for w in arguments.w.split(",")]
    model, real = cfg_jax.load(arguments.workdir), pictures(arguments.workdir)
    asked = toned(real)
    if not asked:
        parser.error(f"the data of {arguments.workdir} hold no tone of anybody out")
    rows = measure(model, asked, real, ws, seed=arguments.seed, batch=arguments.batch)
    report: dict[str, Any] = {"rows": rows, "captions": len(asked), "pictures": len(real.x)}
    drawn = figure(model, asked, real, w=ws[min(2, len(ws) - 1)], seed=arguments.seed)
    scoring.write(arguments.out, drawn, report)
    print("| w | the held-out picture | the person | the tone |")
    print("| ---: | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row['w']:g} | {row['picture']:.1%} | {row['person']:.1%} | {row['tone']:.1%} |")


if __name__ == "__main__":
    main()
