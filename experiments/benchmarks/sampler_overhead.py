"""How much time the sampler takes beside the network: `sample` against the network's calls alone.

    python experiments/benchmarks/sampler_overhead.py [--steps 50] [--batch 64] [--out FILE.json]

Both are one jitted scan over the same noise levels with the same guided digits network; the second
does nothing with each ε̂ but carry it to the next call. They are timed in turn, and the figure is
the median of the ratios, so that a machine whose speed drifts does not decide it.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import cfg_jax
from cfg_jax import guidance, schedules, solvers
from cfg_jax.models import UNet

SHAPE, NULL = (8, 8, 1), 10
SCHEDULE = schedules.Cosine()
SOLVERS = {"ancestral": solvers.Ancestral(v=0.3), "ddim": solvers.DDIM()}


def random_params(network: UNet):
    """Small random values everywhere: the time does not depend on them, if all are finite."""
    labels = jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *SHAPE)), 0.0, labels)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.02, s.dtype), shapes)


def network_alone(denoiser, z, labels, levels):
    """The same number of calls, each fed the one before."""

    def body(z, logsnr):
        return denoiser(z, logsnr, labels), None

    return jax.lax.scan(body, z, levels)[0]


def seconds(run) -> float:
    """The time of one call, to its end on the device."""
    started = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - started


def measure(steps: int, batch: int, repeats: int) -> dict:
    """The medians of both, and of their ratio, for every solver."""
    network = UNet(
        channels=32,
        channel_mult=(1, 2),
        blocks=1,
        attention_resolutions=(4,),
        head_channels=32,
        num_classes=NULL,
    )
    eps = jax.tree_util.Partial(network.apply, random_params(network))
    guided = guidance.classifier_free(eps, w=1.0, null=NULL)
    labels, key = jnp.arange(batch) % NULL, jax.random.key(0)
    z = jax.random.normal(key, (batch, *SHAPE))
    levels = jnp.asarray(SCHEDULE.grid(steps)[:-1], jnp.float32)
    alone = jax.jit(network_alone)
    results = {}
    for name, solver in SOLVERS.items():

        def sampled(solver=solver):
            return cfg_jax.sample(
                guided, key, labels, shape=SHAPE, schedule=SCHEDULE, solver=solver, steps=steps
            )

        runs = (sampled, lambda: alone(guided, z, labels, levels))
        for run in runs:
            seconds(run)  # compiles
        pairs = [[seconds(run) for run in runs] for _ in range(repeats)]
        whole, inside = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        results[name] = {
            "sample_seconds": whole,
            "network_seconds": inside,
            "overhead": ratio - 1.0,
        }
    return results


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report = {
        "steps": arguments.steps,
        "batch": arguments.batch,
        "device": str(jax.devices()[0]),
        "machine": platform.processor() or platform.machine(),
        "jax": jax.__version__,
        "solvers": measure(arguments.steps, arguments.batch, arguments.repeats),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
