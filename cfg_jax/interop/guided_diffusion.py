"""Reads checkpoints of OpenAI's guided-diffusion: its U-Nets, upsamplers and noisy classifiers.

The networks are those of Dhariwal & Nichol 2021 ("Diffusion Models Beat GANs on Image Synthesis"),
ours with the time-step embedding, a learned variance and no null among the labels. Only names and
layouts differ: a convolution's kernel is (out, in, height, width) there and (height, width, in,
out) here, and where its attention keeps q, k and v together head by head (its "legacy" order),
their rows are put in order, all of q before all of k and v.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cfg_jax.diffusion.schedules import CosineBeta, DiscreteSchedule, LinearBeta
from cfg_jax.networks import Encoder, UNet
from cfg_jax.nn import TimestepFeatures, head_size
from cfg_jax.parts import Beside, Classes, Inlets
from cfg_jax.runtime.tensors import LEAVES, Path, check_shapes

Network = UNet | Encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """One of the published networks.

    Attributes:
      network: The Flax module.
      side: Height and width of its images, which have three channels.
      legacy: Whether its attention has the legacy order.
    """

    network: Network
    side: int
    legacy: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """One image's (height, width, channels)."""
        return self.side, self.side, 3

    @property
    def schedule(self) -> DiscreteSchedule:
        """The β-schedule it was trained on."""
        features: Any = self.network.level_features
        return features.schedule


MULTIPLES: dict[int, tuple[float, ...]] = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
"""Channels of each level over those of the first, by the images' side; upsamplers have 256's."""

LINEAR, COSINE = LinearBeta(steps=1000), CosineBeta(steps=1000)


LABEL: Inlets = (("label", Classes(1000)),)


def _unet(
    side: int,
    *,
    legacy: bool = True,
    schedule: DiscreteSchedule = LINEAR,
    inlets: Inlets = LABEL,
    multiples_of: int | None = None,
    **options: Any,
) -> Architecture:
    usual: dict[str, Any] = {"blocks": 2, "attention_resolutions": (32, 16, 8)}
    network = UNet(
        **usual | options,
        channel_mult=MULTIPLES[multiples_of or side],
        inlets=inlets,
        learned_variance=True,
        level_features=TimestepFeatures(schedule=schedule),
    )
    return Architecture(network=network, side=side, legacy=legacy)


def _upsampler(side: int, **options: Any) -> Architecture:
    small = ("small", Beside((side // 4, side // 4, 3)))
    return _unet(side, inlets=(*LABEL, small), multiples_of=256, channels=192, **options)


def _classifier(side: int, *, blocks: int = 2, schedule: DiscreteSchedule = LINEAR) -> Architecture:
    network = Encoder(
        channels=128,
        channel_mult=MULTIPLES[side],
        blocks=blocks,
        attention_resolutions=(32, 16, 8),
        num_classes=1000,
        level_features=TimestepFeatures(schedule=schedule),
    )
    return Architecture(network=network, side=side)


ARCHITECTURES = {
    "imagenet64": _unet(64, channels=192, blocks=3, dropout=0.1, legacy=False, schedule=COSINE),
    "imagenet128": _unet(128, channels=256, heads=4),
    "imagenet256": _unet(256, channels=256),
    "imagenet256_uncond": _unet(256, channels=256, inlets=()),
    "imagenet512": _unet(512, channels=256),
    "lsun256": _unet(256, channels=256, inlets=(), dropout=0.1),
    "upsampler64_256": _upsampler(256, heads=4),
    "upsampler128_512": _upsampler(512, attention_resolutions=(32, 16)),
    "imagenet64_classifier": _classifier(64, blocks=4, schedule=COSINE),
    "imagenet128_classifier": _classifier(128),
    "imagenet256_classifier": _classifier(256),
    "imagenet512_classifier": _classifier(512),
}
"""The published networks by name (guided-diffusion's README, and its script_util for the rest)."""


def architecture(name: str) -> Architecture:
    """The published network of a name.

    Raises:
      ValueError: There is none; all names are listed.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def tensor_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors in a checkpoint of a network."""
    return {name: shape for name, (_, shape) in _tensors(arch).items()}


def parameters(tensors: Mapping[str, np.ndarray], arch: Architecture) -> dict[str, Any]:
    """A network's variables from a state dictionary.

    Args:
      tensors: Arrays by the names of guided-diffusion's modules, see `runtime.torch_file`.
      arch: What network they are of.

    Returns:
      {"params": ...} of float32, as the network's `apply` takes them.

    Raises:
      ValueError: They are of another network: tensors are missing, unexpected or of other shapes.
    """
    wanted = _tensors(arch)
    check_shapes(
        {name: np.shape(tensor) for name, tensor in tensors.items()},
        {name: shape for name, (_, shape) in wanted.items()},
    )
    ours = {}
    for name, (path, _) in wanted.items():
        value = np.asarray(tensors[name], np.float32)
        if arch.legacy and ".qkv." in name:
            value = _in_order(value, arch.network)
        ours[path] = jnp.asarray(_our_layout(path, value))
    return {"params": traverse_util.unflatten_dict(ours)}


RESIDUAL = {
    "GroupNorm_0": "in_layers.0",
    "Conv_0": "in_layers.2",
    "Dense_0": "emb_layers.1",
    "GroupNorm_1": "out_layers.0",
    "Conv_1": "out_layers.3",
    "Conv_2": "skip_connection",
}
ATTENTION = {"GroupNorm_0": "norm", "Dense_0": "qkv", "Dense_1": "proj_out"}
POOL = {"Dense_0": "qkv_proj", "Dense_1": "c_proj"}
"""Their names of the parts of residual block, attention and pooling."""


def _tensors(arch: Architecture) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """By their names, where the tensors lie among our parameters, and their shapes there."""
    shapes = traverse_util.flatten_dict(arch.network.shapes(arch.shape)["params"])
    modules = _modules(arch.network, {path[0] for path in shapes})
    return {
        _their_name(path, modules[path[0]]): (path, _their_shape(path, leaf.shape))
        for path, leaf in shapes.items()
    }


def _modules(network: Network, present: set[str]) -> dict[str, str]:
    """Their names of our modules; of those that are not `present` too."""
    names = {
        "level_0": "time_embed.0",
        "level_1": "time_embed.2",
        "label": "label_emb",
        "input": "input_blocks.0.0",
        "middle_0": "middle_block.0",
        "middle_attention": "middle_block.1",
        "middle_1": "middle_block.2",
        "output_norm": "out.0",
        "output": "out.2",
        "pool": "out.2",
    }
    levels = range(len(network.channel_mult))
    number = itertools.count(1)
    for level in levels:
        if level:
            names[f"downsample{level}"] = f"input_blocks.{next(number)}.0"
        for i in range(network.blocks):
            block = f"input_blocks.{next(number)}"
            names |= {f"down{level}_{i}": f"{block}.0", f"down{level}_{i}_attention": f"{block}.1"}
    number = itertools.count()
    for level in reversed(levels):
        for i in range(network.blocks + 1):
            block = f"output_blocks.{next(number)}"
            names |= {f"up{level}_{i}": f"{block}.0", f"up{level}_{i}_attention": f"{block}.1"}
        after = 2 if f"up{level}_0_attention" in present else 1
        names[f"upsample{level}"] = f"{block}.{after}"
    return names


def _their_name(path: Path, module: str) -> str:
    """Their name of an array of ours, given that of its module."""
    ours, *inner, leaf = path
    if leaf == "positions":
        return f"{module}.positional_embedding"
    name = f"{module}.{{}}{LEAVES[leaf]}"
    if not inner or ours in ("input", "output"):
        return name.format("")
    if inner == ["Conv_0"]:
        return name.format("op." if ours.startswith("down") else "conv.")
    kind = POOL if ours == "pool" else ATTENTION if ours.endswith("_attention") else RESIDUAL
    return name.format(f"{kind[inner[0]]}.")


def _their_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of their array, given ours."""
    if path[-1] == "positions" or (path[-1] == "kernel" and len(shape) == 2):
        attends = path[-1] == "kernel" and (path[0] == "pool" or path[0].endswith("_attention"))
        return (*shape[::-1], 1) if attends else shape[::-1]
    if path[-1] == "kernel":
        height, width, inputs, outputs = shape
        return outputs, inputs, height, width
    return shape


def _our_layout(path: Path, value: np.ndarray) -> np.ndarray:
    """Our array, given theirs."""
    if path[-1] == "positions":
        return value.T
    if path[-1] == "kernel":
        return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.reshape(len(value), -1).T
    return value


def _in_order(rows: np.ndarray, network: Network) -> np.ndarray:
    """Rows of q, k and v, head after head, as all rows of q, then of k, then of v."""
    channels = len(rows) // 3
    each = head_size(channels, network.head_channels, network.heads)
    apart = rows.reshape(channels // each, 3, each, -1)
    return apart.swapaxes(0, 1).reshape(rows.shape)
