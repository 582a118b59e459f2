"""Which solver, which guidance? Both measured on a trained run, for the page of that name.

    python experiments/which_solver_which_guidance.py --workdir runs/digits [--samples 500]
        [--seed 0] [--out docs/figures]

Measures, in about ten minutes on two CPU cores, of the digits that `make demo` trains:

- how far each deterministic solver on each grid ends from the end of the guided flow;
- label accuracy, Inception score and Fréchet distance of solvers that draw noise and of those that
  do not, over network calls;
- the same scores of every method of guidance at a few strengths, and what each costs;
- how well a picture comes back from the noise that inversion finds.

Every x̂ is clipped to [-1, 1], as `Model.sample` clips it, except for inversion. Scores are made by
the classifier that `evaluate` trains and keeps in the run.

Writes to --out which_solver_which_guidance.json, all that was measured, and solver_errors.png,
guidance_tradeoff.png and guidance_samples.png; and into --page its tables, between their markers,
with that of `experiments/benchmarks/solvers_vs_diffusers.py --workdir` if --out holds it as
solvers_vs_diffusers.json.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scoring
from tqdm import tqdm
from which_solver_methods import Method, evaluations, methods
from which_solver_page import (
    DEFAULT,
    errors_figure,
    fill,
    pictures_figure,
    tables,
    tradeoff_figure,
)

import cfg_jax
from cfg_jax import evaluation, grids, guidance, sample, schedules, solvers
from cfg_jax.data import Dataset
from cfg_jax.data.media import medium
from cfg_jax.evaluation.of_model import taken
from cfg_jax.sampling.defaults import DEFAULT_GRID, default_solver
from cfg_jax.sampling.inversion import invert

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "which_solver_which_guidance.md"

FLOW = schedules.Cosine(logsnr_min=-10.12, logsnr_max=20.0)  # from where the linear β schedule does
CALLS, STRENGTHS = (6, 10, 20, 40), (0.0, 1.0, 4.0)
FINE = 1000  # steps to the end of a flow that errors are measured to
FEW_TO_MANY = (10, 20, 50)
INVERTED_IN = (20, 50)  # steps
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


def weaker(run: cfg_jax.Run) -> cfg_jax.Run | None:
    """The run at the oldest checkpoint that it keeps, if that is not its newest."""
    kept = (run.workdir / "checkpoints").iterdir()
    oldest = min(int(path.name) for path in kept if path.name.isdigit())
    return cfg_jax.load(run.workdir, step=oldest) if oldest < run.step else None


def flow_ends(run: cfg_jax.Run, cond: Any, *, seed: int) -> dict[str, Any]:
    """RMSE × 1000 of each solver and each grid to the end of the guided flow, from the same noise.

    Args:
      run: The run.
      cond: A condition, one an image.
      seed: Of the noise.

    Returns:
      "unsettled": by w, how far the end is from that of another solver of 1,000 steps on another
      grid; "solvers" and "grids": by name and w, a list of [calls, error].
    """
    key = jax.random.key(seed)

    def ends(w, steps, solver, grid):
        return sample(
            run.guided(w),
            key,
            cond,
            shape=run.shape,
            schedule=FLOW,
            solver=solver,
            grid=np.asarray(grid(FLOW, steps)),  # levels, which may be coarse: that is measured
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


def scores_over_calls(
    run: cfg_jax.Run, judge: evaluation.Judge, asked: evaluation.Asked, *, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of solvers with noise and without at w = 1, by name and calls."""
    free = methods(run.null)["classifier_free"]
    found: dict[str, dict] = {}
    with tqdm(total=len(DRAWN) * len(FEW_TO_MANY), desc="with and without noise") as bar:
        for name, solver in DRAWN.items():
            for calls in FEW_TO_MANY:
                method = free._replace(solver=solver, steps=calls)
                x = method.draw(run, 1.0, asked.entries, seed=seed)
                found.setdefault(name, {})[str(calls)] = judge.scores(x, asked.labels)
                bar.update()
    return found


def scores_of_methods(
    run: cfg_jax.Run,
    weak: cfg_jax.Run | None,
    judge: evaluation.Judge,
    asked: evaluation.Asked,
    *,
    seed: int,
) -> dict[str, list[dict[str, float]]]:
    """Scores of each method at each of its strengths, and what an image costs."""
    compared = methods(run.null, weak and weak.denoiser)
    one = run.condition(taken(asked.entries, np.arange(1)))
    found: dict[str, list[dict]] = {name: [] for name in compared}
    with tqdm(total=sum(len(method.ws) for method in compared.values()), desc="guidance") as bar:
        for name, method in compared.items():
            cost = evaluations(name, run.null, one, run.schedule)
            for w in method.ws:
                x = method.draw(run, w, asked.entries, seed=seed)
                scores = judge.scores(x, asked.labels)
                found[name].append({"w": w, **scores, "evaluations": cost})
                bar.update()
    return found


def inversions(run: cfg_jax.Run, held_out: Dataset, *, samples: int) -> list[dict[str, Any]]:
    """The largest error of an entry of held-out data made again: the median and the worst."""
    entries, x = run.lend([held_out.source[i] for i in range(min(samples, len(held_out.source)))])
    z, cond = run.encode(x), run.condition(entries)
    found = []
    settings = list(itertools.product((0.0, 1.0), INVERTED_IN, (False, True)))
    for w, steps, exact in tqdm(settings, desc="inversion"):
        guided = guidance.classifier_free(run.denoiser, w=w, null=run.null)
        error = invert(guided, z, cond, schedule=FLOW, steps=steps, exact=exact).error
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
    run: cfg_jax.Run, weak: cfg_jax.Run | None, entries: dict[str, Any], *, seed: int
) -> dict[str, np.ndarray]:
    """Images of each value of the entries, by method: the same noise in every row."""
    cond = run.condition(entries)
    following = jax.tree.map(lambda leaf: jnp.roll(leaf, -1, axis=0), cond)
    shown = {
        f"{name}, w = {method.ws[-1]:g}": (method, method.ws[-1])
        for name, method in methods(run.null, weak and weak.denoiser).items()
    }
    shown["negative: not the next digit, w = 3"] = (
        Method(lambda net, w: guidance.negative(net, w=w, cond=following)),
        3.0,
    )
    shown["composed: and the next digit, w = 1, 1"] = (
        Method(
            lambda net, w: guidance.composed(net, conds=[cond, following], ws=[w, w], null=run.null)
        ),
        1.0,
    )
    return {name: method.draw(run, w, entries, seed=seed) for name, (method, w) in shown.items()}


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
    if min(arguments.samples, arguments.ends) < 2:
        parser.error("--samples and --ends must be at least 2")
    if not arguments.page.is_file() or not arguments.out.is_dir():
        parser.error(f"--page {arguments.page} and --out {arguments.out} must exist")
    cfg_jax.use_cores()
    try:
        run = cfg_jax.load(arguments.workdir)
        if not run.guidable:
            raise ValueError(f"{arguments.workdir} is unconditional: there is nothing to guide")
        weak, data = weaker(run), scoring.splits(run.config)
        judge = evaluation.judge_of(*data)
        asked = evaluation.asked(run, data[1], arguments.samples)
    except ValueError as wrong:
        parser.error(str(wrong))

    seed, ends = arguments.seed, evaluation.asked(run, data[1], arguments.ends)
    report = {
        "settings": {
            "data": run.config.data.kind,
            "training_steps": run.step,
            "weaker_network_steps": weak and weak.step,
            "samples": arguments.samples,
            "samples_of_flow_ends": arguments.ends,
            "seed": seed,
            "classifier_held_out_accuracy": judge.scorer.held_out_accuracy,
            "held_out_images": judge.real.count,
            "versions": {"cfg_jax": cfg_jax.__version__, "jax": jax.__version__},
        },
        "flow_ends": flow_ends(run, run.condition(ends.entries), seed=seed),
        "over_calls": scores_over_calls(run, judge, asked, seed=seed),
        "guidance": scores_of_methods(run, weak, judge, asked, seed=seed),
        "inversion": inversions(run, data[1], samples=arguments.ends),
    }
    first = taken(asked.entries, np.arange(len(asked.titles)) % len(asked.labels))
    kind, pictures = medium(run.facts), rows_of_pictures(run, weak, first, seed=seed)
    (arguments.out / "which_solver_which_guidance.json").write_text(
        json.dumps(report, indent=2) + "\n"
    )
    for name, made in {
        "solver_errors": errors_figure(report["flow_ends"]),
        "guidance_tradeoff": tradeoff_figure(report["guidance"]),
        "guidance_samples": pictures_figure({m: kind.seen(x) for m, x in pictures.items()}),
    }.items():
        made.savefig(arguments.out / f"{name}.png", dpi=130, facecolor="white", bbox_inches="tight")
    against = arguments.out / "solvers_vs_diffusers.json"
    compared = json.loads(against.read_text()) if against.is_file() else None
    arguments.page.write_text(fill(arguments.page.read_text(), tables(report, compared)))


if __name__ == "__main__":
    main()
