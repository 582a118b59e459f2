"""Why guidance, and not just a low temperature: both, and truncation, in pictures.

    python experiments/temperature.py --workdir runs/digits [--samples 1000]

GANs and flows trade diversity for fidelity by truncating or shrinking the noise that they are
given. Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", recall in their Section 1 that of a
diffusion model neither a scaled score nor less noise in the reverse process does it: the samples
get blurred. Five ways to sharpen one network, on the same labels and noise:

    guidance             ε̃ = (1 + w) ε(z, c) - w ε(z, ∅)
    score / τ            ε̃ = ε(z, c) / τ: guidance of 1 + w = 1 / τ without its last term
    noise × √τ           z_λ' = μ̃ + σ̃ √τ n, from √τ n
    truncated noise      z_λ' = μ̃ + σ̃ n_ψ, from n_ψ
    truncated start      the probability-flow ODE, which draws no other noise, from n_ψ

with n ~ N(0, I), μ̃ and σ̃² the mean and the variance of an ancestral step, and each entry of n_ψ
from N(0, 1) truncated to [-ψ, ψ], n_ψ = Φ⁻¹(Φ(-ψ) + (2 Φ(ψ) - 1) Φ(n)), as BigGAN truncates. In the
limit of small steps they make of one Gaussian N(m, s²) another of mean m and variance

    score / τ            s² τ / (2 - τ)
    noise × √τ           s² τ, the variance of p(x)^(1/τ)
    truncated            s² τ_ψ,  τ_ψ = 1 - 2 ψ φ(ψ) / (2 Φ(ψ) - 1)

but what holds for one Gaussian holds for nothing else. The first figure shows classes in the plane,
by the exact ε of `cfg_jax.mixtures`, beside the density p(x|c)^(1/τ) that a low temperature means.
Of three Gaussians guidance makes classes as certain as temperature does and keeps more of their
spread, by moving them apart; of classes along arms temperature and truncation lose both ends, which
p(x|c)^(1/τ) keeps: they contract a class towards its mean.

The second figure shows a trained network's digits, and their scores as `evaluate` makes them. 8×8
digits have no fine detail to blur, and a class' mean is a legible digit: the orders of ImageNet are
there, but less apart. At an Inception score of 9.88 guidance has a Fréchet distance of 2.3, the
others one of 3.0 to 3.7.

Prints the tables; writes FILE.png with FILE.json, all that was measured of the digits, and
FILE_plane.png. What is scored already is kept in the run. About 5 minutes on two CPU cores.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gaussian_mixture
import jax
import jax.numpy as jnp
import numpy as np
import scoring
from jax.scipy.special import ndtr, ndtri
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from tqdm import tqdm

import cfg_jax
from cfg_jax import grids, guidance, mixtures, sample, schedules, solvers
from cfg_jax.data.images import tile, to_uint8
from cfg_jax.diffusion.denoiser import clipped, read
from cfg_jax.diffusion.logsnr import floating

FIGURES = Path(__file__).parent / "figures"
FIGURE = FIGURES / "temperature.png"

PLANE = schedules.Cosine(logsnr_min=-12.0, logsnr_max=14.0)
PLANE_STEPS, FLOW_STEPS = 300, 60
"""Of sampling in the plane: nearly the limit of small steps."""
COLD = 1.0 / 3.0
"""The temperature that is shown."""
SHARES = (0.99, 0.9, 0.7, 0.4)
PICTURED = 30
"""Digits in a row of the picture."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Tempered:
    """ε / τ: the denoiser that follows the score of p(z_λ|c)^(1/τ) at every level.

    Attributes:
      denoiser: The denoiser.
      temperature: τ, positive; 1 changes nothing.
    """

    denoiser: Any
    temperature: Any

    def __call__(self, z, logsnr, cond):
        """Returns ε / τ."""
        return read(self.denoiser, z, logsnr, cond).eps / floating(self.temperature)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cooled:
    """Multiplies noise by √τ."""

    temperature: Any

    def __call__(self, n):
        """Returns √τ n."""
        return jnp.sqrt(floating(self.temperature)) * n


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Truncated:
    """Makes standard normal noise that of a normal distribution truncated to [-ψ, ψ].

    By a monotone map of each entry, not by drawing again: the same noise stays the same.

    Attributes:
      bound: ψ, positive.
    """

    bound: Any

    def __call__(self, n):
        """Returns Φ⁻¹(Φ(-ψ) + (2 Φ(ψ) - 1) Φ(n))."""
        bound = floating(self.bound)
        outside = ndtr(-bound)
        return jnp.clip(ndtri(outside + (1.0 - 2.0 * outside) * ndtr(n)), -bound, bound)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Renoised:
    """A solver whose noise is changed.

    Attributes:
      solver: The solver.
      change: `n -> n`, a callable pytree: what becomes of the noise.
    """

    solver: Any
    change: Any

    def init(self, z):
        """The solver's state."""
        return self.solver.init(z)

    def step(self, denoiser, z, state, cond, noise, *, logsnr, logsnr_next):
        """The solver's step, of other noise."""
        return self.solver.step(
            denoiser,
            z,
            state,
            cond,
            lambda: self.change(noise()),
            logsnr=logsnr,
            logsnr_next=logsnr_next,
        )

    def calls(self, steps):
        """The solver's."""
        return self.solver.calls(steps)


class Way(NamedTuple):
    """A way to sharpen what a network draws.

    Attributes:
      name: What tables and figures call it.
      symbol: Of its strength.
      colour: Told apart by colour-blind readers as well.
      strengths: From the one that changes nothing on.
      shown: That of the pictures.
      guide: `(network, strength, null) -> denoiser`.
      change: `strength -> (n -> n)`, what becomes of the noise.
      flow: Whether the default solver draws, which needs no noise but the first.
    """

    name: str
    symbol: str
    colour: str
    strengths: tuple[float, ...]
    shown: float
    guide: Callable[[Any, float, int], Any] = lambda network, strength, null: network
    change: Callable[[float], Any] = lambda strength: Cooled(temperature=1.0)
    flow: bool = False


TEMPERATURES = (1.0, 0.9, 0.75, 0.5, COLD)
BOUNDS = (np.inf, 2.5, 2.0, 1.5, 1.1)
"""Their τ_ψ are nearly the temperatures; the strengths of guidance w = 1 / τ - 1, nearly."""

WAYS = (
    Way(
        "guidance",
        "w",
        scoring.BLACK,
        strengths=(0.0, 0.1, 0.3, 1.0, 2.0),
        shown=2.0,
        guide=lambda network, w, null: guidance.classifier_free(network, w=w, null=null),
    ),
    Way(
        "score / τ",
        "τ",
        scoring.VERMILION,
        strengths=TEMPERATURES,
        shown=COLD,
        guide=lambda network, t, null: Tempered(denoiser=network, temperature=t),
    ),
    Way(
        "noise × √τ",
        "τ",
        scoring.BLUE,
        strengths=TEMPERATURES,
        shown=COLD,
        change=lambda t: Cooled(temperature=t),
    ),
    Way(
        "truncated noise",
        "ψ",
        scoring.GREEN,
        strengths=BOUNDS,
        shown=1.1,
        change=lambda bound: Truncated(bound=bound),
    ),
    Way(
        "truncated start",
        "ψ",
        scoring.ORANGE,
        strengths=BOUNDS,
        shown=1.1,
        change=lambda bound: Truncated(bound=bound),
        flow=True,
    ),
)


def drawn(
    way: Way,
    strength: float,
    network: Any,
    key: jax.Array,
    labels: Any,
    *,
    null: int,
    v: float = 0.3,
    clip: bool = True,
    grid: Any = None,
    offset: int = 0,
    **walk: Any,
) -> jax.Array:
    """What a way makes of a network, from the noise that `sample` would draw.

    Args:
      way: The way.
      strength: Its strength.
      network: The denoiser.
      key: A JAX random key.
      labels: (batch,).
      null: The label that stands for none.
      v: Of the ancestral steps' variance.
      clip: Whether x̂ is kept within [-1, 1].
      grid: The ancestral steps' noise levels; equally spaced in u when None.
      offset: The number of the first example.
      **walk: shape, schedule and steps, as in `sample`.
    """
    made, change = way.guide(network, strength, null), way.change(strength)
    labels = jnp.asarray(labels)

    def first(index):
        own = jax.random.fold_in(jax.random.fold_in(key, index), 0)
        return jax.random.normal(own, walk["shape"])

    return sample(
        clipped(made) if clip else made,
        key,
        labels,
        solver=None if way.flow else Renoised(solver=solvers.Ancestral(v=v), change=change),
        grid=None if way.flow else grid,
        z=change(jax.vmap(first)(offset + jnp.arange(len(labels)))),
        offset=offset,
        **walk,
    )


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
            clip=False,
            grid=grids.UniformLogSNR(),
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


def measure(
    run: cfg_jax.Run,
    judge: scoring.Judge,
    *,
    samples: int,
    steps: int,
    seed: int,
    batch: int,
) -> tuple[dict[str, list[dict[str, float]]], dict[str, np.ndarray]]:
    """Samples and scores a trained network in every way.

    Returns:
      The scores over each way's strengths, by its name; and its first `PICTURED` images at the
      strength of the pictures, beside those that nothing sharpened.
    """
    key, labels = jax.random.key(seed), np.arange(samples) % run.classes()
    walk = {"shape": run.shape, "schedule": run.schedule, "steps": steps}
    walk |= {"null": run.null, "v": run.config.sample.v}

    def images(way: Way, strength: float, chosen: np.ndarray) -> np.ndarray:
        return scoring.drawn(
            lambda some, start: drawn(way, strength, run.denoiser, key, some, offset=start, **walk),
            chosen,
            batch=batch,
        )

    def scores(way: Way, strength: float) -> dict[str, float]:
        return judge.scores(images(way, strength, labels), labels)

    settings = {"step": run.step, "samples": samples, "steps": steps, "seed": seed, "v": walk["v"]}
    kept = functools.partial(scoring.kept, run.workdir / "evaluation" / "temperature.json")
    curves: dict[str, list[dict[str, float]]] = {way.name: [] for way in WAYS}
    with tqdm(total=sum(len(way.strengths) for way in WAYS), desc="points", unit="point") as bar:
        for way in WAYS:
            for strength in way.strengths:
                told = {**settings, "way": way.name, "strength": str(strength)}
                found = kept(told, functools.partial(scores, way, strength))
                curves[way.name].append({"strength": str(strength), **found})
                bar.update()
    some = np.arange(PICTURED) % run.classes()
    pictures = {"none of them": images(WAYS[0], 0.0, some)}
    return curves, pictures | {shown(way): images(way, way.shown, some) for way in WAYS}


def figure(report: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> Figure:
    """The digits, a row a way; the scores, a curve a way."""
    made = Figure(figsize=(13.0, 7.6), layout="constrained")
    above, below = made.subfigures(2, 1, height_ratios=(1.0, 1.7))
    page = above.subplots()
    tiles = tile(to_uint8(np.concatenate(list(pictures.values()))), PICTURED)
    page.imshow(np.broadcast_to(tiles, (*tiles.shape[:2], 3)), interpolation="nearest")
    height = tiles.shape[0] / len(pictures)
    page.set_yticks(height * (np.arange(len(pictures)) + 0.5), list(pictures), fontsize=10)
    page.set_xticks([])
    page.tick_params(length=0)
    page.spines[:].set_visible(False)

    left, right = below.subplots(1, 2)
    for way in WAYS:
        over = report["curves"][way.name]
        told = ", ".join(number(row["strength"]) for row in over)
        scoring.curve(left, over, colour=way.colour, label=f"{way.name}: {way.symbol} = {told}")
        accuracy, distance = (
            [row[score] for row in over] for score in ("label_accuracy", "frechet_distance")
        )
        right.plot(accuracy, distance, "-o", color=way.colour, markersize=4)
    real = report["real training images"]
    scoring.tradeoff(left)
    scoring.star(left, real)
    left.legend(loc="upper left", frameon=False, fontsize=9)
    right.plot(real["label_accuracy"], real["frechet_distance"], "*", color=scoring.PINK, ms=12)
    scoring.log_distance(right)
    right.set_xlabel("label accuracy", color=scoring.INK)
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    scoring.plain(right)
    return made


def number(strength: str) -> str:
    """A strength in few figures."""
    return f"{float(strength):.2g}".replace("inf", "∞")


def table(report: Mapping[str, Any]) -> str:
    """Every way at every strength, and the real training images."""
    rows = [
        ((way.name, f"{way.symbol} = {number(row['strength'])}"), row)
        for way in WAYS
        for row in report["curves"][way.name]
    ]
    real = (("real training images", ""), report["real training images"])
    return scoring.table(["sharpened by", "strength"], [*rows, real])


def main(argv: list[str] | None = None) -> None:
    """Draws, samples, prints the tables, writes figures and scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--workdir", type=Path, required=True, help="a trained run")
    parser.add_argument("--points", type=int, default=300, help="of a class in the plane")
    scoring.add_arguments(parser, out=FIGURE, steps=25)
    arguments = parser.parse_args(argv)
    scoring.check_arguments(parser, arguments)
    if arguments.points < 2:
        parser.error(f"--points must be at least 2, got {arguments.points}")
    try:
        run = cfg_jax.load(arguments.workdir)
        run.guided(1.0), run.classes()  # refuse a network that has no labels, or none for none
        judge = scoring.judge_of(run.config.data, run.workdir / "evaluation")
    except ValueError as error:
        parser.error(str(error))
    planes = {
        "one Gaussian a class": plane(
            gaussian_mixture.three_classes(std=0.45),
            reach=2.6,
            count=arguments.points,
            seed=arguments.seed,
        ),
        "a spiral's arm a class": plane(
            arms(), reach=2.6, count=arguments.points, seed=arguments.seed
        ),
    }
    print(plane_table(planes))
    beside = arguments.out.with_name(f"{arguments.out.stem}_plane.png")
    plane_figure(planes).savefig(beside, dpi=92, facecolor="white")
    curves, pictures = measure(
        run,
        judge,
        samples=arguments.samples,
        steps=arguments.steps,
        seed=arguments.seed,
        batch=arguments.batch,
    )
    report = {
        "curves": curves,
        "real training images": judge.training,
        "settings": {
            "data": run.config.data.name,
            "training steps": run.step,
            "v": run.config.sample.v,
            "steps": arguments.steps,
            "samples": arguments.samples,
            "seed": arguments.seed,
        },
    }
    print(table(report))
    scoring.write(arguments.out, figure(report, pictures), report)


if __name__ == "__main__":
    main()
