"""Configs of diffusers' autoencoders, `AutoencoderKL` and `VQModel`: to ours, and back."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cfg_jax.codecs import KL, VQ

Codec = KL | VQ
Config = Mapping[str, Any]
"""What the folder's config.json says."""

KINDS: dict[str, type[Codec]] = {"AutoencoderKL": KL, "VQModel": VQ}
"""Ours by the names of theirs."""

DOWN, ATTENDING_DOWN = "DownEncoderBlock2D", "AttnDownEncoderBlock2D"
UP, ATTENDING_UP = "UpDecoderBlock2D", "AttnUpDecoderBlock2D"


class Common(NamedTuple):
    """What both have; the defaults are theirs."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: Any = (DOWN,)
    up_block_types: Any = (UP,)
    block_out_channels: Any = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    mid_block_add_attention: bool = True


OF_KL = {
    "latent_channels": 4,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
OF_VQ = {
    "latent_channels": 3,
    "num_vq_embeddings": 256,
    "vq_embed_dim": None,
    "norm_type": "group",
}
"""What one alone has, and its defaults."""

UNSCALED = 1.0
"""The scale of a VQModel whose config has none: those of latent diffusion were not scaled, and that
their class has had a default since is a KL model's."""

NO_MATTER = ("sample_size", "force_upcast", "lookup_from_codebook")
"""Entries that change no number: a size for tiles, advice against half types, a choice of call."""


def codec(config: Config) -> Codec:
    """Our autoencoder of a config.

    Args:
      config: What config.json says, `_class_name` included; entries that it lacks have diffusers'
        defaults.

    Raises:
      ValueError: It is of another class, or something in it is not done here; it says what.

    >>> from cfg_jax.interop.diffusers_autoencoder_configs import codec
    >>> ours = codec({"_class_name": "AutoencoderKL", "latent_channels": 16})
    >>> ours.latent_channels, ours.scale
    (16, 0.18215)
    >>> codec({"_class_name": "AutoencoderTiny"})
    Traceback (most recent call last):
    ValueError: AutoencoderTiny is not read; the autoencoders that are: AutoencoderKL, VQModel
    """
    name = config.get("_class_name")
    if name not in KINDS:
        raise ValueError(f"{name} is not read; the autoencoders that are: {', '.join(KINDS)}")
    own = OF_KL if KINDS[name] is KL else OF_VQ
    said = {key: value for key, value in config.items() if not key.startswith("_")}
    known = {**Common()._asdict(), **own}
    strange = [key for key in said if key not in known and key not in NO_MATTER]
    if strange:
        raise ValueError(f"the config of {name} has entries not known here: {', '.join(strange)}")
    full = known | {key: value for key, value in said.items() if key in known}
    fields = _common(Common(**{key: full[key] for key in Common._fields}))
    fields["latent_channels"] = full["latent_channels"]
    if KINDS[name] is VQ:
        _only(full, "norm_type", "group")
        fields |= {"entries": full["num_vq_embeddings"], "code_channels": full["vq_embed_dim"]}
        return VQ(**fields, swapped=True, scale=said.get("scaling_factor", UNSCALED))
    fields |= {"quant_conv": full["use_quant_conv"], "post_quant_conv": full["use_post_quant_conv"]}
    return KL(**fields, **_scales(full))


def _common(config: Common) -> dict[str, Any]:
    """Our fields of what both have."""
    _only(config._asdict(), "act_fn", "silu", "swish")
    if config.in_channels != config.out_channels:
        raise ValueError(
            f"data of {config.in_channels} channels come back with {config.out_channels}, which is "
            "not done here: in_channels and out_channels must be equal"
        )
    wide = tuple(config.block_out_channels)
    down, up = tuple(config.down_block_types), tuple(config.up_block_types)
    for types, allowed in ((down, (DOWN, ATTENDING_DOWN)), (up, (UP, ATTENDING_UP))):
        if len(types) != len(wide) or not set(types) <= set(allowed):
            raise ValueError(
                f"{len(wide)} levels must each be {' or '.join(allowed)}, got {', '.join(types)}"
            )
    attending = tuple(2**i for i, kind in enumerate(down) if kind == ATTENDING_DOWN)
    if attending != tuple(2**i for i, kind in enumerate(reversed(up)) if kind == ATTENDING_UP):
        raise ValueError(
            "attention on the way down and on the way up must be at the same sides, got "
            f"{', '.join(down)} and {', '.join(up)}"
        )
    channels = math.gcd(*wide)
    return {
        "channels": channels,
        "channel_mult": tuple(width // channels for width in wide),
        "blocks": config.layers_per_block,
        "attention_factors": attending,
        "middle_attention": config.mid_block_add_attention,
        "groups": config.norm_num_groups,
        "data_channels": config.in_channels,
    }


def _scales(config: dict[str, Any]) -> dict[str, Any]:
    """Our scale and shift: ẑ is z · std / scaling_factor + mean, or z / scaling_factor + shift."""
    scale, shift = config["scaling_factor"], config["shift_factor"]
    mean, std = config["latents_mean"], config["latents_std"]
    if mean is None and std is None:
        return {"scale": scale, "shift": 0.0 if shift is None else shift}
    if mean is None or std is None or shift is not None:
        raise ValueError("latents_mean and latents_std come together, and without a shift_factor")
    return {"scale": tuple(scale / one for one in std), "shift": tuple(mean)}


def _only(config: dict[str, Any], name: str, *allowed: str) -> None:
    if config[name] not in allowed:
        raise ValueError(f"{name} must be {' or '.join(allowed)}, got {config[name]!r}")


def config(codec: Codec) -> dict[str, Any]:
    """What config.json says of our autoencoder, `_class_name` included: `codec` undone.

    Raises:
      ValueError: diffusers has no such autoencoder.

    >>> from cfg_jax.codecs import KL
    >>> from cfg_jax.interop.diffusers_autoencoder_configs import config
    >>> config(KL())["block_out_channels"]
    [128, 256, 512, 512]
    """
    if codec.patch > 1:
        raise ValueError(f"diffusers has no autoencoder of patches; patch is {codec.patch}")
    wide = tuple(int(m * codec.channels) for m in codec.channel_mult)
    groups = {math.gcd(codec.groups, width) for width in wide}
    if len(groups) > 1:
        raise ValueError(
            f"diffusers wants the same number of groups at every level; {codec.groups} groups make "
            f"{', '.join(map(str, sorted(groups)))} of channels {wide}"
        )
    attends = [2**i in codec.attention_factors for i in range(len(wide))]
    common = Common(
        in_channels=codec.data_channels,
        out_channels=codec.data_channels,
        down_block_types=[ATTENDING_DOWN if a else DOWN for a in attends],
        up_block_types=[ATTENDING_UP if a else UP for a in reversed(attends)],
        block_out_channels=list(wide),
        layers_per_block=codec.blocks,
        norm_num_groups=groups.pop(),
        mid_block_add_attention=codec.middle_attention,
    )
    return common._asdict() | _particular(codec)


def _particular(codec: Codec) -> dict[str, Any]:
    """What one of them alone has."""
    scale, shift = 1.0 if codec.scale is None else codec.scale, codec.shift
    each = isinstance(scale, tuple) or isinstance(shift, tuple)
    if isinstance(codec, VQ):
        if each or shift:
            raise ValueError("diffusers' VQModel has one scale and no shift")
        return {
            "_class_name": "VQModel",
            "scaling_factor": scale,
            "latent_channels": codec.latent_channels,
            "num_vq_embeddings": codec.entries,
            "vq_embed_dim": codec.z_channels,
            "norm_type": "group",
        }
    told = {"scaling_factor": scale, "shift_factor": shift or None}
    if each:
        count = codec.z_channels
        told = {
            "scaling_factor": 1.0,
            "latents_mean": np.broadcast_to(shift, count).tolist(),
            "latents_std": (1.0 / np.broadcast_to(scale, count)).tolist(),
        }
    return {
        "_class_name": "AutoencoderKL",
        "latent_channels": codec.latent_channels,
        "use_quant_conv": codec.quant_conv,
        "use_post_quant_conv": codec.post_quant_conv,
    } | told
