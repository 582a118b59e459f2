"""What bits buy: rate against distortion of a pixel model along λ, with codecs as points beside it.

    python experiments/rate_distortion.py --workdir runs/latent_factors [--steps 800]

What latent diffusion is motivated by (Ho et al. 2020, "Denoising Diffusion Probabilistic Models",
Figure 5; Rombach et al. 2022, Figure 2), on the scenes of `configs/scenes.py`. A diffusion model of
pixels that has told z_λ has spent, in bits for each of the D numbers of x,

    rate(λ) = (KL(q(z_λmin|x) ‖ N(0, I)) + ½ ∫_λmin^λ E‖ε - ε̂(z_λ')‖² dλ') / (D ln 2),

terms of the bound in continuous time (Kingma et al. 2021, Equation 17), and its x̂(z_λ) is off by

    distortion(λ) = √(E‖x - x̂(z_λ)‖² / D),

told on the scale of 0 to 255. As ε - ε̂ = -(α/σ) (x - x̂), both follow from the same errors. A codec
is a point: bits for each number of x by the KL of its latents, as `evaluate` has it, or log₂ of the
number of codes for each place; and the error of what it decodes of a drawn ẑ.

Expected: most of the bits go where distortion hardly falls any more, as in the papers: half of all
for the last level of 256 or so. A codec by KL with its usual small weight lies far to the right of
the curve, since nobody asked it to save bits; one with a codebook lies near it. Seen: two thirds of
the bits up to λ = 12 for the last level; KL at 14 to 19 times the curve's bits, at 4 times with
1,000 times the weight, for no more distortion; the codebook at 4 times as well.

Codecs are those of `latent_factors.py`, read from WORKDIR/codecs or trained now; the pixel model,
without captions, is trained into WORKDIR. Prints the table, writes the figure and beside it the
numbers as JSON. About 15 minutes on two CPU cores beside other work.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scoring
from latent_factors import CODECS, codec_recipe, markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from scipy.integrate import cumulative_trapezoid
from tqdm import tqdm

import cfg_jax
from cfg_jax import evaluation, recipe
from cfg_jax.cli import recipes
from cfg_jax.data import Dataset
from cfg_jax.data.scenes import SIDE
from cfg_jax.diffusion import denoiser, process
from cfg_jax.runtime import mesh as meshes
from cfg_jax.training.loop import train

FIGURE = Path(__file__).parent / "figures" / "rate_distortion.png"

PATCH = 4
"""Of the pixel model, which then has 64 places."""

LEVELS = np.linspace(-12.0, 12.0, 49)
"""λ at which the pixel model is asked."""

LEVEL = 127.5
"""Levels of 256 in a unit of [-1, 1]."""

CODEBOOKS = {4: {"channels": 96, "entries": 512}}
"""Codecs with a codebook, by their factor."""

SHARED = ("patch", "window", "channel_mult", "blocks", "middle_attention", "latent_channels")
"""Fields that a codec with a codebook has from that by KL."""

BATCH = 64
"""Scenes at a time."""

HEAVY = 1e-3
"""A weight of the KL that asks for fewer bits; the codecs' own is 1e-6."""


def rate(logsnr: np.ndarray, error: np.ndarray, *, prior: float | np.ndarray = 0.0) -> np.ndarray:
    """Bits for each number of x that z_λ tells at each of some λ.

    Args:
      logsnr: λ, ascending.
      error: E‖x - x̂(z_λ)‖² / D at each.
      prior: KL(q(z_λ|x) ‖ N(0, I)) / D at the first, in nats.
    """
    of_eps = np.exp(logsnr) * error  # E‖ε - ε̂‖² / D
    return (prior + 0.5 * cumulative_trapezoid(of_eps, logsnr, initial=0.0)) / math.log(2.0)


def prior_kl(x: np.ndarray, logsnr: float) -> float:
    """KL(q(z_λ|x) ‖ N(0, I)) in nats for each number of x: ½ (α² E x² + σ² - 1 - log σ²)."""
    variance = 1.0 / (1.0 + math.exp(logsnr))
    return 0.5 * ((1.0 - variance) * float(np.square(x).mean() - 1.0) - math.log(variance))


@jax.jit
def errors(network: Any, x: jax.Array, key: jax.Array, logsnr: jax.Array) -> jax.Array:
    """The mean of (x - x̂)² over all numbers of some examples, a denoiser being shown z_λ."""
    z = process.forward(x, jax.random.normal(key, x.shape), logsnr=logsnr)
    return jnp.square(denoiser.read(network, z, logsnr, {}).x - x).mean()


def along(
    network: Any, x: np.ndarray, *, levels: np.ndarray = LEVELS, seed: int = 0, batch: int = BATCH
) -> dict[str, list[float]]:
    """Rate and distortion of a denoiser at each of some λ.

    Args:
      network: The denoiser, of no condition.
      x: Held-out data, in [-1, 1].
      levels: λ, ascending.
      seed: Of the noise, the same at each λ.
      batch: Examples at a time.
    """
    split = meshes.split(scoring.mesh_for(batch, batch))
    whole = meshes.replicated(split.mesh)
    network, key = jax.device_put((network, jax.random.key(seed)), whole)
    sums = np.zeros(len(levels))
    starts = range(0, len(x) - batch + 1, batch)
    for start in tqdm(starts, desc="levels of noise"):
        part = jax.device_put(x[start : start + batch], split)
        own = jax.random.fold_in(key, start)
        sums += [float(errors(network, part, own, logsnr)) for logsnr in levels]
    error = sums / len(starts)
    return {
        "logsnr": levels.tolist(),
        "bits_per_dimension": rate(levels, error, prior=prior_kl(x, levels[0])).tolist(),
        "rmse": (LEVEL * np.sqrt(error)).tolist(),
    }


def pixel_recipe(steps: int) -> ConfigDict:
    """The recipe of the model of pixels, without captions."""
    config = recipes.read("scenes")
    config.codec = recipe.node("Pixels")
    config.condition.text = None
    config.network.patch, config.network.period = PATCH, SIDE / PATCH
    config.schedule = recipe.node("Cosine")
    config.train.batch_size = 32
    config.train.steps = config.train.checkpoint_every = steps
    config.train.sample_every = 0
    return config


def codec_recipes(steps: int) -> dict[str, ConfigDict]:
    """The recipes of all codecs, by their names below WORKDIR/codecs."""
    found = {f"{factor}": codec_recipe(factor, steps) for factor in CODECS}
    last = max(CODECS)
    heavy = codec_recipe(last, steps)
    heavy.objective.kl_weight = HEAVY
    found[f"{last}_heavy"] = heavy
    for factor, fields in CODEBOOKS.items():
        config = codec_recipe(factor, steps)
        shared = {name: config.network.codec[name] for name in SHARED}
        config.network.codec = recipe.node("VQ", **{**shared, **fields})
        found[f"{factor}_codebook"] = config
    return found


def point(place: Path, held_out: Dataset, x: np.ndarray, *, batch: int = BATCH) -> dict[str, float]:
    """Bits for each number of x and the error of a codec.

    Args:
      place: Its work directory.
      held_out: Held-out data, of which `evaluate` tells the KL.
      x: Those whose error is measured.
      batch: Examples at a time.
    """
    model = cfg_jax.load(place)
    scores, _ = evaluation.coding(model, held_out, samples=len(x), progress=False)
    coded = jax.jit(lambda params, x, key: model.network.apply(params, x, key, method="coded").x)
    key = jax.random.key(0)
    squared = [
        np.square(np.clip(coded(model.params, part, key), -1.0, 1.0) - part)
        for part in np.split(x, range(batch, len(x), batch))
    ]
    codec = model.network.codec
    bits = scores.get("bits_per_dimension")
    if bits is None:
        places = math.prod(model.encode(x[:1]).shape[1:-1])
        bits = math.log2(codec.entries) * places / x[0].size
    rmse = LEVEL * math.sqrt(np.concatenate(squared).mean())
    return {"bits_per_dimension": bits, "rmse": rmse, "psnr": scores["psnr"]}


def named(name: str) -> str:
    """What a codec is called in figure and table."""
    factor, _, kind = name.partition("_")
    kinds = {"": "KL", "heavy": f"KL of weight {HEAVY:g}", "codebook": "codebook"}
    return f"{kinds[kind]}, f = {factor}"


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains what is not trained yet, and measures: "pixels", "codecs" and "settings"."""
    workdir = arguments.workdir
    made = codec_recipes(arguments.codec_steps)
    for name, config in made.items():
        train(config, workdir / "codecs" / name)
    place = workdir / f"pixels_{arguments.steps}"
    config = pixel_recipe(arguments.steps)
    train(config, place)
    _, held_out = scoring.splits(config)
    count = min(arguments.samples, len(held_out.source))
    x = held_out.floats(np.arange(count) * len(held_out.source) // count)
    model = cfg_jax.load(place)
    return {
        "pixels": along(model.guided(0.0), x, seed=arguments.seed),
        "codecs": {
            name: point(workdir / "codecs" / name, held_out, x)
            for name in tqdm(made, desc="codecs")
        },
        "settings": {
            "training steps": arguments.steps,
            "codec steps": arguments.codec_steps,
            "scenes": count,
            "seed": arguments.seed,
        },
    }


def at_distortion(curve: Mapping[str, Sequence[float]], rmse: float) -> float:
    """The bits for each number at which a curve comes down to a distortion; inf where never."""
    bits, off = (np.asarray(curve[name]) for name in ("bits_per_dimension", "rmse"))
    if rmse < off.min():
        return math.inf
    return float(np.interp(-rmse, -np.minimum.accumulate(off), bits))


def table(report: Mapping[str, Any]) -> str:
    """Codecs beside the bits that pixels take for as much distortion; pixels at some λ."""
    curve = report["pixels"]
    codecs = [["codec", "bits/dim", "RMSE of 255", "PSNR", "pixels' bits/dim at that RMSE"]]
    codecs += [
        [
            named(name),
            f"{row['bits_per_dimension']:.3f}",
            f"{row['rmse']:.2f}",
            f"{row['psnr']:.1f} dB",
            f"{at_distortion(curve, row['rmse']):.3f}",
        ]
        for name, row in report["codecs"].items()
    ]
    pixels = [["λ", "bits/dim", "RMSE of 255"]]
    pixels += [
        [f"{logsnr:g}", f"{bits:.4f}", f"{rmse:.2f}"]
        for logsnr, bits, rmse in zip(*curve.values(), strict=True)
        if logsnr % 2.0 == 0.0
    ]
    return "\n\n".join(map(markdown, (codecs, pixels)))


def plane(axes: Axes, report: Mapping[str, Any]) -> None:
    """Distortion over rate: the curve of pixels, and the codecs."""
    curve = report["pixels"]
    bits, rmse = curve["bits_per_dimension"], curve["rmse"]
    axes.plot(bits, rmse, "-", color=scoring.INK, label="diffusion of pixels, along λ")
    marks = {"": "o", "heavy": "D", "codebook": "s"}
    colours = {"2": scoring.ORANGE, "4": scoring.BLUE, "8": scoring.VERMILION}
    for name, row in report["codecs"].items():
        factor, _, kind = name.partition("_")
        at = (row["bits_per_dimension"], row["rmse"])
        look = {"color": colours[factor], "marker": marks[kind], "linestyle": "none"}
        axes.plot(*at, **look, label=named(name))
    axes.set_xlabel("rate, bits for each number of x", color=scoring.INK)
    axes.set_ylabel("distortion, RMSE on 0 to 255", color=scoring.INK)
    scoring.plain(axes)


def figure(report: Mapping[str, Any]) -> Figure:
    """The plane as in the paper, and once more on logarithmic axes."""
    made = Figure(figsize=(11.0, 4.6), layout="constrained")
    straight, logarithmic = made.subplots(1, 2)
    for axes in (straight, logarithmic):
        plane(axes, report)
    curve = report["pixels"]
    logarithmic.set(xscale="log", yscale="log", xlim=(1e-3, None), ylim=(0.1, None))
    for axis in (logarithmic.xaxis, logarithmic.yaxis):
        axis.set_major_formatter("{x:g}")
    for logsnr, bits, rmse in zip(*curve.values(), strict=True):
        if logsnr % 4.0 == 0.0 and bits > 1e-3:
            logarithmic.plot(bits, rmse, ".", color=scoring.INK)
            logarithmic.annotate(
                f"λ = {logsnr:g}",
                (bits, rmse),
                textcoords="offset points",
                xytext=(-6, -10),
                ha="right",
                fontsize=8,
                color=scoring.INK,
            )
    straight.legend(frameon=False, fontsize=9)
    straight.set_title("rate and distortion", fontsize=11, color=scoring.INK)
    logarithmic.set_title("the same, logarithmic", fontsize=11, color=scoring.INK)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what is not trained yet, measures, prints the table, writes figure and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--workdir", type=Path, required=True, help="as of latent_factors.py")
    parser.add_argument("--steps", type=int, default=800, help="of the pixel model's training")
    parser.add_argument("--codec-steps", type=int, default=1000, help="of each codec's training")
    parser.add_argument("--samples", type=int, default=256, help="held-out scenes (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--out", type=Path, default=FIGURE, help="the figure, a .png file")
    arguments = parser.parse_args(argv)
    scoring.check_least(parser, arguments, steps=1, codec_steps=1, samples=BATCH)
    scoring.check_out(parser, arguments)
    cfg_jax.use_cores()
    report = scoring.measured(parser, lambda: measure(arguments))
    print(table(report))
    scoring.write(arguments.out, figure(report), report)


if __name__ == "__main__":
    main()
