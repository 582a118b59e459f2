r"""What the reverse process costs: beside its network, by guidance, by interval, and to compile.

    python experiments/benchmarks/sampling_speed.py [--only SECTION ...] [--out NAME]
    XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 python experiments/benchmarks/sampling_speed.py \
        --network adm64 --dtype bfloat16 --steps 5 --batch 256 --out NAME      (on a GPU)

The networks have the shapes of configs/ and small random parameters, on which time does not
depend. What is compared runs in turn within one process, and a ratio is the median of the ratios of
every turn: a machine whose speed drifts does not decide it. Where other processes share a CPU,
`--clock processor` counts the processors' time that this one took in place of the time that passed:
its ratios stand, though it sees no difference between one thread and several, and its rates are
those of a processor's second. `--out NAME` writes NAME.json and NAME.md after every section.

The sections, each with what was expected of it before it was measured:

overhead    `sample` against the same number of calls of the guided network, each fed the one
            before. Expected: at most 2 % with the default solver, ancestral and DDIM.
methods     Evaluations an image, counted as they run, and images a second by guidance. Expected,
            of the time of `classifier_free`: 0.5 unguided and with a classifier, 1.5 with an energy
            (an evaluation and its transpose), 0.75 with an interval of half the steps, 2 composed
            of two conditions more, 1 with every other method.
interval    The same by the share of steps inside the interval. Expected: (1 + share) / 2.
compile     Time to compile the default sampler, and bytes of its arguments, result and temporaries.
            Expected, from 10 to 1,000 steps: at most 1.2 times the time (the order rises from 2 to
            3 on the way), the same bytes.
throughput  Images a second up to the largest batch that fits, and what share that is of the rate of
            matrix products in the same dtype. Expected with adm64 in bfloat16 on a GPU: a third.
"""

import argparse
import functools
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sampling_bench import (
    CLOCKS,
    NETWORKS,
    SCHEDULE,
    Bench,
    Make,
    Rows,
    bench_of,
    positive,
    ratios,
    surroundings,
    table,
    timed,
)
from sampling_throughput import by_batch
from tqdm import tqdm

import cfg_jax
from cfg_jax import grids, guidance, solvers
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.nn.fields import DTYPES
from cfg_jax.parts import Condition
from cfg_jax.runtime import files

SOLVERS = {
    "default": {},
    "ancestral": {"solver": solvers.Ancestral(v=0.3), "grid": grids.UniformU()},
    "ddim": {"solver": solvers.DDIM(), "grid": grids.UniformU()},
}
"""Each solver on its grid, as arguments of `sample`."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS_TO_COMPILE, COMPILATIONS = (10, 50, 1000), 3


@jax.jit
def network_alone(denoiser: Denoiser, z, cond, levels):
    """A call at each level, each fed the one before."""

    def body(z, logsnr):
        return denoiser(z, logsnr, cond), None

    return jax.lax.scan(body, z, levels)[0]


def overhead(bench: Bench) -> Rows:
    """The sampler's own time, in percent of the network's: the median, and the middle half."""
    guided = bench.guided()
    z = jax.random.normal(bench.key, (bench.batch, *bench.shape))
    levels = jnp.asarray(SCHEDULE.grid(bench.steps)[:-1], jnp.float32)
    runs = {name: bench.sampler(guided, **named) for name, named in SOLVERS.items()}
    runs["network"] = functools.partial(network_alone, guided, z, bench.cond, levels)
    times = timed("overhead", runs, rounds=3 * bench.rounds, clock=bench.clock)
    rows = []
    for name in SOLVERS:
        percent = [100.0 * (r - 1.0) for r in ratios(times[name], times["network"])]
        low, middle, high = np.quantile(percent, (0.25, 0.5, 0.75)).tolist()
        rows.append(
            {
                "solver": name,
                "overhead_percent": middle,
                "from": low,
                "to": high,
                "seconds": statistics.median(times[name]),
                "network_seconds": statistics.median(times["network"]),
            }
        )
    return rows


def log_prob(z, logsnr, cond):
    """A classifier that costs nothing."""
    return -0.5 * jnp.sum(jnp.square(z), axis=tuple(range(1, z.ndim)))


def loss(x, z, logsnr, cond):
    """An energy that costs nothing beside the gradient through x̂."""
    return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))


def limited(guided: guidance.ClassifierFree, share: float, steps: int) -> Denoiser:
    """Guidance in a share of the steps of the grid uniform in u, those in the middle."""
    inside = round(share * steps)
    if not inside:
        return guided.unguided
    first = (steps - inside) // 2
    bounds = [*SCHEDULE.grid(steps)[:-1].tolist(), math.inf]
    return guidance.interval(guided, low=bounds[first], high=bounds[first + inside])


def methods(cond: Condition, null: Condition, steps: int) -> dict[str, Make]:
    """Every guidance, made of a network and of a weak one, which only `autoguidance` asks."""
    away, other = ({"label": jnp.roll(cond["label"], by)} for by in (1, 2))

    def free(network, weak):
        return guidance.classifier_free(network, w=1.0, null=null)

    def composed(network, weak):
        return guidance.composed(network, conds=[away, other], ws=[1.0, 1.0], null=null)

    return {
        "unguided": lambda network, weak: network,
        "classifier_free": free,
        "negative": lambda network, weak: guidance.negative(network, w=1.0, cond=away),
        "composed": composed,
        "scheduled": lambda network, weak: guidance.scheduled(network, w=jax.nn.sigmoid, null=null),
        "interval": lambda network, weak: limited(free(network, weak), 0.5, steps),
        "classifier": lambda network, weak: guidance.classifier(network, log_prob, w=1.0),
        "energy": lambda network, weak: guidance.energy(network, loss, w=1.0),
        "autoguidance": lambda network, weak: guidance.autoguidance(network, weak, w=1.0),
        "rescaled": lambda network, weak: guidance.rescaled(network, w=1.0, null=null, phi=0.7),
        "projected": lambda network, weak: guidance.projected(network, w=1.0, null=null),
        "plus_plus": lambda network, weak: guidance.plus_plus(network, w=-0.5, null=null),
        "zero_star": lambda network, weak: guidance.zero_star(network, w=1.0, null=null),
    }


def evaluations(make: Make, bench: Bench) -> dict[str, float]:
    """Evaluations of the network, and of its transpose, an image: counted as `sample` runs."""
    calls: list[tuple[str, int]] = []

    def note(kind, batch):
        jax.debug.callback(lambda: calls.append((kind, batch)))

    @jax.custom_vjp
    def halved(z):
        note("evaluations", len(z))
        return 0.5 * z

    def transposed(_, gradient):
        note("transposes", len(gradient))
        return (0.5 * gradient,)

    halved.defvjp(lambda z: (halved(z), None), transposed)

    def network(z, logsnr, cond):
        return halved(z)

    bench.sampler(make(network, network), **SOLVERS["ddim"])()
    jax.effects_barrier()
    counted: Counter[str] = Counter()
    for kind, batch in calls:
        counted[kind] += batch
    return {
        f"{kind}_an_image": counted[kind] / bench.batch for kind in ("evaluations", "transposes")
    }


def compared(title: str, makes: dict[str, Make], to: str, bench: Bench) -> Rows:
    """Evaluations an image, images a second, and the time relative to one of them, under DDIM.

    DDIM reads both x̂ and ε̂: nothing that a guidance computes is left out.
    """
    network, weak = bench.eps(0), bench.eps(1)
    runs = {
        name: bench.sampler(make(network, weak), **SOLVERS["ddim"]) for name, make in makes.items()
    }
    counts = {name: evaluations(make, bench) for name, make in makes.items()}
    times = timed(title, runs, rounds=bench.rounds, clock=bench.clock)
    return [
        {
            title: name,
            **counts[name],
            "images_a_second": bench.batch / statistics.median(times[name]),
            "relative_time": statistics.median(ratios(times[name], times[to])),
        }
        for name in makes
    ]


def by_method(bench: Bench) -> Rows:
    """Every guidance, relative to classifier-free guidance."""
    makes = methods(bench.cond, bench.null, bench.steps)
    return compared("method", makes, "classifier_free", bench)


def by_share(bench: Bench) -> Rows:
    """Guidance in a share of the steps, relative to guidance in all."""

    def make_for(share: float) -> Make:
        def make(network, weak):
            free = guidance.classifier_free(network, w=1.0, null=bench.null)
            return limited(free, share, bench.steps)

        return make

    return compared("share inside", {f"{n:.0%}": make_for(n) for n in SHARES}, "100%", bench)


def compiled(bench: Bench, guided: Denoiser) -> dict[str, float]:
    """What it takes to trace and compile the default sampler afresh, and the bytes that it holds.

    Both are work of the host: the processors' time is the same on a busy machine.
    """
    jax.clear_caches()

    def run(denoiser, cond):
        return cfg_jax.sample(denoiser, bench.key, cond, **bench.problem)

    started, worked = time.perf_counter(), time.process_time()
    made = jax.jit(run).lower(guided, bench.cond).compile()
    finished, done = time.perf_counter(), time.process_time()
    memory = made.memory_analysis()
    held = ("temp", "argument", "output")
    return {
        "seconds": finished - started,
        "processor_seconds": done - worked,
        "bytes": sum(getattr(memory, f"{kind}_size_in_bytes") for kind in held),
    }


def by_steps(bench: Bench, steps: tuple[int, ...] = STEPS_TO_COMPILE) -> Rows:
    """Compilation, relative to that of the fewest steps."""
    guided = bench.guided()
    compiled(bench, guided)  # the first one sets the compiler up
    turns = [
        [compiled(bench._replace(steps=n), guided) for n in steps]
        for _ in tqdm(range(COMPILATIONS), desc="compile")
    ]
    rows = []
    for n, made in zip(steps, zip(*turns, strict=True), strict=True):
        row = {"steps": n, **{k: statistics.median(m[k] for m in made) for k in made[0]}}
        for kind in ("processor_seconds", "bytes"):
            to = [turn[0][kind] for turn in turns]
            row[f"relative_{kind}"] = statistics.median(ratios([m[kind] for m in made], to))
        rows.append(row)
    return rows


SECTIONS: dict[str, Callable[[Bench], Rows]] = {
    "overhead": overhead,
    "methods": by_method,
    "interval": by_share,
    "compile": by_steps,
    "throughput": by_batch,
}
USUAL = {"digits": ["overhead", "methods", "interval", "compile"], "adm64": ["throughput"]}


def write(path: Path, text: str) -> None:
    """Replaces a file, whole."""
    with files.atomic(path) as file:
        file.write(text.encode())


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = Bench._field_defaults
    parser.add_argument("--network", choices=NETWORKS, default="digits")
    parser.add_argument("--dtype", choices=DTYPES, help="default: the recipe's own")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS)
    )
    for name, text in {
        "batch": "images a call; of throughput the first batch tried",
        "steps": "steps, which are calls of the denoiser",
        "rounds": "turns in which everything compared runs once; three times as many for overhead",
        "limit": "the largest batch that throughput tries",
    }.items():
        told = f"{text} (default {usual[name]})"
        parser.add_argument(f"--{name}", type=positive, default=usual[name], help=told)
    parser.add_argument("--clock", choices=CLOCKS, default=usual["clock"])
    parser.add_argument("--out", type=Path, metavar="NAME", help="write NAME.json and NAME.md")
    flags = parser.parse_args(argv)
    if flags.out and not flags.out.parent.is_dir():
        parser.error(f"--out: there is no folder {flags.out.parent}")
    if flags.clock == "processor" and jax.default_backend() != "cpu":
        parser.error("--clock: the processors' time is no measure of what another device does")
    return flags


def main(argv: list[str] | None = None) -> None:
    """Measures section by section, prints each one's table and writes what there is."""
    flags = parse(argv)
    jax.config.update("jax_enable_compilation_cache", False)  # what compiles is to be measured
    names = ("batch", "steps", "rounds", "limit", "clock")
    settings = {name: getattr(flags, name) for name in names}
    bench = bench_of(flags.network, flags.dtype, **settings)
    report = {"network": flags.network, "dtype": jnp.dtype(bench.network.dtype).name}
    report |= {**settings, **surroundings(), "sections": {}}
    told = []
    for name in flags.only or USUAL[flags.network]:
        started = time.perf_counter()
        rows = SECTIONS[name](bench)
        report["sections"][name] = rows
        told.append(f"{name}\n\n{table(rows)}\n")
        print(f"\n{told[-1]}\n({time.perf_counter() - started:.0f} s)\n", flush=True)
        if flags.out:
            write(flags.out.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
            write(flags.out.with_suffix(".md"), "\n".join(told))


if __name__ == "__main__":
    main()
