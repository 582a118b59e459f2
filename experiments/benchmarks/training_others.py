"""What training speed is compared with: other projects' networks of the same shape."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cfg_jax.parts import Facts
from cfg_jax.planning import flops
from cfg_jax.runtime import mesh as meshes

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


def parameters(params: Any) -> int:
    """How many there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def guided_diffusion(folder: Path, config: ConfigDict, facts: Facts, compiled: bool) -> Contestant:
    """guided-diffusion's U-Net, in torch on the CPU or GPU that JAX has."""
    import torch

    sys.path.insert(0, str(folder))
    from guided_diffusion.unet import UNetModel

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    model, shape = config.network, facts.shape
    batch, classes = config.train.batch_size, len(facts.class_names)
    dtype = getattr(torch, model.dtype)
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
        return loss.item()

    count = sum(parameter.numel() for parameter in network.parameters())
    return Contestant(forward, train, count, flops=None)


def _hackable_network(hd: Any, config: ConfigDict, facts: Facts) -> nn.Module:
    """Our network as hackable_diffusion builds it."""
    part, model, width = hd.architecture, config.network, 4 * config.network.channels
    sizes = [facts.shape[0] >> level for level in range(len(model.channel_mult))]
    adaptive = part.ConditioningMechanism.ADAPTIVE_NORM
    return hd.diffusion_network.DiffusionNetwork(
        prediction_type="epsilon",
        conditioning_encoder=part.ConditioningEncoder(
            time_embedder=part.SinusoidalTimeEmbedder("silu", model.channels, width),
            conditioning_embedders={"label": part.LabelEmbedder(len(facts.class_names), width)},
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
            dtype=jnp.dtype(model.dtype),
        ),
    )


def hackable_diffusion(folder: Path, config: ConfigDict, facts: Facts, mesh: Mesh) -> Contestant:
    """hackable_diffusion's U-Net, in Flax, the batch split over a mesh."""
    sys.path.insert(0, str(folder))
    from hackable_diffusion import hd

    network = _hackable_network(hd, config, facts)
    batch, classes = config.train.batch_size, len(facts.class_names)
    z = jax.random.normal(jax.random.key(1), (batch, *facts.shape))
    given = {"z": z, "t": jnp.zeros(batch), "cond": {"label": jnp.arange(batch) % classes}}
    given = jax.device_put(given, meshes.split(mesh))
    params = network.init(jax.random.key(0), given["t"], z, given["cond"], is_training=False)
    params = jax.device_put(params, meshes.replicated(mesh))
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-4))
    carried = [(jax.tree.map(jnp.copy, params), adam.init(params), jax.random.key(2))]

    def call(params, given, train, **rngs):
        asked = (given["t"], given["z"], given["cond"])
        return network.apply(params, *asked, is_training=train, rngs=rngs)["epsilon"]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry, given):
        params, state, key = carry
        key, dropout = jax.random.split(key)
        loss, gradient = jax.value_and_grad(
            lambda params: jnp.square(
                call(params, given, train=True, dropout=dropout) - given["z"]
            ).mean()
        )(params)
        updates, state = adam.update(gradient, state)
        return (optax.apply_updates(params, updates), state, key), loss

    apply = jax.jit(functools.partial(call, train=False))

    def train():
        carried[0], loss = step(carried[0], given)
        return float(loss)

    return Contestant(
        forward=lambda: jax.block_until_ready(apply(params, given)),
        training=train,
        parameters=parameters(params),
        flops=flops.count(apply.trace(params, given).jaxpr) / batch,
    )
