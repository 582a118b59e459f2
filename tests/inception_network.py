"""FID's network in plain NumPy, float64, by PyTorch's names; and weights for it at random."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from numpy.lib.stride_tricks import sliding_window_view

from cfg_jax.evaluation.inception_network import InceptionV3

ENDS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def random_tensors(seed=0):
    """Tensors by PyTorch's names, of a size that keeps activations near 1."""
    rng = np.random.default_rng(seed)
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    shapes = flatten_dict(jax.eval_shape(InceptionV3().init, jax.random.key(0), image))
    tensors = {}
    for path, leaf in shapes.items():
        name = ".".join((*path[1:-1], ENDS[path[-1]]))
        shape = tuple(leaf.shape[i] for i in (3, 2, 0, 1)) if leaf.ndim == 4 else leaf.shape[::-1]
        normal = rng.standard_normal(shape, np.float32)
        if leaf.ndim > 1:
            tensors[name] = normal * np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
        elif name.endswith(("bn.weight", "running_var")):
            tensors[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            tensors[name] = np.float32(0.1) * normal
    return tensors


def resized(images, size):
    """As TensorFlow 1: by its definition, pixel by pixel."""
    n, height, width, channels = images.shape
    out = np.empty((n, size, size, channels))
    for i in range(size):
        for j in range(size):
            y, x = i * height / size, j * width / size
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = images[:, top, left] * (1 - x + left) + images[:, top, right] * (x - left)
            lower = images[:, bottom, left] * (1 - x + left) + images[:, bottom, right] * (x - left)
            out[:, i, j] = upper * (1 - y + top) + lower * (y - top)
    return out


class Network:
    def __init__(self, tensors):
        self.tensors = {name: t.astype(np.float64) for name, t in tensors.items()}

    def conv(self, x, name, stride=1, pad=(0, 0)):
        weight = self.tensors[f"{name}.conv.weight"]
        x = np.pad(x, ((0, 0), (pad[0], pad[0]), (pad[1], pad[1]), (0, 0)))
        windows = sliding_window_view(x, weight.shape[2:], (1, 2))[:, ::stride, ::stride]
        h = np.tensordot(windows, weight, ((3, 4, 5), (1, 2, 3)))
        scale, shift, mean, variance = (
            self.tensors[f"{name}.bn.{end}"]
            for end in ("weight", "bias", "running_mean", "running_var")
        )
        return np.maximum(scale * (h - mean) / np.sqrt(variance + 1e-3) + shift, 0)

    def five(self, x, name):
        def conv(h, layer, pad=0):
            return self.conv(h, f"{name}.{layer}", pad=(pad, pad))

        double = conv(conv(x, "branch3x3dbl_1"), "branch3x3dbl_2", 1)
        return [
            conv(x, "branch1x1"),
            conv(conv(x, "branch5x5_1"), "branch5x5_2", 2),
            conv(double, "branch3x3dbl_3", 1),
            conv(average(x), "branch_pool"),
        ]

    def six_a(self, x, name):
        h = self.conv(x, f"{name}.branch3x3dbl_1")
        h = self.conv(h, f"{name}.branch3x3dbl_2", pad=(1, 1))
        h = self.conv(h, f"{name}.branch3x3dbl_3", stride=2)
        return [self.conv(x, f"{name}.branch3x3", stride=2), h, maximum(x, 2)]

    def six(self, x, name):
        wide, tall = (0, 3), (3, 0)
        single = double = x
        for layer, pad in (("1", (0, 0)), ("2", wide), ("3", tall)):
            single = self.conv(single, f"{name}.branch7x7_{layer}", pad=pad)
        for layer, pad in (("1", (0, 0)), ("2", tall), ("3", wide), ("4", tall), ("5", wide)):
            double = self.conv(double, f"{name}.branch7x7dbl_{layer}", pad=pad)
        return [
            self.conv(x, f"{name}.branch1x1"),
            single,
            double,
            self.conv(average(x), f"{name}.branch_pool"),
        ]

    def seven_a(self, x, name):
        single = self.conv(self.conv(x, f"{name}.branch3x3_1"), f"{name}.branch3x3_2", stride=2)
        h = self.conv(x, f"{name}.branch7x7x3_1")
        h = self.conv(h, f"{name}.branch7x7x3_2", pad=(0, 3))
        h = self.conv(h, f"{name}.branch7x7x3_3", pad=(3, 0))
        return [single, self.conv(h, f"{name}.branch7x7x3_4", stride=2), maximum(x, 2)]

    def seven(self, x, name, pooled):
        wide, tall = (0, 1), (1, 0)
        single = self.conv(x, f"{name}.branch3x3_1")
        double = self.conv(x, f"{name}.branch3x3dbl_1")
        double = self.conv(double, f"{name}.branch3x3dbl_2", pad=(1, 1))
        return [
            self.conv(x, f"{name}.branch1x1"),
            self.conv(single, f"{name}.branch3x3_2a", pad=wide),
            self.conv(single, f"{name}.branch3x3_2b", pad=tall),
            self.conv(double, f"{name}.branch3x3dbl_3a", pad=wide),
            self.conv(double, f"{name}.branch3x3dbl_3b", pad=tall),
            self.conv(pooled, f"{name}.branch_pool"),
        ]

    def __call__(self, images, size=299):
        """Pool features, spatial features and logits of images in [0, 255]."""
        x = (resized(images.astype(np.float64), size) - 128) / 128
        x = self.conv(x, "Conv2d_1a_3x3", stride=2)
        x = self.conv(self.conv(x, "Conv2d_2a_3x3"), "Conv2d_2b_3x3", pad=(1, 1))
        x = maximum(x, 2)
        x = maximum(self.conv(self.conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 2)
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = np.concatenate(self.five(x, name), -1)
        x = np.concatenate(self.six_a(x, "Mixed_6a"), -1)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            branches = self.six(x, name)
            if name == "Mixed_6d":
                spatial = branches[0][..., :7].reshape(len(x), -1)
            x = np.concatenate(branches, -1)
        x = np.concatenate(self.seven_a(x, "Mixed_7a"), -1)
        x = np.concatenate(self.seven(x, "Mixed_7b", average(x)), -1)
        x = np.concatenate(self.seven(x, "Mixed_7c", maximum(x, 1, pad=1)), -1)
        pool = x.mean((1, 2))
        return pool, spatial, pool @ self.tensors["fc.weight"].T


def average(x):
    """Over 3 × 3 places, of those there are."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    return np.nanmean(sliding_window_view(padded, (3, 3), (1, 2)), (-1, -2))


def maximum(x, stride, pad=0):
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=-np.inf)
    return sliding_window_view(padded, (3, 3), (1, 2))[:, ::stride, ::stride].max((-1, -2))
