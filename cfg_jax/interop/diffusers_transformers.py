"""Reads weights of diffusers' transformers: DiT, Stable Diffusion 3, and its spatial transformer.

The networks are those of Peebles & Xie 2023 and Esser et al. 2024, ours with diffusers' time steps.
Only names and layouts differ: dense kernels are (out, in) there and (in, out) here, that of the
patches is a convolution's, and the last modulations of Stable Diffusion 3 hold scale, then shift.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cfg_jax.diffusion.schedules import LinearBeta
from cfg_jax.networks import DiT, MMDiT
from cfg_jax.nn import FlowTimeFeatures, TimestepFeatures
from cfg_jax.parts import Classes, Sequence, Vector
from cfg_jax.runtime.tensors import LEAVES, Path, check_shapes, require

SD3_LENGTH = 77 + 256
"""Vectors in the context of Stable Diffusion 3: CLIP's, then T5's."""


def network(config: Mapping[str, Any], length: int = SD3_LENGTH) -> DiT | MMDiT:
    """The network that a folder's config.json describes.

    A DiT takes the entry `label`, the null among its classes; Stable Diffusion 3 takes `text` and
    `pooled`. diffusers' DiT divides frequencies of the time step by 127 and has an epsilon of 1e-5
    in some of its norms where the published network has 128 and 1e-6; ours is the published one.

    Args:
      config: What the file holds.
      length: Vectors in the context of Stable Diffusion 3.

    Raises:
      ValueError: It is of another class, or describes what our networks cannot do.
    """
    kind = config.get("_class_name")
    if kind not in NETWORKS:
        raise ValueError(f"_class_name must be one of {', '.join(NETWORKS)}, got {kind!r}")
    try:
        return NETWORKS[kind](config, length)
    except KeyError as missing:
        raise ValueError(f"the config of a {kind} must have {missing}") from None


def _dit(config: Mapping[str, Any], length: int) -> DiT:
    require(config, "norm_type", "ada_norm_zero")
    require(config, "activation_fn", "gelu-approximate")
    require(config, "attention_bias", True)
    require(config, "norm_elementwise_affine", False)
    channels, outputs = config["in_channels"], config.get("out_channels")
    if outputs not in (None, channels, 2 * channels):
        raise ValueError(f"out_channels must be {channels} or {2 * channels}, got {outputs!r}")
    return DiT(
        **_size(config),
        dropout=config.get("dropout", 0.0),
        inlets=(("label", Classes(config["num_embeds_ada_norm"] + 1)),),
        learned_variance=outputs == 2 * channels,
        level_features=TimestepFeatures(schedule=LinearBeta(steps=1000)),
    )


def _mmdit(config: Mapping[str, Any], length: int) -> MMDiT:
    size = _size(config)
    require(config, "caption_projection_dim", size["width"])
    require(config, "out_channels", config["in_channels"])
    dual = tuple(config.get("dual_attention_layers", ()))
    require({"dual_attention_layers": dual}, "dual_attention_layers", tuple(range(len(dual))))
    norm = config.get("qk_norm")
    if norm is not None:
        require(config, "qk_norm", "rms_norm")
    return MMDiT(
        **size,
        grid=config["pos_embed_max_size"],
        qk_norm=norm is not None,
        dual_blocks=len(dual),
        inlets=(
            ("text", Sequence(length, config["joint_attention_dim"])),
            ("pooled", Vector(config["pooled_projection_dim"])),
        ),
        level_features=FlowTimeFeatures(),
    )


NETWORKS: dict[Any, Callable[[Mapping[str, Any], int], DiT | MMDiT]] = {
    "DiTTransformer2DModel": _dit,
    "SD3Transformer2DModel": _mmdit,
}
"""The networks by diffusers' names of their classes."""


def _size(config: Mapping[str, Any]) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    return {
        "patch": config["patch_size"],
        "width": heads * config["attention_head_dim"],
        "depth": config["num_layers"],
        "heads": heads,
    }


def parameters(
    tensors: Mapping[str, np.ndarray], network: DiT | MMDiT, channels: int
) -> dict[str, Any]:
    """A network's variables from a state dictionary of diffusers.

    Args:
      tensors: Arrays by the names of diffusers' modules.
      network: What network they are of, see `network`.
      channels: Channels of z.

    Returns:
      {"params": ...} of float32, as the network's `apply` takes them.

    Raises:
      ValueError: They are of another network: tensors are missing, unexpected or of other shapes.
    """
    shapes = network.shapes((network.patch, network.patch, channels))
    if isinstance(network, DiT):
        return filled(_with_one_embedding(tensors), shapes, _dit_modules(network), network.patch)
    swapped = {"output_modulation.dense", f"block{network.depth - 1}.context_modulation.dense"}
    return filled(tensors, shapes, _mmdit_modules(network), network.patch, swapped)


def filled(
    tensors: Mapping[str, np.ndarray],
    shapes: Any,
    modules: Mapping[str, str],
    patch: int = 1,
    swapped: Collection[str] = (),
) -> dict[str, Any]:
    """Variables with the values of a state dictionary.

    Args:
      tensors: Arrays by their names.
      shapes: {"params": ...}, the shapes of the variables.
      modules: Their names of our modules, whose paths are joined by dots.
      patch: The side of the patches.
      swapped: Our modules whose two vectors are the other way round there.

    Raises:
      ValueError: Tensors are missing, unexpected or of other shapes.
    """
    ours = traverse_util.flatten_dict(shapes["params"])
    wanted = {_their_name(path, modules): path for path in ours}
    given = {name: _without_window(np.asarray(tensor)) for name, tensor in tensors.items()}
    check_shapes(
        {name: tensor.shape for name, tensor in given.items()},
        {name: _their_shape(path, ours[path].shape, patch) for name, path in wanted.items()},
    )
    values = {}
    for name, path in wanted.items():
        value = _our_layout(path, given[name]).reshape(ours[path].shape)
        if ".".join(path[:-1]) in swapped:
            value = np.roll(value, value.shape[-1] // 2, axis=-1)
        values[path] = jnp.asarray(value, jnp.float32)
    return {"params": traverse_util.unflatten_dict(values)}


def _their_name(path: Path, modules: Mapping[str, str]) -> str:
    *inner, leaf = path
    if leaf == "positions":
        return "pos_embed.pos_embed"
    return f"{modules['.'.join(inner)]}.{LEAVES[leaf]}"


def _their_shape(path: Path, shape: tuple[int, ...], patch: int) -> tuple[int, ...]:
    if path == ("positions",):
        return 1, shape[0] * shape[1], shape[2]
    if path == ("input", "kernel") and patch > 1:
        return shape[1], shape[0] // patch**2, patch, patch
    return shape[::-1] if path[-1] == "kernel" else shape


def _without_window(tensor: np.ndarray) -> np.ndarray:
    """A convolution's kernel of size 1 as that of a dense layer."""
    return tensor[..., 0, 0] if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def _our_layout(path: Path, tensor: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return tensor
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def _attention(ours: str, theirs: str, added: str = "") -> dict[str, str]:
    """Names of the projections of attention; `added` for those of the context."""
    names = {
        f"{ours}.{part}": f"{theirs}.add_{part[0]}_proj" if added else f"{theirs}.to_{part[0]}"
        for part in ("query", "key", "value")
    }
    norms = {f"{ours}.{part}_norm": f"{theirs}.norm_{added}{part[0]}" for part in ("query", "key")}
    return names | norms


def _forward(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.hidden": f"{theirs}.net.0.proj", f"{ours}.output": f"{theirs}.net.2"}


def _blocks(names: Mapping[str, str], count: int) -> dict[str, str]:
    return {
        f"block{i}.{ours}": f"transformer_blocks.{i}.{theirs}"
        for i in range(count)
        for ours, theirs in names.items()
    }


_DIT_BLOCK = {
    "modulation.dense": "norm1.linear",
    **_attention("attention.projections", "attn1"),
    "attention.output": "attn1.to_out.0",
    **_forward("forward", "ff"),
}
_MMDIT_BLOCK = {
    "image_modulation.dense": "norm1.linear",
    "context_modulation.dense": "norm1_context.linear",
    **_attention("image_projections", "attn"),
    **_attention("context_projections", "attn", "added_"),
    "image_output": "attn.to_out.0",
    "context_output": "attn.to_add_out",
    **_attention("image_attention.projections", "attn2"),
    "image_attention.output": "attn2.to_out.0",
    **_forward("image_forward", "ff"),
    **_forward("context_forward", "ff_context"),
}
_SPATIAL_BLOCK = {
    "self_norm": "norm1",
    **_attention("self.projections", "attn1"),
    "self.output": "attn1.to_out.0",
    "cross_norm": "norm2",
    **_attention("cross.projections", "attn2"),
    "cross.output": "attn2.to_out.0",
    "forward_norm": "norm3",
    **_forward("forward", "ff"),
}


def spatial_modules(layers: int) -> dict[str, str]:
    """The names in diffusers of the modules inside a `SpatialTransformer` of so many blocks.

    >>> from cfg_jax.interop.diffusers_transformers import spatial_modules
    >>> spatial_modules(2)["block1.cross.projections.key"]
    'transformer_blocks.1.attn2.to_k'
    """
    ends = {"norm": "norm", "input": "proj_in", "output": "proj_out"}
    return ends | _blocks(_SPATIAL_BLOCK, layers)


_EMBEDDINGS = "transformer_blocks.0.norm1.emb"


def _dit_modules(network: DiT) -> dict[str, str]:
    labels = {
        name: f"{_EMBEDDINGS}.class_embedder.embedding_table"
        for name, inlet in network.shown
        if isinstance(inlet, Classes)
    }
    return {
        "input": "pos_embed.proj",
        "level_0": f"{_EMBEDDINGS}.timestep_embedder.linear_1",
        "level_1": f"{_EMBEDDINGS}.timestep_embedder.linear_2",
        "output_modulation.dense": "proj_out_1",
        "output": "proj_out_2",
        **labels,
        **_blocks(_DIT_BLOCK, network.depth),
    }


def _mmdit_modules(network: MMDiT) -> dict[str, str]:
    names = {
        "input": "pos_embed.proj",
        "level_0": "time_text_embed.timestep_embedder.linear_1",
        "level_1": "time_text_embed.timestep_embedder.linear_2",
        "output_modulation.dense": "norm_out.linear",
        "output": "proj_out",
        **_blocks(_MMDIT_BLOCK, network.depth),
    }
    for name, inlet in network.shown:
        if isinstance(inlet, Sequence):
            names[f"{name}_embedding"] = "context_embedder"
        if isinstance(inlet, Vector):
            names[f"{name}_0"] = "time_text_embed.text_embedder.linear_1"
            names[f"{name}_1"] = "time_text_embed.text_embedder.linear_2"
    return names


def _with_one_embedding(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors without the copies of the embeddings that every block but the first keeps.

    Raises:
      ValueError: One is no copy.
    """
    kept = dict(tensors)
    for name, tensor in tensors.items():
        copy = re.fullmatch(r"transformer_blocks\.[1-9]\d*\.norm1\.emb\.(.+)", name)
        if copy and f"{_EMBEDDINGS}.{copy[1]}" in tensors:
            if not np.array_equal(tensor, tensors[f"{_EMBEDDINGS}.{copy[1]}"]):
                raise ValueError(f"{name} differs from the first block's: blocks share one")
            del kept[name]
    return kept
