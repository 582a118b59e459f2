"""Which solver, which guidance? Both measured on a trained run, for the page of that name.

    python experiments/which_solver_which_guidance.py --workdir runs/digits [--samples 500]
        [--seed 0] [--out docs/figures]

Measures, in about ten minutes on two CPU cores, of the digits that `make demo` trains:

- how far each deterministic solver on each grid ends from the end of the guided flow;
- label accuracy, Inception score and Fréchet distance of solvers that draw noise and of those that
  do not, over network calls;
- the same scores of every method of guidance at a few strengths, and what each costs;
- how well a picture comes back from the noise that inversion finds.

Every x̂ is clipped to [-1, 1], as `Run.sample` clips it, except for inversion. Scores are made by
the classifier that `evaluate` trains and keeps in the run.

Writes to --out which_solver_which_guidance.json, all that was measured, and solver_errors.png,
guidance_tradeoff.png and guidance_samples.png; and into --page its tables, between their markers,
with that of `experiments/benchmarks/solvers_vs_diffusers.py --workdir` if --out holds it as
solvers_vs_diffusers.json.
"""

import argparse
import functools
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scoring
from matplotlib.figure import Figure
from tqdm import tqdm

import cfg_jax
from cfg_jax import denoiser, evaluation, grids, guidance, sample, schedules, solvers
from cfg_jax.data import open_dataset
from cfg_jax.data.images import tile, to_float, to_uint8
from cfg_jax.diffusion import piecewise
from cfg_jax.sampling.defaults import DEFAULT_GRID, choose, default_solver
from cfg_jax.sampling.inversion import invert

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "which_solver_which_guidance.md"

FLOW = schedules.Cosine(logsnr_min=-10.12, logsnr_max=20.0)  # from where the linear β schedule does
CALLS, STRENGTHS = (6, 10, 20, 40), (0.0, 1.0, 4.0)
FINE = 1000  # steps to the end of a flow that errors are measured to
FEW_TO_MANY = (10, 20, 50)
STEPS = 20  # of the default solver, where guidance is compared
INVERTED_IN = (20, 50)  # steps
LOW, HIGH = -3.0, 3.0  # the range of λ that `interval` guides in
DEFAULT = "default"
SOLVERS = {
    DEFAULT: None,
    "DDIM": solvers.DDIM(),
    "Heun": solvers.Heun(),
    "DPM-Solver++, order 2": solvers.DPMSolverPP(order=2),
    "DPM-Solver++, order 3": solvers.DPMSolverPP(order=3),
    "UniPC, order 2": solvers.UniPC(order=2),
    "UniPC, order 3": solvers.UniPC(order=3),
}
"""On the default grid."""
GRIDS = {
    DEFAULT: None,
    "uniform in λ": grids.UniformLogSNR(),
    "uniform in u": grids.UniformU(),
    "Karras": grids.Karras(),
}
"""With the default solver."""
DRAWN = {
    DEFAULT: None,
    "DDIM()": solvers.DDIM(),
    "Ancestral(v=0.3)": solvers.Ancestral(v=0.3),
    "DPMSolverPP(order=2, eta=1)": solvers.DPMSolverPP(order=2, eta=1.0),
}
"""Without noise and with; a named solver walks uniformly in u."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#000000")
MARKERS = "os^vDPX*"


class Method(NamedTuple):
    """A method of guidance.

    Attributes:
      make: `(network, w) -> guided`.
      ws: The strengths that it is measured at.
      solver: The solver; the default when None.
      steps: The number of steps.
    """

    make: Callable[[Any, float], Any]
    ws: tuple[float, ...] = (0.3, 1.0, 3.0)
    solver: solvers.Solver | None = None
    steps: int = STEPS

    def draw(self, run: cfg_jax.Run, w: float, labels, *, seed: int) -> np.ndarray:
        """Samples on the run's schedule, x̂ clipped; the noise is the same for every method."""
        guided = denoiser.clipped(self.make(run.denoiser, w))
        x = sample(
            guided,
            jax.random.key(seed),
            labels,
            shape=run.shape,
            schedule=run.schedule,
            solver=self.solver,
            steps=self.steps,
        )
        return np.asarray(x)


def methods(null: int, weak: Any = None) -> dict[str, Method]:
    """The methods by name; autoguidance only if there is a weaker network."""

    def grown(w):
        return lambda logsnr: 2.0 * w * jax.nn.sigmoid(logsnr)

    def free(network, w):
        return guidance.classifier_free(network, w=w, null=null)

    found = {
        "none": Method(lambda net, w: net, ws=(0.0,)),
        "classifier_free": Method(free),
        "interval": Method(lambda net, w: guidance.interval(free(net, w), low=LOW, high=HIGH)),
        "scheduled": Method(lambda net, w: guidance.scheduled(net, w=grown(w), null=null)),
        "rescaled": Method(lambda net, w: guidance.rescaled(net, w=w, null=null, phi=0.7)),
        "projected": Method(lambda net, w: guidance.projected(net, w=w, null=null)),
        "zero_star": Method(lambda net, w: guidance.zero_star(net, w=w, null=null)),
        "plus_plus": Method(
            lambda net, w: guidance.plus_plus(net, w=w, null=null),
            ws=(-0.9, -0.8),
            solver=solvers.DDIM(),
            steps=50,
        ),
    }
    if weak is not None:
        found["autoguidance"] = Method(lambda net, w: guidance.autoguidance(net, weak, w=w))
    return found


def weaker(run: cfg_jax.Run) -> cfg_jax.Run | None:
    """The run at the oldest checkpoint that it keeps, if that is not its newest."""
    kept = (run.workdir / "checkpoints").iterdir()
    oldest = min(int(path.name) for path in kept if path.name.isdigit())
    return cfg_jax.load(run.workdir, step=oldest) if oldest < run.step else None


def flow_ends(run: cfg_jax.Run, *, samples: int, seed: int) -> dict[str, Any]:
    """RMSE × 1000 of each solver and each grid to the end of the guided flow, from the same noise.

    Returns:
      "unsettled": by w, how far the end is from that of another solver of 1,000 steps on another
      grid; "solvers" and "grids": by name and w, a list of [calls, error].
    """
    key, labels = jax.random.key(seed), np.arange(samples) % run.null

    def ends(w, steps, solver=None, grid=None):
        guided = run.guided(w)
        return sample(
            guided,
            key,
            labels,
            shape=run.shape,
            schedule=FLOW,
            solver=solver,
            grid=grid,
            steps=steps,
        )

    def curve(w, exact, solver, grid, calls):
        steps = (calls + 1) // 2 if isinstance(solver, solvers.Heun) else calls
        solver = default_solver(steps) if solver is None else solver
        x = ends(w, steps, solver, DEFAULT_GRID if grid is None else grid)
        return [solver.calls(steps), rmse(x, exact)]

    found: dict[str, Any] = {"unsettled": {}, "solvers": {}, "grids": {}}
    with tqdm(total=len(STRENGTHS) * (len(SOLVERS) + len(GRIDS)), desc="solvers") as bar:
        for w in STRENGTHS:
            exact = ends(w, FINE, solvers.DPMSolverPP(order=3), grids.UniformLogSNR())
            other = ends(w, FINE, solvers.UniPC(order=3), grids.Karras())
            found["unsettled"][f"{w:g}"] = rmse(other, exact)
            for kind, choices in {"solvers": SOLVERS, "grids": GRIDS}.items():
                for name, choice in choices.items():
                    pair = (choice, None) if kind == "solvers" else (None, choice)
                    points = [curve(w, exact, *pair, calls) for calls in CALLS]
                    found[kind].setdefault(name, {})[f"{w:g}"] = points
                    bar.update()
    return found


def rmse(x, exact) -> float:
    """Root mean squared error of a pixel × 1000."""
    return 1000.0 * float(np.sqrt(np.square(np.asarray(x) - np.asarray(exact)).mean()))


def scores_over_calls(run: cfg_jax.Run, judge: scoring.Judge, *, samples: int, seed: int) -> dict:
    """Scores of solvers with noise and without at w = 1, by name and calls."""
    labels = np.arange(samples) % run.null
    free = methods(run.null)["classifier_free"]
    found: dict[str, dict] = {}
    with tqdm(total=len(DRAWN) * len(FEW_TO_MANY), desc="with and without noise") as bar:
        for name, solver in DRAWN.items():
            for calls in FEW_TO_MANY:
                method = free._replace(solver=solver, steps=calls)
                x = method.draw(run, 1.0, labels, seed=seed)
                found.setdefault(name, {})[str(calls)] = judge.scores(x, labels)
                bar.update()
    return found


def scores_of_methods(
    run: cfg_jax.Run, weak: cfg_jax.Run | None, judge: scoring.Judge, *, samples: int, seed: int
) -> dict[str, list[dict]]:
    """Scores of each method at each of its strengths, and what an image costs."""
    labels = np.arange(samples) % run.null
    compared = methods(run.null, weak and weak.denoiser)
    found: dict[str, list[dict]] = {name: [] for name in compared}
    with tqdm(total=sum(len(method.ws) for method in compared.values()), desc="guidance") as bar:
        for name, method in compared.items():
            for w in method.ws:
                scores = judge.scores(method.draw(run, w, labels, seed=seed), labels)
                cost = evaluations(name, run.null, run.schedule)
                found[name].append({"w": w, **scores, "evaluations": cost})
                bar.update()
    return found


def evaluations(name: str, null: int, schedule: schedules.Schedule) -> int:
    """How many images the networks see for one image of a method, counted where they are called."""
    asked = []

    def network(z, logsnr, cond):
        asked.append(len(z))
        return z

    method = methods(null, network)[name]
    guided = method.make(network, method.ws[-1])
    solver, grid = choose(method.solver, None, method.steps)
    levels = grid(schedule, method.steps)[:-1].tolist()
    if solver.calls(method.steps) != len(levels):
        raise ValueError(f"{solver} calls a denoiser more than once a step")
    z, label = jnp.zeros((1, 2)), jnp.zeros(1, int)
    for level in levels:
        asking = functools.partial(denoiser.read, piecewise.at(guided, level))
        jax.eval_shape(asking, z, level, label)
    return sum(asked)


def inversions(run: cfg_jax.Run, *, samples: int) -> list[dict]:
    """The largest error of a pixel of held-out images made again: the median and the worst."""
    images, labels = evaluation.load_arrays(open_dataset(run.config.data, split="test"))
    x, labels = to_float(images[:samples]), jnp.asarray(labels[:samples])
    found = []
    settings = list(itertools.product((0.0, 1.0), INVERTED_IN, (False, True)))
    for w, steps, exact in tqdm(settings, desc="inversion"):
        guided = guidance.classifier_free(run.denoiser, w=w, null=run.null)
        error = invert(
            guided, jnp.asarray(x), labels, schedule=FLOW, steps=steps, exact=exact
        ).error
        found.append(
            {
                "w": w,
                "steps": steps,
                "exact": exact,
                "median": float(jnp.median(error)),
                "worst": float(jnp.max(error)),
            }
        )
    return found


def rows_of_pictures(
    run: cfg_jax.Run, weak: cfg_jax.Run | None, *, seed: int
) -> dict[str, np.ndarray]:
    """Images of all classes, one of each, by method: the same labels and noise in every row."""
    labels = np.arange(run.null)
    following = jnp.asarray((labels + 1) % run.null)
    both = [jnp.asarray(labels), following]
    shown = {
        f"{name}, w = {method.ws[-1]:g}": (method, method.ws[-1])
        for name, method in methods(run.null, weak and weak.denoiser).items()
    }
    shown["negative: not the next digit, w = 3"] = (
        Method(lambda net, w: guidance.negative(net, w=w, cond=following)),
        3.0,
    )
    shown["composed: and the next digit, w = 1, 1"] = (
        Method(lambda net, w: guidance.composed(net, conds=both, ws=[w, w], null=run.null)),
        1.0,
    )
    return {name: method.draw(run, w, labels, seed=seed) for name, (method, w) in shown.items()}


def errors_figure(found: dict[str, Any]) -> Figure:
    """Error over calls: a column a w; solvers on the default grid above, grids below."""
    made = Figure(figsize=(9.0, 6.0), layout="constrained")
    panels = made.subplots(2, len(STRENGTHS), squeeze=False, sharex=True, sharey="col")
    for row, (kind, what) in enumerate(
        {
            "solvers": "solvers, on the default grid",
            "grids": "grids, with the default solver",
        }.items()
    ):
        for column, w in enumerate(STRENGTHS):
            axes = panels[row, column]
            for (name, curves), colour, marker in zip(
                found[kind].items(), reversed(COLOURS), reversed(MARKERS), strict=False
            ):
                wide = 2.4 if name == DEFAULT else 1.1
                points = np.array(curves[f"{w:g}"])
                axes.loglog(
                    *points.T, color=colour, marker=marker, lw=wide, ms=5, label=name, zorder=wide
                )
            axes.set_xticks(CALLS, CALLS)
            axes.minorticks_off()
            axes.grid(color="#dddddd", lw=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            if row == 0:
                axes.set_title("w = 0, no guidance" if w == 0 else f"w = {w:g}", fontsize=11)
            else:
                axes.set_xlabel("network calls")
        panels[row, 0].set_ylabel(f"{what}\nRMSE × 1000", fontsize=9)
        panels[row, -1].legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8
        )
    return made


def tradeoff_figure(found: dict[str, list[dict]]) -> Figure:
    """Inception score against Fréchet distance, a curve a method, its w growing from the star."""
    made = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = made.subplots()
    (none,) = found["none"]
    start = (none["inception_score"], none["frechet_distance"])
    guided = {name: points for name, points in found.items() if name != "none"}
    for (name, points), colour, marker in zip(guided.items(), COLOURS, MARKERS, strict=False):
        curve = np.array([[p["inception_score"], p["frechet_distance"]] for p in points])
        strengths = ", ".join(f"{point['w']:g}" for point in points)
        axes.plot(*curve.T, color=colour, marker=marker, lw=1.4, label=f"{name}: {strengths}")
    axes.plot(*start, "*", color="#c0392b", ms=15, label="no guidance")
    axes.set_xlabel("Inception score   (further right is better →)")
    axes.set_ylabel("Fréchet distance   (↓ lower is better)")
    axes.set_ylim(bottom=0.0)
    axes.grid(color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="method: w")
    return made


def pictures_figure(rows: dict[str, np.ndarray]) -> Figure:
    """A row a method."""
    count = len(next(iter(rows.values())))
    page = tile(to_uint8(np.concatenate(list(rows.values()))), count)
    made = Figure(figsize=(0.48 * count, 0.48 * len(rows)))
    made.subplots_adjust(0.0, 0.0, 1.0, 1.0)
    axes = made.subplots()
    axes.imshow(np.broadcast_to(page, (*page.shape[:2], 3)), interpolation="nearest")
    middle = page.shape[0] / len(rows)
    axes.set_yticks(middle * (np.arange(len(rows)) + 0.5), list(rows), fontsize=9)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return made


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def tables(report: dict[str, Any], against: dict[str, Any] | None) -> dict[str, str]:
    """The page's tables by the name of their place.

    Args:
      report: What this script measured.
      against: What `solvers_vs_diffusers.py` did, or None.
    """
    found = {
        "noise": table(
            ["solver at w = 1", *(f"{calls} calls" for calls in FEW_TO_MANY)],
            [
                [f"`{name}`", *(f"{row[str(n)]['frechet_distance']:.2f}" for n in FEW_TO_MANY)]
                for name, row in report["over_calls"].items()
            ],
        ),
        "guidance": table(
            ["guidance", "w", "label accuracy", "Inception score ↑", "Fréchet distance ↓", "cost"],
            [
                [
                    "no guidance" if name == "none" else f"`{name}`",
                    f"{row['w']:g}",
                    f"{row['label_accuracy']:.1%}",
                    f"{row['inception_score']:.2f}",
                    f"{row['frechet_distance']:.2f}",
                    row["evaluations"],
                ]
                for name, rows in report["guidance"].items()
                for row in rows
            ],
        ),
        "inversion": table(
            ["w", "steps", "`exact=False`: median, worst", "`exact=True`: median, worst"],
            [
                [f"{a['w']:g}", a["steps"]]
                + [f"{row['median']:.2g}, {row['worst']:.2g}" for row in (a, b)]
                for a, b in zip(report["inversion"][::2], report["inversion"][1::2], strict=True)
            ],
        ),
    }
    if against is not None:
        cells = itertools.groupby(against["cells"], key=lambda cell: cell["w"])
        found["diffusers"] = table(
            ["w", *(f"{calls} calls" for calls in CALLS)],
            [[f"{w:g}", *(f"{c['ours']:.3g} / {c['best']:.3g}" for c in row)] for w, row in cells],
        )
    return found


def fill(page: str, found: dict[str, str]) -> str:
    """A page with each table between its markers, `<!-- table: NAME -->` and `<!-- end -->`."""
    for name, text in found.items():
        place = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = place.subn(lambda m, text=text: f"{m[1]}\n{text}\n\n{m[2]}", page)
        if count != 1:
            raise ValueError(f"the page has {count} places for the table {name}")
    return page


def main(argv: list[str] | None = None) -> None:
    """Measures, writes the figures and fills the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="a trained run")
    parser.add_argument("--samples", type=int, default=500, help="images a score")
    parser.add_argument("--ends", type=int, default=64, help="images a solver's error")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=PAGE.parent / "figures")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args(argv)
    try:
        run = cfg_jax.load(arguments.workdir)
        if run.null is None:
            raise ValueError(f"{arguments.workdir} is unconditional: there is nothing to guide")
        weak = weaker(run)
    except ValueError as wrong:
        parser.error(str(wrong))
    if min(arguments.samples, arguments.ends) < 2:
        parser.error("--samples and --ends must be at least 2")
    if not arguments.page.is_file() or not arguments.out.is_dir():
        parser.error(f"--page {arguments.page} and --out {arguments.out} must exist")

    seed, judge = arguments.seed, scoring.judge_of(run.config.data, run.workdir / "evaluation")
    report = {
        "settings": {
            "data": run.config.data.name,
            "training_steps": run.step,
            "weaker_network_steps": weak and weak.step,
            "samples": arguments.samples,
            "samples_of_flow_ends": arguments.ends,
            "seed": seed,
            "classifier_held_out_accuracy": judge.scorer.held_out_accuracy,
            "held_out_images": judge.real.count,
            "versions": {"cfg_jax": cfg_jax.__version__, "jax": jax.__version__},
        },
        "flow_ends": flow_ends(run, samples=arguments.ends, seed=seed),
        "over_calls": scores_over_calls(run, judge, samples=arguments.samples, seed=seed),
        "guidance": scores_of_methods(run, weak, judge, samples=arguments.samples, seed=seed),
        "inversion": inversions(run, samples=arguments.ends),
    }
    pictures = rows_of_pictures(run, weak, seed=seed)
    name = arguments.out / "which_solver_which_guidance.json"
    name.write_text(json.dumps(report, indent=2) + "\n")
    for name, made in {
        "solver_errors": errors_figure(report["flow_ends"]),
        "guidance_tradeoff": tradeoff_figure(report["guidance"]),
        "guidance_samples": pictures_figure(pictures),
    }.items():
        made.savefig(arguments.out / f"{name}.png", dpi=130, facecolor="white", bbox_inches="tight")
    against = arguments.out / "solvers_vs_diffusers.json"
    compared = json.loads(against.read_text()) if against.is_file() else None
    arguments.page.write_text(fill(arguments.page.read_text(), tables(report, compared)))


if __name__ == "__main__":
    main()
