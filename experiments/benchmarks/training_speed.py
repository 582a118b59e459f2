"""How fast training is: the network against others of its shape, and the loop around it.

    python experiments/benchmarks/training_speed.py [--config configs/folder.py] [--batch 32]
        [--guided-diffusion DIR] [--compiled] [--hackable-diffusion DIR]
        [--loop-config configs/digits.py] [--out FILE.json]

Three parts, each a row of the report:

- **network**: images a second of the forward pass and of the whole training step (the true one:
  drawing λ and ε, the gradient, Adam, the moving average), beside the same network with Flax's own
  group normalisation, and, where DIR is a checkout of it, OpenAI's guided-diffusion U-Net in torch
  (https://github.com/openai/guided-diffusion; needs the `benchmark` extra), eager and, with
  --compiled, under torch.compile; and hackable_diffusion's in Flax
  (https://github.com/google/hackable_diffusion; needs einops and typeguard). Their steps are the
  network's gradient, clipping and Adam. All networks in JAX have their batch split over all
  devices, on a CPU as many as there are cores; ours runs on one device as well. They take turns, so
  that a machine whose speed drifts favours none; ratios are medians over the turns. Of the networks
  in JAX the parameters and operations are counted. Beside them the devices' own rate of matrix
  products in the same dtype, and what fraction of it the network reaches.
- **loop**: a real run of --loop-config in a temporary directory: the shares of its time that waited
  for data and for checkpoints.
- **compile**: how long the first step of a new process takes, without and with a compilation cache.

Expected on two CPU cores, before measuring: with two devices 1.3 times as fast as with one, where
XLA computes small convolutions on one core; forward 1.1 times torch eager, training 0.8 of it; data
below 2 %, checkpoints below 1 %; the cache saves four fifths of compiling.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm
from training_others import Contestant, Turn, guided_diffusion, hackable_diffusion, parameters

import cfg_jax
from cfg_jax.cli import recipes
from cfg_jax.data.dataset import LABEL
from cfg_jax.nn.fields import DTYPES
from cfg_jax.parts import Facts
from cfg_jax.planning import flops
from cfg_jax.runtime import mesh as meshes
from cfg_jax.training import metrics
from cfg_jax.training.program import build


class PlainGroupNorm(nn.Module):
    """Group normalisation as Flax has it, the scale and shift applied after."""

    epsilon: float = 1e-5
    dtype: str = "float32"
    groups: int = 32

    @nn.compact
    def __call__(self, x, scale=None, shift=None):
        """Normalises x."""
        groups = int(np.gcd(self.groups, x.shape[-1]))
        h = nn.GroupNorm(groups, epsilon=self.epsilon, dtype=self.dtype)(x)
        if scale is None:
            return h
        return (h * (1 + scale[:, None, None]) + shift[:, None, None]).astype(self.dtype)


def ours(config: ConfigDict, facts: Facts, mesh: Mesh) -> Contestant:
    """The forward pass and the training step of a config's network, the batch split over a mesh."""
    program = build(config, facts, mesh)
    batch, classes = config.train.batch_size, len(facts.class_names)
    rng = np.random.default_rng(0)
    examples = {
        "x": rng.integers(0, 256, (batch, *facts.shape), dtype=np.uint8),
        "label": rng.integers(0, classes, batch).astype(np.int32),
        "replaced": np.zeros(batch, np.int32),
    }
    examples = meshes.global_batch(examples, mesh)
    frozen = jax.device_put(program.frozen, meshes.replicated(mesh))
    carried = [program.start()]
    params = jax.tree.map(jnp.copy, carried[0].params)
    z = jax.random.normal(jax.random.key(1), (batch, *facts.shape))
    z, logsnr = jax.device_put((z, jnp.zeros(batch)), meshes.split(mesh))
    given = (params, z, logsnr, {"label": examples["label"]})
    apply = jax.jit(program.blueprint.network.apply)

    def train():
        carried[0], measured = program.step(carried[0], frozen, examples)
        return jax.block_until_ready(measured.loss)

    return Contestant(
        forward=lambda: jax.block_until_ready(apply(*given)),
        training=train,
        parameters=parameters(params),
        flops=flops.count(apply.trace(*given).jaxpr) / batch,
    )


def seconds(turn: Turn) -> float:
    """How long one turn takes."""
    started = time.perf_counter()
    turn()
    return time.perf_counter() - started


def take_turns(contestants: dict[str, Contestant], repeats: int, batch: int) -> dict:
    """Sizes, images a second, and the median over the turns of each one's rate over the first's."""
    found: dict = {
        name: {"parameters": one.parameters, "forward_flops_per_image": one.flops}
        for name, one in contestants.items()
    }
    for task in ("forward", "training"):
        for one in contestants.values():
            getattr(one, task)()  # compiles
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in tqdm(range(repeats), desc=task):
            for name, one in contestants.items():
                times[name].append(seconds(getattr(one, task)))
        first = next(iter(times.values()))
        for name, taken in times.items():
            found[name][f"{task}_images_per_second"] = batch / statistics.median(taken)
            found[name][f"{task}_of_first"] = statistics.median(
                mine / its for mine, its in zip(first, taken, strict=True)
            )
    return found


def contestants(config: ConfigDict, facts: Facts, arguments: argparse.Namespace) -> dict:
    """All that take turns, by their names."""
    every = meshes.fitting(arguments.batch)
    found = {
        "cfg_jax": ours(config, facts, every),
        "cfg_jax, one device": ours(config, facts, meshes.device_mesh(devices=jax.devices()[:1])),
    }
    with contextlib.ExitStack() as patched:
        for module in ("nn.attention", "networks.blocks", "networks.unet"):
            patched.enter_context(mock.patch(f"cfg_jax.{module}.GroupNorm", PlainGroupNorm))
        plain = ours(config, facts, every)
        plain.forward(), plain.training()  # traced while the other normalisation is in place
    found["plain Flax"] = plain
    if arguments.hackable_diffusion:
        found["hackable_diffusion"] = hackable_diffusion(
            arguments.hackable_diffusion, config, facts, every
        )
    if arguments.guided_diffusion:
        for compiled in (False, True) if arguments.compiled else (False,):
            found[f"torch {'compiled' if compiled else 'eager'}"] = guided_diffusion(
                arguments.guided_diffusion, config, facts, compiled
            )
    return found


def network_report(config: ConfigDict, arguments: argparse.Namespace) -> dict:
    """The first part."""
    shape = (arguments.size, arguments.size, arguments.channels)
    facts = Facts(shape, tuple(map(str, range(arguments.classes))), LABEL)
    config.train.batch_size = arguments.batch
    found = take_turns(contestants(config, facts, arguments), arguments.repeats, arguments.batch)
    apart = 1 if jax.default_backend() == "cpu" else jax.device_count()
    rate = apart * flops.matmul_rate(arguments.dtype)  # a processor's devices share its cores
    mine = found["cfg_jax"]
    of_matmul = mine["forward_flops_per_image"] / rate
    return {
        "batch": arguments.batch,
        "size": arguments.size,
        "dtype": arguments.dtype,
        "devices": meshes.fitting(arguments.batch).size,
        "matmul_flops_per_second": rate,
        "forward_of_matmul": of_matmul * mine["forward_images_per_second"],
        "training_of_matmul": 3 * of_matmul * mine["training_images_per_second"],
        "contestants": found,
    }


def run_training(config: Path, workdir: Path, steps: int, **environment: str) -> dict[str, float]:
    """Trains in a process of its own; where its time went, in seconds."""
    command = [sys.executable, "-m", "cfg_jax", "train", "--config", config, "--workdir", workdir]
    extra = [f"--config.train.steps={steps}", "--config.train.sample_every=0"]
    subprocess.run([*map(str, command), *extra], check=True, env={**os.environ, **environment})
    return metrics.read(workdir / "metrics.jsonl")[-1]["seconds"]


def loop_report(config: Path, steps: int) -> dict:
    """The second part: shares of the time after compiling."""
    with tempfile.TemporaryDirectory() as folder:
        spent = run_training(config, Path(folder) / "run", steps)
    running = spent["data"] + spent["step"] + spent["checkpoint"]
    return {
        "config": str(config),
        "steps": steps,
        "seconds": spent,
        "data_share": spent["data"] / running,
        "checkpoint_share": spent["checkpoint"] / running,
    }


def compile_report(config: Path) -> dict:
    """The third part: the first step's seconds without, while filling, and with a cache."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        for name, environment in {"without": {}, "filling": cache, "with": cache}.items():
            spent = run_training(config, Path(folder) / name, 1, **environment)
            found[f"{name}_cache_seconds"] = spent["compile"]
    return found


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/folder.py"))
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--guided-diffusion", type=Path, help="a checkout of guided-diffusion")
    parser.add_argument("--compiled", action="store_true", help="torch.compile as well")
    parser.add_argument("--hackable-diffusion", type=Path, help="a checkout of hackable_diffusion")
    parser.add_argument("--loop-config", type=Path, default=Path("configs/digits.py"))
    parser.add_argument("--loop-steps", type=int, default=1_000)
    parser.add_argument("--only", choices=("network", "loop", "compile"), help="one part alone")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    cfg_jax.use_cores()
    try:
        config = recipes.read(str(arguments.config))
    except ValueError as error:
        parser.error(str(error))
    config.network.dtype = arguments.dtype
    parts = {
        "network": lambda: network_report(config, arguments),
        "loop": lambda: loop_report(arguments.loop_config, arguments.loop_steps),
        "compile": lambda: compile_report(arguments.loop_config),
    }
    report = {
        "config": str(arguments.config),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "date": time.strftime("%Y-%m-%d"),
        **{name: part() for name, part in parts.items() if arguments.only in (None, name)},
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
