"""Reads and writes diffusers' autoencoders, `AutoencoderKL` and `VQModel`.

The networks are ours; names and layouts differ: a convolution's kernel is (out, in, height, width)
there and (height, width, in, out) here, and the products that make an attention's q, k and v are
three there and one here.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cfg_jax.interop.diffusers_autoencoder_configs import Codec, Config, codec
from cfg_jax.runtime.tensors import Path, check_shapes

PARTS = {
    "input": "conv_in",
    "output_norm": "conv_norm_out",
    "output": "conv_out",
    "middle": "mid_block",
    "block": "resnets",
    "attention": "attentions",
    "quant": "quant_conv",
    "post_quant": "post_quant_conv",
}
RESIDUAL = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "conv_shortcut",
}
ATTENTION = {"GroupNorm_0": "group_norm", "Dense_0": "{qkv}", "Dense_1": "to_out.0"}
QKV = ("to_q", "to_k", "to_v")
LEVELS = {
    ("encoder", "levels"): "down_blocks.{}",
    ("decoder", "levels"): "up_blocks.{}",
    ("encoder", "downsamples"): "down_blocks.{}.downsamplers.0.conv",
    ("decoder", "upsamples"): "up_blocks.{}.upsamplers.0.conv",
}
"""Their names of our modules."""

OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What the products of attention were called before, when they were convolutions of one entry."""


class Tensor(NamedTuple):
    """One of their tensors.

    Attributes:
      path: Where it lies among our parameters.
      part: Which third of our array it is; None for all of it.
      shape: Of theirs.
    """

    path: Path
    part: int | None
    shape: tuple[int, ...]


def read(config: Config, tensors: Mapping[str, np.ndarray]) -> tuple[Codec, dict[str, Any]]:
    """An autoencoder and its variables, of a config and a state dictionary of diffusers.

    Raises:
      ValueError: As `codec` and `parameters` do.
    """
    ours = codec(config)
    return ours, parameters(tensors, ours)


def tensor_shapes(codec: Codec) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors in a file of an autoencoder.

    >>> from cfg_jax.codecs import KL
    >>> from cfg_jax.interop.diffusers_autoencoders import tensor_shapes
    >>> tensor_shapes(KL())["encoder.conv_in.weight"]
    (128, 3, 3, 3)
    """
    return {name: tensor.shape for name, tensor in _tensors(codec).items()}


def parameters(tensors: Mapping[str, np.ndarray], codec: Codec) -> dict[str, Any]:
    """An autoencoder's variables from a state dictionary.

    Args:
      tensors: Arrays by diffusers' names; attention may have its old names, and be convolutions.
      codec: The autoencoder, see `codec`.

    Returns:
      {"params": ...} of float32, as the autoencoder's `apply` takes them.

    Raises:
      ValueError: They are of another autoencoder: tensors are missing, unexpected or of other
        shapes.
    """
    given = {}
    for name, value in tensors.items():
        name = re.sub(r"(?<=\.)(query|key|value|proj_attn)(?=\.\w+$)", lambda m: OLD[m[0]], name)
        value = np.asarray(value, np.float32)
        attends = ".attentions." in name and value.ndim == 4 and value.shape[2:] == (1, 1)
        given[name] = value[..., 0, 0] if attends else value
    wanted = _tensors(codec)
    check_shapes(
        {name: value.shape for name, value in given.items()},
        {name: tensor.shape for name, tensor in wanted.items()},
    )
    parts: dict[Path, list[np.ndarray]] = {}
    for name, tensor in wanted.items():
        parts.setdefault(tensor.path, []).append(_our_layout(tensor.path, given[name]))
    ours = {path: jnp.asarray(np.concatenate(some, axis=-1)) for path, some in parts.items()}
    return {"params": traverse_util.unflatten_dict(ours)}


def tensors(variables: Mapping[str, Any], codec: Codec) -> dict[str, np.ndarray]:
    """An autoencoder's state dictionary, float32, under diffusers' new names: the way back.

    Raises:
      ValueError: The autoencoder is of videos or sounds, which diffusers' are not.
    """
    ours = traverse_util.flatten_dict(variables["params"])
    if {path: np.shape(value) for path, value in ours.items()} != _shapes(codec):
        raise ValueError("diffusers' autoencoders are of pictures, and these variables are not")
    return {
        name: _their_layout(path, _third(np.asarray(ours[path], np.float32), part))
        for name, (path, part, _) in _tensors(codec).items()
    }


def _shapes(codec: Codec) -> dict[Path, tuple[int, ...]]:
    """The shapes of our arrays, of an autoencoder of pictures."""
    shapes = codec.shapes((codec.factor, codec.factor, codec.data_channels))["params"]
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes).items()}


def _tensors(codec: Codec) -> dict[str, Tensor]:
    """By their names, in our order: q, k and v of an array one after the other."""
    found = {}
    for path, (*others, last) in _shapes(codec).items():
        name = _their_name(path)
        thirds = list(enumerate(QKV)) if "{qkv}" in name else [(None, "")]
        for part, which in thirds:
            shape = (*others, last if part is None else last // 3)
            found[name.format(qkv=which)] = Tensor(path, part, _their_shape(path, shape))
    return found


def _their_name(path: Path) -> str:
    """Their name of an array of ours; "{qkv}" stands in it where theirs are three."""
    if path == ("codebook",):
        return "quantize.embedding.weight"
    *modules, leaf = path
    side, *inner = modules
    names = [PARTS.get(side, side), *(_their_module(side, module) for module in inner[:2])]
    if len(inner) > 2:
        kind = ATTENTION if inner[1].startswith("attention") else RESIDUAL
        names.append(kind[inner[2]])
    return ".".join([name for name in names if name] + ["bias" if leaf == "bias" else "weight"])


def _their_module(side: str, module: str) -> str:
    """Their name of a module of encoder or decoder; none where they have no such shell."""
    stem, _, number = module.rpartition("_")
    if module in PARTS:
        return PARTS[module]
    if (side, stem) in LEVELS:
        return LEVELS[side, stem].format(number)
    return f"{PARTS[stem]}.{number}" if stem in PARTS else ""


def _third(value: np.ndarray, part: int | None) -> np.ndarray:
    return value if part is None else np.split(value, 3, axis=-1)[part]


def _their_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of their tensor, given ours."""
    if path[-1] != "kernel":
        return shape
    *sides, inputs, outputs = shape
    return outputs, inputs, *sides


def _our_layout(path: Path, value: np.ndarray) -> np.ndarray:
    """Our array, given their tensor."""
    return np.moveaxis(value, (0, 1), (-1, -2)) if path[-1] == "kernel" else value


def _their_layout(path: Path, value: np.ndarray) -> np.ndarray:
    """Their tensor, given our array."""
    return np.moveaxis(value, (-1, -2), (0, 1)) if path[-1] == "kernel" else value
