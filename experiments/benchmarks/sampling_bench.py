"""What sampling is measured with: networks of small random parameters, turns, and a clock."""

import argparse
import datetime
import functools
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import cfg_jax
from cfg_jax import guidance, prediction, schedules
from cfg_jax.blueprint import blueprint
from cfg_jax.cli import recipes
from cfg_jax.data.dataset import LABEL
from cfg_jax.diffusion.denoiser import Denoiser, FromPrediction, from_prediction
from cfg_jax.networks.applied import Applied
from cfg_jax.parts import Condition, Facts

NETWORKS = {"digits": ("digits", (8, 8, 1), 10), "adm64": ("imagenet64", (64, 64, 3), 1000)}
"""The recipe, an example's shape and the number of classes of each network."""
SCHEDULE = schedules.Cosine()

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}

Rows = list[dict[str, Any]]
Make = Callable[[Denoiser, Denoiser], Denoiser]


class Bench(NamedTuple):
    """What every section is measured with.

    Attributes:
      network: The Flax module.
      shape: One example's shape.
      classes: The number of classes, which is the null label too.
      batch: Images a call of `sample`; where the search for the largest batch begins.
      steps: Steps, and with the solvers here calls of the denoiser.
      rounds: Turns in which everything that is compared runs once.
      limit: The largest batch that is tried.
      clock: One of CLOCKS, for whatever is compared.
    """

    network: Any
    shape: tuple[int, ...]
    classes: int
    batch: int = 16
    steps: int = 50
    rounds: int = 7
    limit: int = 4096
    clock: str = "wall"

    @property
    def key(self):
        """The same for everything."""
        return jax.random.key(0)

    @property
    def null(self) -> Condition:
        """What stands for no condition."""
        return {"label": self.classes}

    @property
    def cond(self) -> Condition:
        """The classes in turn."""
        return {"label": jnp.arange(self.batch) % self.classes}

    def eps(self, seed: int = 0) -> FromPrediction:
        """The network with small random parameters everywhere: none is zero, all is finite."""
        z, label = jnp.zeros((1, *self.shape)), {"label": jnp.zeros(1, jnp.int32)}
        shapes = jax.eval_shape(self.network.init, self.key, z, jnp.zeros(1), label)
        rng = np.random.default_rng(seed)

        def drawn(leaf):
            return jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32), leaf.dtype)

        params = jax.tree.map(drawn, shapes)
        return from_prediction(Applied(self.network, params), prediction.EPS)

    def guided(self) -> guidance.ClassifierFree:
        """The network under classifier-free guidance."""
        return guidance.classifier_free(self.eps(), w=1.0, null=self.null)

    @property
    def problem(self) -> dict[str, Any]:
        """What `sample` is told."""
        return {"shape": self.shape, "schedule": SCHEDULE, "steps": self.steps}

    def sampler(self, denoiser: Denoiser, **named) -> Callable[[], jax.Array]:
        """A call of `sample`, ready."""
        return functools.partial(
            cfg_jax.sample, denoiser, self.key, self.cond, **self.problem, **named
        )


def bench_of(name: str, dtype: str | None, **settings) -> Bench:
    """The bench of a network by its name; dtype None is the recipe's own."""
    recipe, shape, classes = NETWORKS[name]
    config = recipes.read(recipe)
    config.network.dtype = dtype or config.network.dtype
    facts = Facts(shape, tuple(map(str, range(classes))), LABEL)
    return Bench(blueprint(config, facts).network, shape, classes, **settings)


def seconds(run: Callable[[], Any], clock: str = "wall") -> float:
    """The time of one call, to its end on the device."""
    started = CLOCKS[clock]()
    jax.block_until_ready(run())
    return CLOCKS[clock]() - started


def timed(
    title: str, runs: dict[str, Callable], *, rounds: int, clock: str
) -> dict[str, list[float]]:
    """The times of each run in each round; every other round goes backwards."""
    for run in tqdm(runs.values(), desc=f"{title}: compiling"):
        jax.block_until_ready(run())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in tqdm(range(rounds), desc=title):
        for name in list(runs) if number % 2 else reversed(runs):
            times[name].append(seconds(runs[name], clock))
    return times


def positive(text: str) -> int:
    """A flag's whole number, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1; got {text!r}")
    return int(text)


def ratios(times: list[float], to: list[float]) -> list[float]:
    """Those of every round."""
    return [a / b for a, b in zip(times, to, strict=True)]


def surroundings() -> dict[str, Any]:
    """When, where and with what: the load tells who else was at work."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")},
    }


def table(rows: Rows) -> str:
    """A Markdown table: a column a key, a line a row."""

    def cell(value):
        if value is None:
            return "does not fit"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [[name.replace("_", " ") for name in rows[0]], ["---"] * len(rows[0])]
    lines += [[cell(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
