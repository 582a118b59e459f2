"""How far samples end from the exact guided flow: the default solver against those of diffusers.

    python experiments/benchmarks/solvers_vs_diffusers.py [--mixtures 12] [--samples 384] [--seed 0]
        [--out NAME]

On 8-dimensional mixtures of 3 classes and 4 modes ε is known exactly, and so is the end point of
the guided probability-flow ODE. Every solver starts from the same noise at the first level of the
linear β schedule (λ = -10.12), is given the exact guided ε, and is held against that end point:
root mean squared error × 1000, averaged over the mixtures, for each number of network calls and w
(the paper's: ε̃ = (1 + w) ε(c) - w ε). Of diffusers the best of all the schedulers below counts,
chosen anew in every cell; ours is one and the same: `sample` with neither solver nor grid named.

Where the end point is a choice between modes, an error however small can lead to the other one. At
40 calls such samples make up most of the mean square: with a thousand in all, a cell is chance.

Needs torch and diffusers. `--out NAME` writes NAME.json and NAME.md.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import guidance, mixtures, sample, schedules

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


def theirs(kind, settings: dict, eps, z: np.ndarray, calls: int) -> np.ndarray:
    """A scheduler's samples; Heun's two calls a step count, so it takes half the steps."""
    scheduler = kind(num_train_timesteps=1000, **BETAS, **settings)
    scheduler.set_timesteps((calls + 1) // 2 if "Heun" in kind.__name__ else calls)
    sampled = torch.from_numpy(z.copy()) * float(scheduler.init_noise_sigma)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sampled, t)
        noise = eps(scaled.numpy(), level(scheduler, t))
        sampled = scheduler.step(torch.from_numpy(noise), t, sampled).prev_sample
    return sampled.numpy()


def level(scheduler, t) -> float:
    """The λ that a scheduler calls at: by its σ/α where it has them, which t merely rounds."""
    if isinstance(scheduler, diffusers.DDIMScheduler):
        return float(np.log(ALPHAS2[int(t)] / (1.0 - ALPHAS2[int(t)])))
    index = 0 if scheduler.step_index is None else scheduler.step_index
    return -2.0 * float(np.log(float(scheduler.sigmas[index])))


def draw(seed: int, count: int, samples: int):
    """Mixtures stacked along a leading axis, noise of (count, samples, DIM) and labels."""
    rngs = [np.random.default_rng([seed, number]) for number in range(count)]
    mixed = [
        mixtures.gaussian_mixture(
            rng.normal(0.0, 0.5, (CLASSES, MODES, DIM)), rng.uniform(0.05, 0.25, (CLASSES, MODES))
        )
        for rng in rngs
    ]
    z = np.stack([rng.normal(size=(samples, DIM)) for rng in rngs])
    labels = np.stack([rng.integers(0, CLASSES, samples) for rng in rngs])
    return mixed, z, labels


def error(x: np.ndarray, exact: np.ndarray) -> float:
    """RMSE × 1000 in each mixture, averaged."""
    return 1000.0 * float(np.sqrt(np.square(x - exact).mean((1, 2))).mean())


def compare(seed: int, count: int, samples: int) -> list[dict]:
    """All cells, in float64."""
    mixed, z, labels = draw(seed, count, samples)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *mixed)

    @jax.jit
    def eps(w, z, logsnr):
        def guided(mixture, z, c):
            return guidance.classifier_free(mixture, w=w, null=CLASSES)(z, logsnr, c)

        return jax.vmap(guided)(stacked, z, labels)

    def ours(w, calls):
        def one(mixture, z, c):
            guided = guidance.classifier_free(mixture, w=w, null=CLASSES)
            key = jax.random.key(0)
            return sample(guided, key, c, shape=(DIM,), schedule=SCHEDULE, steps=calls, z=z)

        return np.asarray(jax.jit(jax.vmap(one))(stacked, z, labels))

    cells = []
    for w in STRENGTHS:
        guided = [guidance.classifier_free(mixture, w=w, null=CLASSES) for mixture in mixed]
        exact = np.stack(
            [
                mixtures.reference(g, start, c, logsnr_from=START, tolerance=1e-7)
                for g, start, c in zip(guided, z, labels, strict=True)
            ]
        )
        for calls in CALLS:
            found = {
                name: error(
                    theirs(*scheduler, lambda z, at, w=w: np.array(eps(w, z, at)), z, calls), exact
                )
                for name, scheduler in schedulers().items()
            }
            best = min(found, key=found.get)
            mine = error(ours(w, calls), exact)
            cells.append(
                {
                    "w": w,
                    "calls": calls,
                    "ours": mine,
                    "best": found[best],
                    "best_name": best,
                    "ratio": mine / found[best],
                    "diffusers": found,
                }
            )
            print(row(cells[-1]), file=sys.stderr)
    return cells


def row(cell: dict) -> str:
    """A line of the table."""
    theirs = f"{cell['best']:.2f} ({cell['best_name']})"
    return (
        f"| {cell['w']:g} | {cell['calls']} | {cell['ours']:.2f} | {theirs} | {cell['ratio']:.2f} |"
    )


def main() -> None:
    """Compares, prints the table and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixtures", type=int, default=12)
    parser.add_argument("--samples", type=int, default=384, help="of each mixture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with jax.enable_x64(True):
        cells = compare(arguments.seed, arguments.mixtures, arguments.samples)
    head = [
        "| w | calls | cfg_jax | best of diffusers | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    table = "\n".join([*head, *map(row, cells)])
    print(table)
    if arguments.out:
        report = {
            "seed": arguments.seed,
            "mixtures": arguments.mixtures,
            "samples": arguments.samples,
            "versions": {m.__name__: m.__version__ for m in (jax, torch, diffusers)},
            "cells": cells,
        }
        arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
        arguments.out.with_suffix(".md").write_text(table + "\n")


if __name__ == "__main__":
    main()
