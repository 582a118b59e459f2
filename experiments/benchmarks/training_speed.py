"""Images a second of a recipe's network, forward and in training, on whatever device is here.

    python experiments/benchmarks/unet_speed.py [--config configs/folder.py] [--size 32]

The training step is the true one: drawing λ and ε, the gradient, Adam, the moving average. Beside
the rates stands the device's own rate of matrix products in the same dtype, measured in the same
run, and what fraction of it the network reaches (FLOPs as XLA counts them).
"""

import argparse
import json
import runpy
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.training import config as recipe
from cfg_jax.training import state as states
from cfg_jax.training.step import make_step


def median_seconds(run, repeats: int) -> float:
    """The median time of a call, after one that compiles."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def matmul_flops(dtype, size: int, repeats: int) -> float:
    """The device's FLOP/s in products of two size×size matrices."""
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    return 2.0 * size**3 / median_seconds(lambda: product(a), repeats)


def measure(config, *, size: int, channels: int, classes: int, batch: int, repeats: int) -> dict:
    """Rates of the forward pass and of the training step."""
    shape = (size, size, channels)
    network, optimizer = recipe.network(config, classes), recipe.optimizer(config)
    state = jax.jit(lambda: states.init(network, optimizer, shape, 0))()
    rng = np.random.default_rng(0)
    images = {
        "image": jnp.asarray(rng.integers(0, 256, (batch, *shape), dtype=np.uint8)),
        "label": jnp.asarray(rng.integers(0, classes, batch), jnp.int32),
    }
    z = jax.random.normal(jax.random.key(1), (batch, *shape))
    arguments = (state.params, z, jnp.zeros(batch), images["label"])
    forward = jax.jit(network.apply).lower(*arguments).compile()
    flops = forward.cost_analysis()["flops"]
    forward_seconds = median_seconds(lambda: forward(*arguments), repeats)

    step = make_step(
        network, optimizer, schedule=recipe.schedule(config), p_uncond=0.1, ema=0.999, seed=0
    )
    carried = [state]

    def train():
        carried[0], metrics = step(carried[0], images)
        return metrics.loss

    train_seconds = median_seconds(train, repeats)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(carried[0].params)),
        "forward_images_per_second": batch / forward_seconds,
        "training_images_per_second": batch / train_seconds,
        "forward_flops_per_image": flops / batch,
        "forward_flops_per_second": flops / forward_seconds,
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/folder.py"))
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", choices=list(recipe.DTYPES), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    config = runpy.run_path(str(arguments.config))["get_config"]()
    config.model.dtype = arguments.dtype
    measured = measure(
        config,
        size=arguments.size,
        channels=arguments.channels,
        classes=arguments.classes,
        batch=arguments.batch,
        repeats=arguments.repeats,
    )
    on_cpu = jax.default_backend() == "cpu"
    rate = matmul_flops(recipe.DTYPES[arguments.dtype], 2048 if on_cpu else 8192, 10)
    report = {
        "config": str(arguments.config),
        "size": arguments.size,
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        **measured,
        "matmul_flops_per_second": rate,
        "forward_fraction_of_matmul": measured["forward_flops_per_second"] / rate,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
