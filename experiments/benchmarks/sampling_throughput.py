"""Images a second up to the largest batch that fits, beside the device's rate of products."""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from sampling_bench import Bench, Rows, seconds
from tqdm import tqdm

from cfg_jax.diffusion.denoiser import Denoiser


def product_rate(dtype: Any, size: int, products: int = 16) -> float:
    """The device's FLOP/s in products of two size × size matrices, one after another."""
    scale = size**-0.5  # keeps the entries of every product about 1
    a = scale * jax.random.normal(jax.random.key(0), (size, size))

    @jax.jit
    def run(x, a):
        return jax.lax.fori_loop(0, products, lambda _, x: x @ a, x)

    matrices = (a / scale).astype(dtype), a.astype(dtype)
    times = [seconds(lambda: run(*matrices)) for _ in range(6)]
    return products * 2.0 * size**3 / statistics.median(times[1:])


def flops(bench: Bench, eps: Denoiser) -> float:
    """Those of one evaluation for one image, as XLA counts them: without those on padding."""
    z, cond = jnp.zeros((1, *bench.shape)), bench._replace(batch=1).cond
    call = jax.jit(lambda eps, z, cond: eps(z, 0.0, cond))
    return call.lower(eps, z, cond).cost_analysis()["flops"]


def largest(fits: Callable[[int], bool], *, start: int, limit: int) -> int:
    """The largest number that fits, to within a quarter: by doubling, then by halving the gap.

    Returns 0 where not even 1 fits.
    """
    good, bad, size = 0, limit + 1, min(start, limit)
    while bad - good > max(1, good // 4):
        if fits(size):
            good = size
        else:
            bad = size
        size = min(2 * good, limit) if bad > limit else (good + bad) // 2
    return good


def unless_out_of_memory(run: Callable[[], Any]) -> float | None:
    """The time of a second call, or None where the device has not enough memory for it."""
    try:
        jax.block_until_ready(run())
        return seconds(run)
    except jax.errors.JaxRuntimeError as error:
        if not any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "ut of memory")):
            raise
        return None


def by_batch(bench: Bench) -> Rows:
    """Guided images a second for every batch tried on the way to the largest that fits.

    A batch that does not fit has None. FLOPs are those of the network alone.

    Raises:
      ValueError: Not even one image fits.
    """
    guided = bench.guided()
    size = 1024 if jax.default_backend() == "cpu" else 8192
    rate = product_rate(bench.network.dtype, size)
    work = flops(bench, guided.denoiser)
    found: dict[int, float | None] = {}

    with tqdm(desc="throughput", unit="batch") as progress:

        def fits(batch):
            taken = unless_out_of_memory(bench._replace(batch=batch).sampler(guided))
            found[batch] = None if taken is None else 2 * bench.steps * batch / taken
            told = "does not fit" if taken is None else f"{batch / taken:.4g} images a second"
            progress.write(f"batch {batch}: {told}")
            progress.update()
            return taken is not None

        if not largest(fits, start=bench.batch, limit=bench.limit):
            raise ValueError("the device has not enough memory to sample one image")
    return [
        {
            "batch": batch,
            "images_a_second": calls and calls / (2 * bench.steps),
            "evaluations_a_second": calls,
            "tflops_a_second": calls and work * calls / 1e12,
            "products_tflops_a_second": rate / 1e12,
            "share_of_products": calls and work * calls / rate,
        }
        for batch, calls in sorted(found.items())
    ]
