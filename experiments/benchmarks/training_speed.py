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
  network's gradient, clipping and Adam. They take turns, so that a machine whose speed drifts
  favours none; ratios are medians over the turns. Of the networks in JAX the parameters and
  operations are counted. Beside them the device's own rate of matrix products in the same dtype,
  and what fraction of it the network reaches.
- **loop**: a real run of --loop-config in a temporary directory: the shares of its time that waited
  for data and for checkpoints.
- **compile**: how long the first step of a new process takes, without and with a compilation cache.

Expected on two CPU cores, before measuring: forward level with torch eager, training at 0.6 of it
(XLA's gradients of convolutions reach 80 to 90 GFLOP/s there, torch's 150); data below 2 %,
checkpoints below 1 %; the cache saves four fifths of compiling.
"""

import argparse
import functools
import json
import os
import platform
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from cfg_jax.planning import flops
from cfg_jax.runtime import mesh as meshes
from cfg_jax.training import config as recipe
from cfg_jax.training import metrics
from cfg_jax.training.program import build

Turn = Callable[[], object]


class Contestant(NamedTuple):
    """What a network does when it is its turn, and its size.

    Attributes:
      forward: One forward pass over a batch.
      training: One training step.
      parameters: The number of its parameters.
      flops: Operations of the forward pass of one image, in convolutions and matrix products; None
        for those in torch.
    """

    forward: Turn
    training: Turn
    parameters: int
    flops: float | None


class PlainGroupNorm(nn.Module):
    """Group normalisation as Flax has it, the scale and shift applied after."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, scale=None, shift=None):
        """Normalises x."""
        h = nn.GroupNorm(int(np.gcd(32, x.shape[-1])), dtype=self.dtype)(x)
        if scale is None:
            return h
        return (h * (1 + scale[:, None, None]) + shift[:, None, None]).astype(self.dtype)


def ours(config, shape, classes: int, batch: int) -> Contestant:
    """The forward pass and the training step of a config's network."""
    program = build(config, shape, classes, meshes.device_mesh())
    rng = np.random.default_rng(0)
    images = {
        "image": rng.integers(0, 256, (batch, *shape), dtype=np.uint8),
        "label": rng.integers(0, classes, batch).astype(np.int32),
        "replaced": np.zeros(batch, np.int32),
    }
    images = meshes.global_batch(images, program.mesh)
    carried = [program.start()]
    params = jax.tree.map(jnp.copy, carried[0].params)
    z = jax.random.normal(jax.random.key(1), (batch, *shape))
    given = (params, z, jnp.zeros(batch), images["label"])
    apply = jax.jit(program.network.apply)

    def train():
        carried[0], measured = program.step(carried[0], images)
        return jax.block_until_ready(measured.loss)

    return Contestant(
        forward=lambda: jax.block_until_ready(apply(*given)),
        training=train,
        parameters=_parameters(params),
        flops=flops.count(apply.trace(*given).jaxpr) / batch,
    )


def _parameters(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def guided_diffusion(
    folder: Path, config, shape, classes: int, batch: int, compiled: bool
) -> Contestant:
    """The same of guided-diffusion's U-Net, in torch on the CPU or GPU that JAX has."""
    import torch

    sys.path.insert(0, str(folder))
    from guided_diffusion.unet import UNetModel

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    dtype = torch.bfloat16 if config.model.dtype == "bfloat16" else torch.float32
    model = config.model
    network = UNetModel(
        image_size=shape[0],
        in_channels=shape[2],
        model_channels=model.channels,
        out_channels=shape[2],
        num_res_blocks=model.blocks,
        attention_resolutions=tuple(shape[0] // size for size in model.attention_resolutions),
        channel_mult=tuple(model.channel_mult),
        num_classes=classes,
        num_head_channels=model.head_channels,
        use_scale_shift_norm=True,
        resblock_updown=True,
    ).to(device)
    run = torch.compile(network) if compiled else network
    adam = torch.optim.Adam(network.parameters(), lr=1e-4)
    z = torch.randn(batch, shape[2], *shape[:2], device=device)
    t = torch.randint(0, 1000, (batch,), device=device)
    label = torch.randint(0, classes, (batch,), device=device)

    def call():
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return run(z, t, y=label)

    def forward():
        with torch.no_grad():
            return float(call().float().sum())

    def train():
        loss = ((call().float() - z) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        return float(loss)

    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Contestant(forward, train, parameters, flops=None)


def _hackable_network(hd, config, shape, classes: int) -> nn.Module:
    """Our network as hackable_diffusion builds it."""
    part, model, width = hd.architecture, config.model, 4 * config.model.channels
    sizes = [shape[0] >> level for level in range(len(model.channel_mult))]
    adaptive = part.ConditioningMechanism.ADAPTIVE_NORM
    return hd.diffusion_network.DiffusionNetwork(
        prediction_type="epsilon",
        conditioning_encoder=part.ConditioningEncoder(
            time_embedder=part.SinusoidalTimeEmbedder("silu", model.channels, width),
            conditioning_embedders={"label": part.LabelEmbedder(classes, width)},
            embedding_merging_method=part.EmbeddingMergeMethod.SUM,
            conditioning_rules={"time": adaptive, "label": adaptive},
        ),
        backbone_network=part.Unet(
            base_channels=model.channels,
            channels_multiplier=tuple(model.channel_mult),
            num_residual_blocks=(model.blocks,) * len(sizes),
            downsample_method=part.DownsampleType.AVG_POOL,
            upsample_method=part.UpsampleType.NEAREST,
            dropout_rate=(model.dropout,) * len(sizes),
            bottleneck_dropout_rate=model.dropout,
            self_attention_bool=tuple(size in model.attention_resolutions for size in sizes),
            cross_attention_bool=(False,) * len(sizes),
            attention_num_heads=-1,
            attention_head_dim=model.head_channels,
            attention_normalize_qk=False,
            attention_use_rope=False,
            attention_rope_position_type=part.RoPEPositionType.SQUARE,
            normalization_type=part.NormalizationType.GROUP_NORM,
            normalization_num_groups=32,
            activation="silu",
            skip_connection_method=part.SkipConnectionMethod.UNNORMALIZED_ADD,
            dtype=recipe.DTYPES[model.dtype],
        ),
    )


def hackable_diffusion(folder: Path, config, shape, classes: int, batch: int) -> Contestant:
    """The same of hackable_diffusion's U-Net, in Flax."""
    sys.path.insert(0, str(folder))
    from hackable_diffusion import hd

    network = _hackable_network(hd, config, shape, classes)
    z = jax.random.normal(jax.random.key(1), (batch, *shape))
    cond = {"label": jnp.arange(batch) % classes}
    params = network.init(jax.random.key(0), jnp.zeros(batch), z, cond, is_training=False)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-4))
    carried = [(jax.tree.map(jnp.copy, params), adam.init(params), jax.random.key(2))]

    def call(params, z, train, **rngs):
        out = network.apply(params, jnp.zeros(batch), z, cond, is_training=train, rngs=rngs)
        return out["epsilon"]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry, z):
        params, state, key = carry
        key, dropout = jax.random.split(key)
        loss, gradient = jax.value_and_grad(
            lambda params: jnp.square(call(params, z, train=True, dropout=dropout) - z).mean()
        )(params)
        updates, state = adam.update(gradient, state)
        return (optax.apply_updates(params, updates), state, key), loss

    apply = jax.jit(functools.partial(call, train=False))

    def train():
        carried[0], loss = step(carried[0], z)
        return float(loss)

    return Contestant(
        forward=lambda: jax.block_until_ready(apply(params, z)),
        training=train,
        parameters=_parameters(params),
        flops=flops.count(apply.trace(params, z).jaxpr) / batch,
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


def network_report(config, arguments) -> dict:
    """The first part."""
    shape, classes = (arguments.size, arguments.size, arguments.channels), arguments.classes
    config.train.batch_size = arguments.batch
    contestants = {"cfg_jax": ours(config, shape, classes, arguments.batch)}
    with (
        mock.patch("cfg_jax.networks.blocks.GroupNorm", PlainGroupNorm),
        mock.patch("cfg_jax.nn.layers.GroupNorm", PlainGroupNorm),
        mock.patch("cfg_jax.networks.unet.GroupNorm", PlainGroupNorm),
    ):
        plain = ours(config, shape, classes, arguments.batch)
        plain.forward(), plain.training()  # traced while the other normalisation is in place
    contestants["plain Flax"] = plain
    if arguments.hackable_diffusion:
        contestants["hackable_diffusion"] = hackable_diffusion(
            arguments.hackable_diffusion, config, shape, classes, arguments.batch
        )
    if arguments.guided_diffusion:
        for compiled in (False, True) if arguments.compiled else (False,):
            name = f"torch {'compiled' if compiled else 'eager'}"
            contestants[name] = guided_diffusion(
                arguments.guided_diffusion, config, shape, classes, arguments.batch, compiled
            )
    found = take_turns(contestants, arguments.repeats, arguments.batch)
    rate = flops.matmul_rate(recipe.DTYPES[arguments.dtype])
    mine = found["cfg_jax"]
    of_matmul = mine["forward_flops_per_image"] / rate
    return {
        "batch": arguments.batch,
        "size": arguments.size,
        "dtype": arguments.dtype,
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
    parser.add_argument("--guided-diffusion", type=Path, help="a checkout of guided-diffusion")
    parser.add_argument("--compiled", action="store_true", help="torch.compile as well")
    parser.add_argument("--hackable-diffusion", type=Path, help="a checkout of hackable_diffusion")
    parser.add_argument("--loop-config", type=Path, default=Path("configs/digits.py"))
    parser.add_argument("--loop-steps", type=int, default=1_000)
    parser.add_argument("--only", choices=("network", "loop", "compile"), help="one part alone")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    config = runpy.run_path(str(arguments.config))["get_config"]()
    config.model.dtype = arguments.dtype
    parts = {
        "network": lambda: network_report(config, arguments),
        "loop": lambda: loop_report(arguments.loop_config, arguments.loop_steps),
        "compile": lambda: compile_report(arguments.loop_config),
    }
    report = {
        "config": str(arguments.config),
        "device": jax.devices()[0].device_kind,
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
