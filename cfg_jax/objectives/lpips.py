"""The perceptual distance LPIPS of two pictures, with the features of VGG16.

    d(x, y) = Σ_l  mean over places  w_l · (f̂_l(x) - f̂_l(y))²

where f̂_l are the features after a layer, of unit length over the channels, and w_l ≥ 0 weighs the
channels (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", Equation 1).
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks
from cfg_jax.parts import BOUND
from cfg_jax.runtime import safetensors_file, torch_file

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""The numbers of VGG16's convolutions in torchvision; a block's last features are compared."""

WIDTHS = (64, 128, 256, 512, 512)
"""The channels of each block."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and standard deviation of red, green and blue, for colours in [-1, 1]."""

EPS = 1e-10
"""Added to a squared length, so that features of zero have a gradient."""

SMALLEST = 16
"""The least side of a picture: it is halved four times."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LPIPS:
    """The distance `(x, y) -> (batch,)` of pictures in [-1, 1]; pictures in [0, 1] read too low.

    The weights are read by `ready`, and neither trained nor kept with a run.

    Attributes:
      path: A .safetensors or PyTorch file of VGG16: torchvision's `features.0.weight`, or all of
        LPIPS, `net.slice1.0.weight` and `lin0.model.1.weight`. Nothing in it is executed.
      lins: Another of the channels' weights, `lin0.model.1.weight`; "" where `path` holds them too.
      weights: What `ready` reads: float32 arrays by name.

    Raises:
      ValueError: path names no file, or lins is no path. When called: the weights were not read, or
        the pictures are not of (batch, height, width, 1 or 3), two of a shape and 16 pixels high
        and wide.
    """

    path: str = dataclasses.field(default="", metadata={"static": True})
    lins: str = dataclasses.field(default="", metadata={"static": True})
    weights: Any = dataclasses.field(default=None, metadata=BOUND)

    def __post_init__(self):
        for name in ("path", "lins"):
            value = getattr(self, name)
            if not isinstance(value, str) or "\0" in value:
                raise ValueError(f"{name} must be a path, got {checks.told(value)}")
        if not self.path:
            raise ValueError("path must name a file of the weights of VGG16, got ''")

    def ready(self) -> "LPIPS":
        """The distance with its weights.

        Raises:
          ValueError: A file cannot be read, or lacks a weight.
        """
        path, lins = (os.path.expanduser(name) for name in (self.path, self.lins))
        tensors, of_lins = _tensors(path), _tensors(lins) if lins else None
        try:
            return dataclasses.replace(self, weights=converted(tensors, of_lins))
        except ValueError as error:
            raise ValueError(f"{' and '.join(filter(None, (path, lins)))}: {error}") from None

    def __call__(
        self, x: Float[Array, "batch height width _"], y: Float[Array, "batch height width _"]
    ) -> Float[Array, " batch"]:
        """The distance of each x from its y, in float32."""
        if self.weights is None:
            raise ValueError(f"the weights in {self.path} are not read yet: call ready() first")
        _check(x, y)
        both = jnp.concatenate([x, y]).astype(jnp.float32)
        h = (both - jnp.array(SHIFT)) / jnp.array(SCALE)
        total = jnp.zeros(len(x))
        for level, block in enumerate(BLOCKS):
            h = h if level == 0 else _halved(h)
            for number in block:
                kernel, bias = (self.weights[f"{number}.{part}"] for part in ("kernel", "bias"))
                h = jax.nn.relu(_convolved(h, kernel) + bias)
            unit = h * jax.lax.rsqrt(jnp.sum(jnp.square(h), axis=-1, keepdims=True) + EPS)
            squares = jnp.square(unit[: len(x)] - unit[len(x) :])
            total += jnp.mean(squares @ self.weights[f"lin{level}"], axis=(1, 2))
        return total


def converted(
    tensors: Mapping[str, np.ndarray], lins: Mapping[str, np.ndarray] | None = None
) -> dict[str, Array]:
    """The weights by our names from PyTorch's tensors; others among them are not looked at.

    Args:
      tensors: Of VGG16 by torchvision's names or LPIPS's.
      lins: Of the channels' weights; among `tensors` when None.

    Raises:
      ValueError: A tensor is missing, has another shape or is not finite, or a channel's weight is
        negative.
    """
    lins = tensors if lins is None else lins
    found: dict[str, np.ndarray] = {}
    below = 3
    for level, (block, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
        for number in block:
            names = [f"{room}.{number}" for room in ("features", f"net.slice{level + 1}")]
            kernel = _one(tensors, [f"{name}.weight" for name in names], (width, below, 3, 3))
            bias = _one(tensors, [f"{name}.bias" for name in names], (width,))
            found[f"{number}.kernel"], found[f"{number}.bias"] = kernel.transpose(2, 3, 1, 0), bias
            below = width
        names = [f"{room}.model.1.weight" for room in (f"lin{level}", f"lins.{level}")]
        lin = _one(lins, names, (1, width, 1, 1)).reshape(width)
        if lin.min() < 0:
            raise ValueError(f"{names[0]} must hold no negative weight, got {lin.min():g}")
        found[f"lin{level}"] = lin
    return {name: jnp.asarray(value) for name, value in found.items()}


def _one(
    tensors: Mapping[str, np.ndarray], names: list[str], shape: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    """The tensor that has one of these names, in float32."""
    name = next((name for name in names if name in tensors), None)
    if name is None:
        raise ValueError(f"the weights of LPIPS lack {' or '.join(names)}")
    value = np.asarray(tensors[name], np.float32)
    if value.shape != shape:
        raise ValueError(f"the weights of LPIPS hold {name} of {value.shape}, which is {shape}")
    if not np.all(np.isfinite(value)):
        raise ValueError(f"the weights of LPIPS hold {name}, which is not finite")
    return value


def _tensors(path: str) -> dict[str, np.ndarray]:
    """All tensors of a file by their names, joined by dots."""
    if Path(path).suffix.lower() != ".safetensors":
        return torch_file.read(path)
    return traverse_util.flatten_dict(safetensors_file.read(path)[0], sep=".")


def _check(x: Array, y: Array) -> None:
    """Raises ValueError unless these are pictures that can be compared."""
    right = x.ndim == 4 and x.shape == y.shape and x.shape[-1] in (1, 3)
    if not right or min(x.shape[1:3]) < SMALLEST:
        raise ValueError(
            f"LPIPS compares pictures of (batch, height, width, 1 or 3), of {SMALLEST} pixels a "
            f"side or more, got {x.shape} and {y.shape}"
        )


def _convolved(h: Array, kernel: Array) -> Array:
    """A convolution that keeps height and width."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=layout)


def _halved(h: Array) -> Array:
    """The greatest of every 2×2."""
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, window, window, "VALID")
