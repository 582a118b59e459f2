"""What latents spare: training and sampling of the same network over 16 places and over 1,024.

    python experiments/benchmarks/latents_vs_pixels.py --codec runs/scenes_codec
        [--batch 16] [--clock processor] [--out FILE.json]

The transformer of `configs/scenes.py`, patches of one, in the latents of its codec (4×4×32) and
over the pixels themselves (32×32×3): images a second of training steps and of unguided samples, the
two in turns within one process, a turn of latents being many calls. A ratio is the median of the
ratios of every turn. Where other processes share a CPU, `--clock processor` counts the processors'
time that this one took.

Predicted, before measuring: training 50 times as fast, sampling 40 times. There are 64 times as
many places; attention among pixels grows with their square, but at 16 places what does not depend
on them, the captions' encoder and the work around the products, weighs more; samples are decoded as
well. Seen on two CPU cores beside other work: 106 and 81 times, twice as much.
"""

import argparse
import functools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from network_turns import Turns, turns
from sampling_bench import CLOCKS, Rows, positive, ratios, surroundings, table, timed

import cfg_jax
from cfg_jax import recipe
from cfg_jax.cli import recipes
from cfg_jax.runtime import files

CALLS = {"latents": 32, "pixels": 1}
"""Calls of a turn, which take about as long.

Beside a single call of latents, what the one of pixels leaves behind is much: caches that hold
something else, gigabytes that are given back.
"""


def networks(codec: Path, batch: int) -> dict[str, ConfigDict]:
    """The recipes of the two, which differ in the codec and in how far positions reach."""
    made = {name: recipes.read("scenes") for name in CALLS}
    made["latents"].codec.run = str(codec)
    made["pixels"].codec = recipe.node("Pixels")
    made["pixels"].network.period = 32.0
    for config in made.values():
        config.train.batch_size = batch
    return made


def compared(
    contestants: Mapping[str, Turns], *, steps: int, rounds: int, clock: str = "wall"
) -> Rows:
    """Images a second of both, and how many times as fast latents are."""
    tasks = {
        "training": {name: one.training for name, one in contestants.items()},
        f"sampling, {steps} steps": {
            name: one.sampling(steps) for name, one in contestants.items()
        },
    }
    rows = []
    for task, runs in tasks.items():
        repeated = {name: functools.partial(again, run, CALLS[name]) for name, run in runs.items()}
        times = timed(task, repeated, rounds=rounds, clock=clock)
        each = {name: [t / CALLS[name] for t in taken] for name, taken in times.items()}
        rates = {
            f"{name}_images_a_second": contestants[name].batch / statistics.median(taken)
            for name, taken in each.items()
        }
        faster = statistics.median(ratios(each["pixels"], each["latents"]))
        rows.append({"task": task, **rates, "times_as_fast": faster})
    return rows


def again(run: Callable[[], Any], calls: int) -> Any:
    """What the last of some calls returns, each waited for."""
    for _ in range(calls):
        made = jax.block_until_ready(run())
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the table, writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--codec", type=Path, required=True, help="a run of configs/scenes_codec.py"
    )
    usual = {"batch": (16, "images a step"), "steps": (5, "of sampling"), "rounds": (5, "turns")}
    for name, (number, told) in usual.items():
        told = f"{told} (default: {number})"
        parser.add_argument(f"--{name}", type=positive, default=number, help=told)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, help="a .json file")
    flags = parser.parse_args(argv)
    if flags.out and (flags.out.suffix != ".json" or not flags.out.parent.is_dir()):
        parser.error(f"--out must be a .json file in a folder that exists, got {flags.out}")
    cfg_jax.use_cores()
    if flags.clock == "processor" and jax.default_backend() != "cpu":
        parser.error("--clock: the processors' time is no measure of what another device does")
    try:
        made = networks(flags.codec, flags.batch)
        data = recipe.make(made["pixels"].data, "data", path="config.data").open("train")
        contestants = {name: turns(config, data) for name, config in made.items()}
    except ValueError as error:
        parser.error(str(error))
    settings = {name: getattr(flags, name) for name in ("batch", "steps", "rounds", "clock")}
    rows = compared(contestants, steps=flags.steps, rounds=flags.rounds, clock=flags.clock)
    places = {name: one.places for name, one in contestants.items()}
    print(table(rows))
    if flags.out:
        report = {**settings, "places": places, **surroundings(), "rows": rows}
        with files.atomic(flags.out) as file:
            file.write((json.dumps(report, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
