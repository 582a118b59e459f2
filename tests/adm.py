"""Guided-diffusion's networks written out in NumPy, by the names of its state dictionaries.

Images are (batch, channels, height, width), as there; everything is float64. What the names do not
tell, how many blocks a level has and the order of attention, is told by `Spec`.
"""

import dataclasses
import math

import numpy as np
from scipy import special


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a state dictionary does not say.

    Attributes:
      channels: Of the first level.
      legacy: Whether attention has q, k and v head by head.
      heads: Their number; 0 for as many as head_channels make.
      head_channels: Channels of a head, those of the pooling too.
      resized: Which residual blocks go "up" or "down", by their names.
    """

    channels: int
    legacy: bool = True
    heads: int = 0
    head_channels: int = 32
    resized: dict = dataclasses.field(default_factory=dict)


def silu(x):
    return x * special.expit(x)


def embedding_of_time(t, channels):
    frequencies = np.exp(-math.log(10_000) * np.arange(channels // 2) / (channels // 2))
    angles = t[:, None] * frequencies
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


class Network:
    """One network: `unet` or `classifier` evaluates it."""

    def __init__(self, tensors, spec):
        self.tensors = {name: np.asarray(t, np.float64) for name, t in tensors.items()}
        self.spec = spec

    def has(self, prefix):
        return any(name.startswith(f"{prefix}.") for name in self.tensors)

    def parts(self, prefix):
        return self.tensors[f"{prefix}.weight"], self.tensors[f"{prefix}.bias"]

    def linear(self, prefix, x):
        weight, bias = self.parts(prefix)
        return x @ weight.reshape(len(weight), -1).T + bias

    def norm(self, prefix, x):
        batch, channels = x.shape[:2]
        weight, bias = self.parts(prefix)
        groups = x.reshape(batch, 32, -1)
        mean, var = groups.mean(2, keepdims=True), groups.var(2, keepdims=True)
        normed = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
        each = (1, channels) + (1,) * (x.ndim - 2)
        return normed * weight.reshape(each) + bias.reshape(each)

    def conv(self, prefix, x, stride=1):
        weight, bias = self.parts(prefix)
        reach = weight.shape[-1] // 2
        padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
        size = weight.shape[-1]
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
        windows = windows[:, :, ::stride, ::stride]
        out = np.einsum("bcijhw,ochw->boij", windows, weight, optimize=True)
        return out + bias[:, None, None]

    def residual(self, prefix, x, emb, resize=None):
        h = silu(self.norm(f"{prefix}.in_layers.0", x))
        if resize == "up":
            h, x = (a.repeat(2, 2).repeat(2, 3) for a in (h, x))
        if resize == "down":
            h, x = (a.reshape(*a.shape[:2], a.shape[2] // 2, 2, -1, 2).mean((3, 5)) for a in (h, x))
        h = self.conv(f"{prefix}.in_layers.2", h)
        scale, shift = np.split(self.linear(f"{prefix}.emb_layers.1", silu(emb)), 2, axis=1)
        h = self.norm(f"{prefix}.out_layers.0", h)
        h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        h = self.conv(f"{prefix}.out_layers.3", silu(h))
        if self.has(f"{prefix}.skip_connection"):
            x = self.conv(f"{prefix}.skip_connection", x)
        return x + h

    def mixed(self, qkv, legacy, heads=0):
        """What softmax attention makes of (batch, 3 · channels, places)."""
        batch, rows, places = qkv.shape
        channels = rows // 3
        heads = heads or channels // self.spec.head_channels
        if legacy:
            q, k, v = qkv.reshape(batch, heads, 3, -1, places).swapaxes(0, 2).swapaxes(1, 2)
        else:
            q, k, v = qkv.reshape(batch, 3, heads, -1, places).swapaxes(0, 1)
        weights = np.einsum("bhcq,bhck->bhqk", q, k) / np.sqrt(q.shape[2])
        out = np.einsum("bhqk,bhck->bhcq", special.softmax(weights, axis=-1), v)
        return out.reshape(batch, channels, places)

    def attention(self, prefix, x):
        flat = self.norm(f"{prefix}.norm", x).reshape(*x.shape[:2], -1)
        qkv = self.linear(f"{prefix}.qkv", flat.swapaxes(1, 2)).swapaxes(1, 2)
        h = self.mixed(qkv, self.spec.legacy, self.spec.heads)
        h = self.linear(f"{prefix}.proj_out", h.swapaxes(1, 2)).swapaxes(1, 2)
        return x + h.reshape(x.shape)

    def sequence(self, prefix, x, emb):
        """The modules `prefix.0`, `prefix.1`, …, each known by the names of its parts."""
        number = 0
        while self.has(f"{prefix}.{number}"):
            name = f"{prefix}.{number}"
            if self.has(f"{name}.in_layers"):
                x = self.residual(name, x, emb, self.spec.resized.get(name))
            elif self.has(f"{name}.qkv"):
                x = self.attention(name, x)
            elif self.has(f"{name}.op"):
                x = self.conv(f"{name}.op", x, stride=2)
            elif self.has(f"{name}.conv"):
                x = self.conv(f"{name}.conv", x.repeat(2, 2).repeat(2, 3))
            else:
                x = self.conv(name, x)
            number += 1
        return x

    def embedding(self, t, label=None):
        h = self.linear("time_embed.0", embedding_of_time(t, self.spec.channels))
        h = self.linear("time_embed.2", silu(h))
        return h if label is None else h + self.tensors["label_emb.weight"][label]

    def down(self, x, emb):
        skips, number = [], 0
        while self.has(f"input_blocks.{number}"):
            x = self.sequence(f"input_blocks.{number}", x, emb)
            skips.append(x)
            number += 1
        return self.sequence("middle_block", x, emb), skips

    def unet(self, x, t, label=None):
        emb = self.embedding(t, label)
        h, skips = self.down(x, emb)
        number = 0
        while skips:
            h = np.concatenate([h, skips.pop()], axis=1)
            h = self.sequence(f"output_blocks.{number}", h, emb)
            number += 1
        return self.conv("out.2", silu(self.norm("out.0", h)))

    def classifier(self, x, t):
        h, _ = self.down(x, self.embedding(t))
        h = silu(self.norm("out.0", h)).reshape(*h.shape[:2], -1)
        h = np.concatenate([h.mean(2, keepdims=True), h], axis=2)
        h = h + self.tensors["out.2.positional_embedding"]
        qkv = self.linear("out.2.qkv_proj", h.swapaxes(1, 2)).swapaxes(1, 2)
        h = self.mixed(qkv, legacy=False)
        return self.linear("out.2.c_proj", h[:, :, 0])
