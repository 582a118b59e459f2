"""What tests of networks share: random variables, and layers and a U-Net in float64 NumPy.

Arrays are (batch, *sides, channels) with one to three sides; parameters have our names.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special


def random_variables(module, *args):
    """Random values for every parameter, the zero-initialised too; compiles no initialiser."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    rng = np.random.default_rng(1)

    def values(leaf):
        spread = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.5
        return jnp.asarray(rng.normal(size=leaf.shape) * spread, leaf.dtype)

    return jax.tree.map(values, shapes)


def double(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def linear(small, factors):
    """Each new entry between the centres of the old ones, those at the edge repeated."""

    def along(x, axis, factor):
        count = x.shape[axis]
        place = np.clip((np.arange(factor * count) + 0.5) / factor - 0.5, 0, count - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, count - 1)
        share = (place - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        return x.take(low, axis) * (1 - share) + x.take(high, axis) * share

    x = np.asarray(small, np.float64)
    for axis, factor in enumerate(factors, start=1):
        x = along(x, axis, factor)
    return x


def bilinear(small, factor):
    return linear(small, (factor, factor))


def silu(x):
    return x * special.expit(x)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def two_dense(p, name, features):
    return dense(p[f"{name}_1"], silu(dense(p[f"{name}_0"], features)))


def normed(p, x, scale=0.0, shift=0.0):
    """Group norm; scale and shift of (batch, channels)."""
    groups = x.reshape(len(x), -1, np.gcd(32, x.shape[-1]), x.shape[-1] // np.gcd(32, x.shape[-1]))
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    x = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * p["scale"] + p["bias"]
    scale, shift = (
        np.reshape(a, (-1, *(1,) * (x.ndim - 2), np.size(a[0])))
        for a in (np.atleast_2d(scale), np.atleast_2d(shift))
    )
    return x * (1 + scale) + shift


def convolved(x, kernel, bias, strides=None):
    """Sums over windows centred on what is kept; the kernel is (*sizes, in, out)."""
    sizes = kernel.shape[:-2]
    axes = tuple(range(1, len(sizes) + 1))
    padded = np.pad(x, ((0, 0), *((size // 2,) * 2 for size in sizes), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, sizes, axes)
    windows = windows[(slice(None), *(slice(None, None, s) for s in strides or (1,) * len(sizes)))]
    kernel = np.moveaxis(kernel, -2, 0)
    return np.tensordot(windows, kernel, kernel.ndim - 1) + bias


def conv(p, x, stride=1):
    """Our `Conv`: that of a video first in space, then in time."""
    kernel, bias = p["Conv_0"]["kernel"], p["Conv_0"]["bias"]
    if x.ndim < 5:
        return convolved(x, kernel, bias, (stride,) * (x.ndim - 2))
    x = convolved(x, kernel[None], bias, (1, stride, stride))
    if "Conv_1" in p:
        x = convolved(x, p["Conv_1"]["kernel"][:, None], p["Conv_1"]["bias"])
    return x


def resized(x, way):
    """Halves or doubles the sides of space, one after the other."""
    for axis in range(max(1, x.ndim - 3), x.ndim - 1):
        if way == "up":
            x = x.repeat(2, axis)
        if way == "down":
            even, odd = np.arange(0, x.shape[axis], 2), np.arange(1, x.shape[axis], 2)
            x = (x.take(even, axis) + x.take(odd, axis)) / 2
    return x


def residual(p, x, embedding, way=None):
    h = conv(p["Conv_0"], resized(silu(normed(p["GroupNorm_0"], x)), way))
    scale, shift = np.split(dense(p["Dense_0"], embedding), 2, axis=-1)
    h = conv(p["Conv_1"], silu(normed(p["GroupNorm_1"], h, scale, shift)))
    x = resized(x, way)
    return h + (conv(p["Conv_2"], x) if "Conv_2" in p else x)


def attended(q, k, v, each, allowed=True):
    """Softmax attention of (batch, places, channels), where the (query, key) pair is allowed."""
    heads = [a.reshape(*a.shape[:2], -1, each) for a in (q, k, v)]
    weights = np.einsum("bqhc,bkhc->bhqk", heads[0], heads[1]) / np.sqrt(each)
    weights = special.softmax(np.where(allowed, weights, -np.inf), axis=-1)
    return np.einsum("bhqk,bkhc->bqhc", weights, heads[2]).reshape(q.shape)


def self_attention(p, x, each, same=()):
    """Among all places, if their coordinates along the axes `same` are the same."""
    places = np.indices(x.shape[1:-1]).reshape(x.ndim - 2, -1)
    kept = places[[axis - 1 for axis in same]]
    allowed = (kept[:, :, None] == kept[:, None]).all(0)
    h = normed(p["GroupNorm_0"], x).reshape(len(x), -1, x.shape[-1])
    h = attended(*np.split(dense(p["Dense_0"], h), 3, axis=-1), each, allowed)
    return x + dense(p["Dense_1"], h).reshape(x.shape)


def cross_attention(p, x, sequence, each):
    h = normed(p["GroupNorm_0"], x).reshape(len(x), -1, x.shape[-1])
    k, v = np.split(dense(p["Dense_1"], np.asarray(sequence, np.float64)), 2, axis=-1)
    h = attended(dense(p["Dense_0"], h), k, v, each)
    return x + dense(p["Dense_2"], h).reshape(x.shape)


def level_features(logsnr, channels):
    angles = np.asarray(logsnr, np.float64)[:, None] * np.logspace(1, -2, channels // 2)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)


class UNet:
    """A U-Net of residual resampling: its network's fields and variables."""

    def __init__(self, network, variables):
        self.network, self.p = network, double(variables["params"])

    def attention(self, name, x, sequences):
        each = self.network.head_channels
        frames = x.ndim == 5
        x = self_attention(self.p[f"{name}_attention"], x, each, (1,) if frames else ())
        if frames:
            x = self_attention(self.p[f"{name}_frames_attention"], x, each, (2, 3))
        for entry, sequence in sequences.items():
            x = cross_attention(self.p[f"{name}_{entry}_cross"], x, sequence, each)
        return x

    def stage(self, name, x, embedding, sequences):
        x = residual(self.p[name], x, embedding)
        return self.attention(name, x, sequences) if f"{name}_attention" in self.p else x

    def down(self, x, embedding, sequences):
        h = conv(self.p["input"], np.asarray(x, np.float64))
        skips = [h]
        for level in range(len(self.network.channel_mult)):
            if level:
                h = residual(self.p[f"downsample{level}"], h, embedding, "down")
                skips.append(h)
            for i in range(self.network.blocks):
                h = self.stage(f"down{level}_{i}", h, embedding, sequences)
                skips.append(h)
        h = self.attention("middle", residual(self.p["middle_0"], h, embedding), sequences)
        return residual(self.p["middle_1"], h, embedding), skips

    def __call__(self, x, embedding, sequences):
        """Its outputs, given z with what lies beside it and the activated embedding."""
        h, skips = self.down(x, embedding, sequences)
        for level in reversed(range(len(self.network.channel_mult))):
            for i in range(self.network.blocks + 1):
                h = np.concatenate([h, skips.pop()], axis=-1)
                h = self.stage(f"up{level}_{i}", h, embedding, sequences)
            if level:
                h = residual(self.p[f"upsample{level}"], h, embedding, "up")
        return conv(self.p["output"], silu(normed(self.p["output_norm"], h)))
