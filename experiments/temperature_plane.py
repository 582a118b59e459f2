"""Classes in the plane, sharpened in every way: exact denoisers, so that the ways alone are seen.

See `temperature.py`, which draws the figure.
"""

from collections.abc import Mapping
from typing import NamedTuple

import gaussian_mixture
import jax
import jax.numpy as jnp
import numpy as np
import scoring
from matplotlib.figure import Figure
from temperature_ways import COLD, WAYS, Way, drawn

from cfg_jax import grids, mixtures, schedules

PLANE = schedules.Cosine(logsnr_min=-12.0, logsnr_max=14.0)
PLANE_GRID = grids.UniformLogSNR(start=-12.0, end=14.0)
PLANE_STEPS, FLOW_STEPS = 300, 60
"""Of sampling in the plane: nearly the limit of small steps."""
SHARES = (0.99, 0.9, 0.7, 0.4)


def arms(*, modes: int = 40, std: float = 0.09) -> mixtures.GaussianMixture:
    """Three classes, each along an arm of a spiral, evenly: its mean lies where no data are."""
    along = np.linspace(0.0, 1.0, 1000)
    radius, turn = 0.7 + 1.5 * along, 1.1 * np.pi * along
    length = np.append(0.0, np.cumsum(np.hypot(np.diff(radius), radius[1:] * np.diff(turn))))
    even = np.interp(np.linspace(0.0, length[-1], modes), length, along)
    angles = np.pi / 2.0 - 2.0 * np.pi / 3.0 * np.arange(3)[:, None] + 1.1 * np.pi * even
    means = (0.7 + 1.5 * even)[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    return mixtures.gaussian_mixture(means, std)


def densities(
    mixture: mixtures.GaussianMixture, axis: np.ndarray, temperature: float
) -> np.ndarray:
    """p(x|c)^(1/τ) on the square grid of `axis`: (classes, y, x), each of sum 1."""
    x = jnp.stack(jnp.meshgrid(jnp.asarray(axis), jnp.asarray(axis)), -1).reshape(-1, 2)
    logs = [mixture.log_prob(x, jnp.inf, jnp.full(len(x), c)) for c in range(mixture.null)]
    mass = jax.nn.softmax(jnp.stack(logs) / temperature, axis=1)
    return np.asarray(mass, np.float64).reshape(-1, len(axis), len(axis))


def from_grid(mass: np.ndarray, axis: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Points of densities on a grid: (classes, count, 2)."""
    rng, cell = np.random.default_rng(seed), axis[1] - axis[0]
    chosen = [rng.choice(m.size, count, p=m.ravel() / m.sum()) for m in mass]
    row, column = np.unravel_index(np.stack(chosen), mass.shape[1:])
    within = rng.uniform(-0.5, 0.5, (*row.shape, 2)) * cell
    return np.stack([axis[column], axis[row]], -1) + within


class Plane(NamedTuple):
    """Classes in the plane, and what was drawn of them.

    Attributes:
      mixture: The classes.
      axis: Of the square grid that the densities are on.
      mass: p(x|c) on it.
      samples: (classes, count, 2), by what drew them.
    """

    mixture: mixtures.GaussianMixture
    axis: np.ndarray
    mass: np.ndarray
    samples: dict[str, np.ndarray]


def plane(mixture: mixtures.GaussianMixture, *, reach: float, count: int, seed: int) -> Plane:
    """Draws `count` points of each class: of p(x|c), of p(x|c)^(1/τ), and in every way."""
    axis = np.linspace(-reach, reach, 401)
    mass, cold = (densities(mixture, axis, temperature) for temperature in (1.0, COLD))
    samples = {
        "$p(x|c)$": from_grid(mass, axis, count, seed=seed),
        "$p(x|c)^{1/τ}$": from_grid(cold, axis, count, seed=seed),
    }
    for way in WAYS:
        x = drawn(
            way,
            way.shown,
            mixture,
            jax.random.key(seed),
            jnp.repeat(jnp.arange(mixture.null), count),
            null=mixture.null,
            grid=PLANE_GRID,
            shape=(2,),
            schedule=PLANE,
            steps=FLOW_STEPS if way.flow else PLANE_STEPS,
        )
        samples[way.name] = np.asarray(x).reshape(mixture.null, count, 2)
    return Plane(mixture, axis, mass, samples)


def plane_table(planes: Mapping[str, Plane]) -> str:
    """How far the drawn classes reach, whether they lie where the data do, and how surely apart."""
    lines = [
        "| classes | drawn from | means apart | std | where 99 % of the data lie | mean p(c\\|x) |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for title, (mixture, axis, mass, samples) in planes.items():
        for name, x in samples.items():
            apart, std = gaussian_mixture.spread(x, np.ones(x.shape[:2]))
            share = gaussian_mixture.inside(x, mass, axis, 0.99)
            posterior = mixture.log_posterior(jnp.asarray(x).reshape(-1, 2), jnp.inf)
            own = np.exp(posterior).reshape(*x.shape[:2], -1).mean(1).diagonal().mean()
            told = name.replace("|", "\\|")
            lines.append(
                f"| {title} | {told} | {apart:.2f} | {std:.2f} | {share:.1%} | {own:.3f} |"
            )
    return "\n".join(lines)


def shown(way: Way) -> str:
    """A way at the strength of the pictures: "guidance, w = 2"."""
    return f"{way.name}, {way.symbol} = {way.shown:.2g}"


def plane_figure(planes: Mapping[str, Plane]) -> Figure:
    """The samples: a row a mixture, a column what drew them, 95 % of p(x|c) outlined."""
    titles = {
        "$p(x|c)$": "the data, $p(x|c)$",
        "$p(x|c)^{1/τ}$": f"meant: $p(x|c)^{{1/τ}}$, τ = {COLD:.2g}",
        **{way.name: shown(way) for way in WAYS},
    }
    made = Figure(figsize=(2.1 * len(titles), 2.08 * len(planes) + 0.35), layout="constrained")
    panels = made.subplots(len(planes), len(titles), squeeze=False)
    for row, (title, (_, axis, mass, samples)) in zip(panels, planes.items(), strict=True):
        for panel, x in zip(row, samples.values(), strict=True):
            for c, colour in enumerate(gaussian_mixture.COLOURS):
                panel.scatter(*x[c].T, s=3.0, color=colour, alpha=0.45, linewidths=0)
                outline = [gaussian_mixture.level(mass[c], 0.95)]
                panel.contour(axis, axis, mass[c], outline, colors=[colour], linewidths=0.7)
            panel.set(xticks=[], yticks=[], aspect="equal", xlim=axis[[0, -1]], ylim=axis[[0, -1]])
            panel.spines[:].set_color(scoring.PALE)
        row[0].set_ylabel(title, color=scoring.INK, fontsize=10)
    for panel, name in zip(panels[0], samples, strict=True):
        panel.set_title(titles[name], fontsize=10, color=scoring.INK)
    return made
