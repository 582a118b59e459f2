"""How far samples end from the exact guided flow: the default solver against those of diffusers.

    python experiments/benchmarks/solvers_vs_diffusers.py [--mixtures 12] [--samples 384] [--seed 0]
        [--workdir runs/digits [--unclipped]] [--out NAME]

Every solver starts from the same noise at the first level of the linear β schedule (λ = -10.12), is
given the same guided ε, and is held against the end of that ε's probability-flow ODE: root mean
squared error × 1000 of a pixel, averaged over the problems, for each number of network calls and w
(the paper's: ε̃ = (1 + w) ε(c) - w ε). Of diffusers the best of all the schedulers below counts,
chosen anew in every cell; ours is one and the same: `sample` with neither solver nor grid named.
The problems are

- 8-dimensional mixtures of 3 classes and 4 modes, whose ε is known exactly, and so is the end; or
- with --workdir a trained network, whose end is that of 1,000 steps of the third order. Its x̂ is
  clipped to [-1, 1], as `Model.sample` clips it, unless --unclipped is given: at the first level
  the error of a network's ε counts 158 times in x̂, and nothing else keeps the flow near data. All
  solvers are given the clipped ε.

How far each end is from that of 1,000 steps of another solver on another grid is told with it.
Where the end is a choice between modes, an error however small can lead to the other one. At 40
calls such samples make up most of the mean square: with a thousand in all, a cell is chance.

Needs torch and diffusers. `--out NAME` writes NAME.json and NAME.md. On two CPU cores 64 samples of
the digits take 10 minutes.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import cfg_jax
from cfg_jax import denoiser, grids, guidance, mixtures, sample, schedules, solvers
from cfg_jax.diffusion.precision import enable_x64

try:
    import diffusers
    import torch
except ImportError as missing:
    sys.exit(f"this comparison needs torch and diffusers (pip install torch diffusers): {missing}")

DIM, CLASSES, MODES = 8, 3, 4
CALLS, STRENGTHS = (6, 10, 20, 40), (0.0, 1.0, 4.0)
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
ALPHAS2 = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
START = float(np.log(ALPHAS2[-1] / (1.0 - ALPHAS2[-1])))
SCHEDULE = schedules.Uniform(logsnr_min=START, logsnr_max=20.0)


def schedulers() -> dict:
    """The schedulers of diffusers by name: the class and its settings."""
    spacings = {
        "linspace": {"timestep_spacing": "linspace"},
        "trailing": {"timestep_spacing": "trailing"},
        "karras": {"use_karras_sigmas": True},
    }
    found = {}
    for spacing, settings in spacings.items():
        found[f"Heun, {spacing}"] = (diffusers.HeunDiscreteScheduler, settings)
        if spacing != "karras":
            plain = {"clip_sample": False, **settings}
            found[f"DDIM, {spacing}"] = (diffusers.DDIMScheduler, plain)
        for order in (2, 3):
            ordered = {"solver_order": order, **settings}
            found[f"DPM++ {order}M, {spacing}"] = (diffusers.DPMSolverMultistepScheduler, ordered)
            found[f"UniPC-{order}, {spacing}"] = (diffusers.UniPCMultistepScheduler, ordered)
            found[f"DEIS-{order}, {spacing}"] = (diffusers.DEISMultistepScheduler, ordered)
    for order in (2, 3):
        even = {"solver_order": order, "use_lu_lambdas": True}
        found[f"DPM++ {order}M, lu"] = (diffusers.DPMSolverMultistepScheduler, even)
    return found


def level(scheduler, t) -> float:
    """The λ that a scheduler calls at: by its σ/α where it has them, which t merely rounds."""
    if isinstance(scheduler, diffusers.DDIMScheduler):
        return float(np.log(ALPHAS2[int(t)] / (1.0 - ALPHAS2[int(t)])))
    index = 0 if scheduler.step_index is None else scheduler.step_index
    return -2.0 * float(np.log(float(scheduler.sigmas[index])))


class Problem(NamedTuple):
    """A guided flow: where it starts, and where it ends.

    Attributes:
      guided: The guided denoiser.
      cond: Its condition, (samples, ...).
      z: Noise at START, (samples, ...).
      end: The end of the flow, of z's shape.
    """

    guided: denoiser.Denoiser
    cond: Any
    z: np.ndarray
    end: np.ndarray


@jax.jit
def eps(problem: Problem, z, logsnr):
    """The problem's guided ε."""
    return denoiser.read(problem.guided, z, logsnr, problem.cond).eps


def ours(problem: Problem, steps: int, **named) -> np.ndarray:
    """The samples of `sample`, with its default unless a solver and a grid are named."""
    key, cond, z = jax.random.key(0), problem.cond, problem.z
    shape = z.shape[1:]
    x = sample(problem.guided, key, cond, shape=shape, schedule=SCHEDULE, steps=steps, z=z, **named)
    return np.asarray(x)


def theirs(problem: Problem, kind, settings: dict, calls: int) -> np.ndarray:
    """A scheduler's samples; Heun's two calls a step count, so it takes half the steps."""
    scheduler = kind(num_train_timesteps=1000, **BETAS, **settings)
    scheduler.set_timesteps((calls + 1) // 2 if "Heun" in kind.__name__ else calls)
    sampled = torch.from_numpy(problem.z.copy()) * float(scheduler.init_noise_sigma)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sampled, t)
        noise = np.array(eps(problem, scaled.numpy(), level(scheduler, t)))
        sampled = scheduler.step(torch.from_numpy(noise), t, sampled).prev_sample
    return sampled.numpy()


def of_mixtures(w: float, *, seed: int, count: int, samples: int) -> list[Problem]:
    """Mixtures; the end by an adaptive method of order 8."""
    problems = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        means = rng.normal(0.0, 0.5, (CLASSES, MODES, DIM))
        mixture = mixtures.gaussian_mixture(means, rng.uniform(0.05, 0.25, (CLASSES, MODES)))
        guided = guidance.classifier_free(mixture, w=w, null=CLASSES)
        z, labels = rng.normal(size=(samples, DIM)), rng.integers(0, CLASSES, samples)
        end = mixtures.reference(guided, z, labels, logsnr_from=START, tolerance=1e-7)
        problems.append(Problem(guided, labels, z, end))
    return problems


def of_network(
    w: float, *, seed: int, run: cfg_jax.Run, unclipped: bool, samples: int
) -> list[Problem]:
    """A trained network, all its conditions in turn; the end by 1,000 steps of the third order."""
    free = guidance.classifier_free(run.denoiser, w=w, null=run.null)
    guided = free if unclipped else denoiser.clipped(free)
    z = np.random.default_rng(seed).normal(size=(samples, *run.shape))
    values = {name: np.resize(made.every(), samples) for name, made in run.conditioners}
    problem = Problem(guided, run.condition(values), z, z)
    fine = {"solver": solvers.DPMSolverPP(order=3), "grid": grids.UniformLogSNR()}
    return [problem._replace(end=ours(problem, 1000, **fine))]


def check(run: cfg_jax.Run) -> None:
    """Raises ValueError unless a run can be guided, and says all that it may be asked for."""
    if not run.guidable:
        raise ValueError(f"{run.workdir} is unconditional: there is nothing to guide")
    for name, made in run.conditioners:
        if made.every() is None:
            raise ValueError(f"{run.workdir} takes {name}, whose values cannot be listed")


def error(problems: list[Problem], samples: Callable[..., np.ndarray], *how, **named) -> float:
    """RMSE × 1000 to the end of each problem, averaged."""
    squares = [np.square(samples(p, *how, **named) - p.end).mean() for p in problems]
    return 1000.0 * float(np.sqrt(squares).mean())


def compare(source: Callable[[float], list[Problem]]) -> list[dict]:
    """All cells, in float64; `source` makes the problems of a w."""
    cells = []
    for w in STRENGTHS:
        problems = source(w)
        other = {"solver": solvers.UniPC(order=3), "grid": grids.Karras()}
        unsettled = error(problems, ours, 1000, **other)
        for calls in CALLS:
            kinds = tqdm(schedulers().items(), desc=f"w = {w:g}, {calls} calls")
            found = {name: error(problems, theirs, *kind, calls) for name, kind in kinds}
            best = min(found, key=found.get)
            mine = error(problems, ours, calls)
            cells.append(
                {
                    "w": w,
                    "calls": calls,
                    "ours": mine,
                    "best": found[best],
                    "best_name": best,
                    "ratio": mine / found[best],
                    "unsettled": unsettled,
                    "diffusers": found,
                }
            )
    return cells


def table(cells: list[dict]) -> str:
    """A line a cell, and how far each w's ends are from those of another solver."""
    lines = [
        "| w | calls | cfg_jax | best of diffusers | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for cell in cells:
        theirs = f"{cell['best']:.3g} ({cell['best_name']})"
        shown = (f"{cell['w']:g}", cell["calls"], f"{cell['ours']:.3g}", theirs)
        lines.append("| " + " | ".join(map(str, shown)) + f" | {cell['ratio']:.2f} |")
    ends = {cell["w"]: cell["unsettled"] for cell in cells}
    told = ", ".join(f"{value:.2g} at w = {w:g}" for w, value in ends.items())
    return "\n".join([*lines, "", f"The ends by another solver of 1,000 steps differ by {told}."])


def main() -> None:
    """Compares, prints the table and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixtures", type=int, default=12)
    parser.add_argument("--samples", type=int, default=384, help="of each mixture, or in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", help="a trained network instead of mixtures")
    parser.add_argument("--unclipped", action="store_true", help="leave the network's x̂ as it is")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    settings = {"seed": arguments.seed, "samples": arguments.samples}
    if arguments.workdir is None:
        made = {"count": arguments.mixtures}
        settings["mixtures"] = arguments.mixtures
    else:
        try:
            run = cfg_jax.load(arguments.workdir)
            check(run)
        except ValueError as wrong:
            parser.error(str(wrong))
        made = {"run": run, "unclipped": arguments.unclipped}
        settings |= {"data": run.config.data.kind, "training_steps": run.step}
        settings["unclipped"] = arguments.unclipped
    make = of_mixtures if arguments.workdir is None else of_network
    with enable_x64(True):
        cells = compare(
            functools.partial(make, seed=arguments.seed, samples=arguments.samples, **made)
        )
    print(table(cells))
    if arguments.out:
        report = {
            **settings,
            "versions": {m.__name__: m.__version__ for m in (jax, torch, diffusers)},
            "cells": cells,
        }
        arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
        arguments.out.with_suffix(".md").write_text(table(cells) + "\n")


if __name__ == "__main__":
    main()
