"""Layers that networks share, for arrays of (batch, *sides, channels) of one to three sides.

The sides are (length), (height, width) or (frames, height, width). Parameters are float32;
activations have the module's `dtype`.
"""

from cfg_jax.nn.attention import AttentionPool, CrossAttention, SelfAttention, head_size
from cfg_jax.nn.conv import Conv
from cfg_jax.nn.embeddings import (
    LEVEL_FEATURES,
    LevelFeatures,
    LogSNRFeatures,
    TimestepFeatures,
)
from cfg_jax.nn.fields import DTYPES, Dtype, dtype_name
from cfg_jax.nn.norm import GroupNorm
from cfg_jax.nn.resampling import downsample, space_axes, upsample

__all__ = [
    "DTYPES",
    "LEVEL_FEATURES",
    "AttentionPool",
    "Conv",
    "CrossAttention",
    "Dtype",
    "GroupNorm",
    "LevelFeatures",
    "LogSNRFeatures",
    "SelfAttention",
    "TimestepFeatures",
    "downsample",
    "dtype_name",
    "head_size",
    "space_axes",
    "upsample",
]
