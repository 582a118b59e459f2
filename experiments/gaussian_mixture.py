"""Three Gaussians under growing guidance: what guidance aims at, and what it draws.

    python experiments/gaussian_mixture.py [--w 0 0.5 1 2 4] [--samples 600] [--out FILE.png]

Remakes Figure 2 of Ho & Salimans 2022, "Classifier-Free Diffusion Guidance": data in the plane, one
isotropic Gaussian a class. The mixture's exact denoiser stands in for a trained network, so that
guidance alone is seen. About 20 seconds on two CPU cores.

The upper row is the paper's: for each class c the density that guidance aims at, normalised,

    p̃(x|c) ∝ p(x|c) p(c|x)^w ∝ p(x|c)^(1+w) / p(x)^w

The lower row shows what `guidance.classifier_free` draws with the default solver, from the same
noise for every w. The two agree at w = 0 and part as w grows: at each level λ the guided ε̃ belongs
to the density p(z_λ|c)^(1+w) / p(z_λ)^w, but these are not p̃ with noise added, so a sampler that
follows them ends elsewhere than in p̃ (Bradley & Nakkiran 2024, "Classifier-Free Guidance is a
Predictor-Corrector"). Other samplers end elsewhere again. The printed table says by how much: the
mean distance between two classes' means, the classes' standard deviation, and the share of the
samples that lie where p̃ has the densest nine tenths of its mass.
"""

import argparse
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from cfg_jax import guidance, mixtures, sample, schedules

CLASSES = 3
SCHEDULE = schedules.Cosine()
SHARES = (0.99, 0.9, 0.7, 0.5, 0.3, 0.1)
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # told apart by colour-blind readers as well
INK, PALE = "#333333", "#b8b8b8"
FIGURE = Path(__file__).parent / "figures" / "gaussian_mixture.png"


def three_classes(*, radius: float = 1.0, std: float = 0.6) -> mixtures.GaussianMixture:
    """One Gaussian a class, its means on a circle, the first at the top."""
    angles = np.pi / 2.0 - 2.0 * np.pi * np.arange(CLASSES) / CLASSES
    means = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return mixtures.gaussian_mixture(means[:, None], std)


def drawn(mixture: mixtures.GaussianMixture, w: float, z, *, steps: int) -> np.ndarray:
    """What guidance makes of noise: x of (classes, count, 2) from z of the same shape."""
    labels = jnp.repeat(jnp.arange(CLASSES), z.shape[1])
    x = sample(
        guidance.classifier_free(mixture, w=w, null=mixture.null),
        jax.random.key(0),  # draws nothing: the noise is given, and the default solver adds none
        labels,
        shape=(2,),
        schedule=SCHEDULE,
        steps=steps,
        z=z.reshape(-1, 2),
    )
    return np.asarray(x).reshape(z.shape)


def tilted(mixture: mixtures.GaussianMixture, w: float, axis: np.ndarray) -> np.ndarray:
    """p̃(x|c) ∝ p(x|c) p(c|x)^w on the square grid of `axis`: (classes, y, x), each of sum 1."""
    x = jnp.stack(jnp.meshgrid(jnp.asarray(axis), jnp.asarray(axis)), -1).reshape(-1, 2)
    posterior = mixture.log_posterior(x, jnp.inf)
    logs = [
        mixture.log_prob(x, jnp.inf, jnp.full(len(x), c)) + w * posterior[:, c]
        for c in range(CLASSES)
    ]
    mass = jax.nn.softmax(jnp.stack(logs), axis=1)
    return np.asarray(mass, np.float64).reshape(CLASSES, len(axis), len(axis))


def level(mass: np.ndarray, share: float) -> float:
    """The density above which a grid's densest points hold `share` of its mass."""
    descending = np.sort(mass.ravel())[::-1]
    inside = np.searchsorted(np.cumsum(descending), share * mass.sum())
    return float(descending[min(inside, mass.size - 1)])


def spread(x: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """The mean distance between two classes' means, and the classes' mean standard deviation.

    Args:
      x: Points, (classes, points, 2).
      weight: Of each point within its class, (classes, points).
    """
    weight = weight / weight.sum(1, keepdims=True)
    means = np.einsum("cp,cpd->cd", weight, x)
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(means, 2)]
    variance = np.einsum("cp,cpd->c", weight, np.square(x - means[:, None])) / x.shape[-1]
    return float(np.mean(apart)), float(np.sqrt(variance).mean())


def inside(x: np.ndarray, mass: np.ndarray, axis: np.ndarray, share: float) -> float:
    """The share of samples, (classes, count, 2), where their class' density exceeds its level."""
    found = []
    for points, of_class in zip(x, mass, strict=True):
        column, row = np.rint((points.T - axis[0]) / (axis[1] - axis[0])).astype(int)
        on_grid = (np.minimum(column, row) >= 0) & (np.maximum(column, row) < len(axis))
        there = of_class[np.clip(row, 0, len(axis) - 1), np.clip(column, 0, len(axis) - 1)]
        found.append(on_grid & (there >= level(of_class, share)))
    return float(np.mean(found))


def table(ws, samples, masses, axis: np.ndarray) -> str:
    """How far what is drawn lies from what is aimed at, one line for each w."""
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(1, -1, 2)
    everywhere = np.broadcast_to(grid, (CLASSES, *grid.shape[1:]))
    lines = [
        "| w | means apart: p̃ | drawn | std: p̃ | drawn | within p̃'s densest 90 % |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for w, x, mass in zip(ws, samples, masses, strict=True):
        aim = spread(everywhere, mass.reshape(CLASSES, -1))
        got = spread(x, np.ones(x.shape[:2]))
        share = inside(x, mass, axis, 0.9)
        lines.append(
            f"| {w:g} | {aim[0]:.2f} | {got[0]:.2f} | {aim[1]:.2f} | {got[1]:.2f} | {share:.0%} |"
        )
    return "\n".join(lines)


def figure(mixture: mixtures.GaussianMixture, ws, samples, masses, axis: np.ndarray) -> Figure:
    """The densities above, the samples below, one column for each w."""
    made = Figure(figsize=(2.3 * len(ws) + 0.5, 5.3), layout="constrained")
    panels = made.subplots(2, len(ws), sharex=True, sharey=True, squeeze=False)
    means = np.asarray(mixture.means)[:, 0]
    for column, (w, x, mass) in enumerate(zip(ws, samples, masses, strict=True)):
        above, below = panels[:, column]
        for c, colour in enumerate(COLOURS):
            levels = [level(mass[c], share) for share in SHARES]
            for low in levels:
                above.contourf(axis, axis, mass[c], [low, np.inf], colors=[colour], alpha=0.2)
            above.contour(axis, axis, mass[c], levels[1:2], colors=[colour], linewidths=0.8)
            below.scatter(*x[c].T, s=3.0, color=colour, alpha=0.35, linewidths=0)
            below.contour(axis, axis, mass[c], levels[1:2], colors=[colour], linewidths=0.8)
        above.set_title("w = 0, no guidance" if w == 0 else f"w = {w:g}", color=INK, fontsize=11)
        for panel in (above, below):
            panel.scatter(*means.T, s=26, marker="+", color=INK)
            panel.set(xticks=[], yticks=[], aspect="equal", xlim=axis[[0, -1]], ylim=axis[[0, -1]])
            panel.spines[:].set_color(PALE)
    for c, colour in enumerate(COLOURS):
        place = means[c] + [0.0, 2.15 * np.sign(means[c, 1])]  # just outside its 99 %
        panels[0, 0].text(*place, f"c = {c}", color=colour, ha="center", va="center", fontsize=10)
    panels[0, 0].set_ylabel("aimed at\n$p(x|c)\\,p(c|x)^w$, normalised", color=INK)
    panels[1, 0].set_ylabel("drawn by\nclassifier-free guidance", color=INK)
    made.supxlabel(
        "+ the mean of a class without guidance;  — 90 % of the mass of the density above",
        color=INK,
        fontsize=10,
    )
    return made


def main(argv: list[str] | None = None) -> None:
    """Draws, prints the table and writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--w", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--samples", type=int, default=600, help="of each class")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FIGURE)
    arguments = parser.parse_args(argv)
    if not all(0.0 <= w <= 100.0 for w in arguments.w):
        parser.error(f"--w must lie in [0, 100], got {arguments.w}")
    if arguments.samples < 2:
        parser.error(f"--samples must be at least 2, got {arguments.samples}")
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1, got {arguments.steps}")
    if arguments.out.suffix != ".png" or not arguments.out.parent.is_dir():
        parser.error(f"--out must be a .png file in a folder that exists, got {arguments.out}")

    mixture = three_classes()
    z = jax.random.normal(jax.random.key(arguments.seed), (CLASSES, arguments.samples, 2))
    samples = [drawn(mixture, w, z, steps=arguments.steps) for w in arguments.w]
    furthest = max(3.0, 1.05 * max(float(np.abs(x).max()) for x in samples))
    axis = np.linspace(-furthest, furthest, 301)
    masses = [tilted(mixture, w, axis) for w in arguments.w]
    print(table(arguments.w, samples, masses, axis))
    figure(mixture, arguments.w, samples, masses, axis).savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
