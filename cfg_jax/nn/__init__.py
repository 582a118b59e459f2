"""Layers that networks share, for arrays of (batch, *sides, channels) of one to three sides.

The sides are (length), (height, width) or (frames, height, width). Parameters are float32;
activations have the module's `dtype`.
"""

from cfg_jax.nn.attention import AttentionPool, CrossAttention, SelfAttention, attend, head_size
from cfg_jax.nn.conv import Conv
from cfg_jax.nn.embeddings import (
    LEVEL_FEATURES,
    FlowTimeFeatures,
    LevelFeatures,
    LogSNRFeatures,
    TimestepFeatures,
    sincos_positions,
)
from cfg_jax.nn.fields import DTYPES, Dtype, dtype_name
from cfg_jax.nn.norm import GroupNorm, Statistics, layer_norm
from cfg_jax.nn.patches import cropped, folded, grid_of, patched, unfolded, unpatched
from cfg_jax.nn.resampling import downsample, space_axes, upsample
from cfg_jax.nn.transformer import (
    Attention,
    FeedForward,
    Modulation,
    Projections,
    SpatialTransformer,
    TransformerBlock,
)

__all__ = [
    "DTYPES",
    "LEVEL_FEATURES",
    "Attention",
    "AttentionPool",
    "Conv",
    "CrossAttention",
    "Dtype",
    "FeedForward",
    "FlowTimeFeatures",
    "GroupNorm",
    "LevelFeatures",
    "LogSNRFeatures",
    "Modulation",
    "Projections",
    "SelfAttention",
    "SpatialTransformer",
    "Statistics",
    "TimestepFeatures",
    "TransformerBlock",
    "attend",
    "cropped",
    "downsample",
    "dtype_name",
    "folded",
    "grid_of",
    "head_size",
    "layer_norm",
    "patched",
    "sincos_positions",
    "space_axes",
    "unfolded",
    "unpatched",
    "upsample",
]
