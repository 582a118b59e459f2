"""Fields of networks that are out of their range, and networks that are equal."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from cfg_jax.codecs import KL
from cfg_jax.networks import NETWORKS, Coding, DiT, Encoder, MMDiT, Towers, UNet
from cfg_jax.nn import TimestepFeatures
from cfg_jax.parts import Classes

NAN, INF = float("nan"), float("inf")
WRONG = {
    "level_features": ("LogSNRFeatures", None, 3),
    "dropout": (-0.1, 1.0, 2, NAN, "0.1", None),
    "dtype": ("int32", "float64", "bf16", None, 3),
    "remat": ("all", None, True),
}
"""Of every network."""

LEVELS = {
    "channels": (2**17, 10**9, 0, -1, 3, 8.0, True, "8", NAN, None),
    "channel_mult": ((1, 10**9), (), (0,), (1, -2), (1, NAN), (INF,), ("x",), 2, None, (1, 0.01)),
    "blocks": (10**5, 0, -1, 1.5, "2", None),
    "attention_resolutions": (("x",), (0,), (8, -4), (8.0,), (True,), 8, None),
    "head_channels": (10**9, 0, -64, 2.5, None),
    "heads": (10**9, -1, 0.5, "4", None),
    "resample": ("", "Conv", None, 3),
    "modulation": ("", "scale", None, 3),
    "transformers": (-1, 129, 10**9, 0.5, "1", None, True),
}
PREDICTOR = {"learned_variance": (1, "yes", None)}
PATCHWORK = {
    "patch": (0, -1, 10**6, 1.5, "2", None, True),
    "width": (2**17, 0, 7, -8, 8.0, "8", NAN, None),
    "depth": (0, -1, 129, 1.5, "2", None),
    "heads": (0, -1, 5, 10**9, 0.5, "4", None),
    "mlp_ratio": (0, -1, 65, NAN, INF, "4", None, True),
    "period": (0, 0.5, -1, 1e10, NAN, INF, "4", None, True),
    "pooled": (1, "yes", None),
    "inlets": (3, ("label",), (("depth", Classes(3)),)),
}


@pytest.fixture(autouse=True)
def unchecked_types(monkeypatch):
    """Types are not checked before the network is made, as it is outside the tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


PARTICULAR = {
    UNet: LEVELS | PREDICTOR | {"inlets": (3, ("label",), (("heads", Classes(3)),))},
    Encoder: LEVELS | {"num_classes": (10**9, 0, -1, 2.5, "3")},
    Towers: LEVELS
    | {
        "features": (10**9, 0, -1, 2.5, "3", None),
        "inlets": (3, ("text",), (), (("label", Classes(3)),)),
    },
    DiT: PATCHWORK | PREDICTOR,
    MMDiT: PATCHWORK
    | PREDICTOR
    | {
        "grid": (-1, 10**6, 1.5, "2", None),
        "qk_norm": (1, "yes", None),
        "dual_blocks": (-1, 13, 200, 1.5, "2", None),
    },
}


EVERY = {kind: WRONG | own for kind, own in PARTICULAR.items()} | {
    Coding: {"codec": (None, 3, "KL"), "discriminator": (3, "x")}
}
GIVEN = {Coding: {"codec": KL()}}
"""What a network needs before its other fields are looked at."""

VALUES = [
    (kind, field, value)
    for kind in NETWORKS.values()
    for field, wrong in EVERY[kind].items()
    for value in wrong
]


@pytest.mark.parametrize(("kind", "field", "value"), VALUES)
def test_a_field_out_of_its_range_is_refused_by_name(kind, field, value):
    with pytest.raises(ValueError, match=field):
        kind(**GIVEN.get(kind, {}) | {field: value})


@pytest.mark.parametrize("kind", NETWORKS.values())
def test_every_field_has_wrong_values_here(kind):
    known = set(kind.__dataclass_fields__) - {"parent", "name"}
    assert known == set(EVERY[kind])


@pytest.mark.parametrize("kind", [UNet, Encoder, Towers])
def test_networks_of_the_same_fields_are_the_same(kind):
    one = kind(dtype="bfloat16", channel_mult=(1, 2))
    assert one == kind(dtype=jnp.bfloat16, channel_mult=[1, 2])
    assert hash(one) == hash(kind(dtype=jnp.dtype("bfloat16"), channel_mult=(1, 2)))
    assert one.dtype == "bfloat16"
    assert one.channel_mult == (1, 2)
    assert one != kind(channel_mult=(1, 2))
    assert kind(blocks=np.int64(3)) == kind(blocks=3)


@pytest.mark.parametrize("kind", [DiT, MMDiT])
def test_transformers_of_the_same_fields_are_the_same(kind):
    one = kind(dtype="bfloat16", mlp_ratio=2, inlets=[["label", Classes(3)]])
    assert one == kind(dtype=jnp.bfloat16, mlp_ratio=2.0, inlets=(("label", Classes(3)),))
    assert hash(one) == hash(kind(dtype="bfloat16", mlp_ratio=2, inlets=(("label", Classes(3)),)))
    assert one != kind(dtype="bfloat16", mlp_ratio=2)


def test_time_steps_are_asked_for_where_they_are_used():
    with pytest.raises(ValueError, match="schedule must be given"):
        UNet(level_features=TimestepFeatures()).shapes((16, 16, 1))
