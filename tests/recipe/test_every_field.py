"""Every field of every registered kind, with values that it cannot have.

Walks over the registries: a new kind joins by itself, once the range of each of its numbers is told
here.
"""

import math
import typing
from typing import Any

import numpy as np
import pytest

from cfg_jax import recipe
from cfg_jax.codecs import KL
from cfg_jax.recipe import slots, values
from cfg_jax.recipe.signature import meanings

GIVEN = {
    "Folder": {"path": "pictures"},
    "Captioned": {"path": "pictures"},
    "Shards": {"path": "pictures.tar"},
    "Arrays": {"path": "arrays.npz"},
    "Sounds": {"path": "sounds"},
    "Catalogue": {"name": "mnist"},
    "LPIPS": {"path": "vgg16.pth"},
    "Small": {"logsnr_min": 0.0},
    "Negative": {"cond": 3},
    "Composed": {"conds": (3,)},
    "Autoguidance": {"weak": ":1"},
    "Coding": {"codec": recipe.node(KL)},
}
"""What a kind needs before its other fields are looked at."""

FREE = (-math.inf, math.inf, "()")
ANY_SIZE = (0.0, math.inf, "[)")
POSITIVE = (0.0, math.inf, "()")
SHARE = (0.0, 1.0, "[]")
LOGSNR = (-80.0, 80.0, "[]")
RANGES = {
    "data.workers": (0, 256, "[]"),
    "data.held_out": (0.0, 1.0, "()"),
    "data.image_size": (0, 16_384, "[]"),
    "data.crop": (1.0, 4.0, "[]"),
    "data.buckets": (0, 1024, "[]"),
    "data.aspect": (1.0, 4.0, "[]"),
    "data.channels": (1, 3, "[]"),
    "data.background": (0, 255, "[]"),
    "data.length": (0, 2**24, "[]"),
    "data.frames": (1, 65_536, "[]"),
    "data.size": (8, 16_384, "[]"),
    "data.clips": (1, 65_536, "[]"),
    "data.rate": (1, 100, "[]"),
    "data.scenes": (10, 1_000_000, "[]"),
    "network.channels": (4, 65_536, "[]"),
    "network.channel_mult": (0.0, 65_536.0, "()"),
    "network.blocks": (1, 128, "[]"),
    "network.attention_resolutions": (1, math.inf, "[)"),
    "network.head_channels": (1, 65_536, "[]"),
    "network.heads": (0, 65_536, "[]"),
    "network.dropout": (0.0, 1.0, "[)"),
    "network.patch": (1, 65_536, "[]"),
    "network.width": (8, 65_536, "[]"),
    "network.depth": (1, 128, "[]"),
    "DiT.heads": (1, 65_536, "[]"),
    "MMDiT.heads": (1, 65_536, "[]"),
    "network.mlp_ratio": (0.01, 64.0, "[]"),
    "network.grid": (0, 4096, "[]"),
    "network.transformers": (0, 128, "[]"),
    "network.period": (1.0, 1e9, "[]"),
    "network.dual_blocks": (0, 128, "[]"),
    "network.num_classes": (1, 1_000_000, "[]"),
    "codec.channels": (1, 65_536, "[]"),
    "codec.channel_mult": (0.0, 65_536.0, "()"),
    "codec.blocks": (1, 128, "[]"),
    "codec.attention_factors": (1, 8, "[]"),
    "codec.patch": (1, 64, "[]"),
    "codec.window": (1, 31, "[]"),
    "codec.groups": (1, 65_536, "[]"),
    "codec.dropout": (0.0, 1.0, "[)"),
    "codec.latent_channels": (1, 65_536, "[]"),
    "codec.data_channels": (1, 65_536, "[]"),
    "codec.shift": (-math.inf, math.inf, "()"),
    "codec.entries": (1, 2**24, "[]"),
    "codec.code_channels": (1, 65_536, "[]"),
    "codec.beta": ANY_SIZE,
    "discriminator.channels": (1, 65_536, "[]"),
    "discriminator.layers": (1, 128, "[]"),
    "objective.kl_weight": ANY_SIZE,
    "objective.code_weight": ANY_SIZE,
    "objective.dead": (0.0, 1.0, "[)"),
    "objective.perceptual_weight": ANY_SIZE,
    "objective.judged_weight": ANY_SIZE,
    "objective.judged_from": (0, 1_000_000_000, "[]"),
    "network.features": (1, 65_536, "[]"),
    "codec.factor": (1, 65_536, "[]"),
    "codec.bins": (1, 65_536, "[]"),
    "codec.power": (0.0, 1.0, "(]"),
    "codec.scale": POSITIVE,
    "conditioner.p_uncond": SHARE,
    "conditioner.num_classes": (1, 1_000_000, "[]"),
    "AttendedLabel.width": (1, 1_000_000, "[]"),
    "conditioner.length": (1, 1_000_000, "[]"),
    "Text.length": (3, 1_000_000, "[]"),
    "Text.chunks": (1, 1_000, "[]"),
    "conditioner.vocabulary": (259, 1_000_000, "[]"),
    "conditioner.factor": (2, 65_536, "[]"),
    "conditioner.logsnr_min": LOGSNR,
    "conditioner.logsnr": LOGSNR,
    "encoder.width": (1, 1_000_000, "[]"),
    "encoder.layers": (1, 256, "[]"),
    "encoder.heads": (1, 1_000_000, "[]"),
    "encoder.head_channels": (1, 1_000_000, "[]"),
    "encoder.hidden": (1, 1_000_000, "[]"),
    "encoder.projection": (1, 1_000_000, "[]"),
    "encoder.layer": (-13, -1, "[]"),
    "encoder.buckets": (4, 1_000_000, "[]"),
    "encoder.distance": (9, 1_000_000, "[]"),
    "schedule.logsnr_min": LOGSNR,
    "schedule.logsnr_max": LOGSNR,
    "schedule.steps": (2, 100_000, "[]"),
    "LogitNormal.mean": (-20.0, 20.0, "[]"),
    "ScaledLinearBeta.first": (0.0, 1.0, "()"),
    "ScaledLinearBeta.last": (0.0, 1.0, "()"),
    "LogitNormal.std": (0.01, 20.0, "[]"),
    "objective.sigma_data": POSITIVE,
    "objective.noise_offset": ANY_SIZE,
    "objective.input_perturbation": ANY_SIZE,
    "objective.bound_weight": ANY_SIZE,
    "objective.steps": (1, 1_000_000, "[]"),
    "MinSNR.gamma": POSITIVE,
    "Sigmoid.bias": FREE,
    "P2.k": POSITIVE,
    "P2.gamma": ANY_SIZE,
    "optimiser.learning_rate": (1e-30, 1e30, "[]"),
    "optimiser.warmup": (0, 2**31 - 1, "[]"),
    "optimiser.b1": (0.0, 1.0, "[)"),
    "optimiser.b2": (0.0, 1.0, "[)"),
    "optimiser.eps": (1e-30, 1e30, "[]"),
    "optimiser.weight_decay": (0.0, 1e30, "[]"),
    "optimiser.clip_norm": (1e-30, 1e30, "[]"),
    "optimiser.train_steps": (1, 2**31 - 1, "[]"),
    "average.decay": (0.0, 1.0, "[)"),
    "average.width": (0.0, 0.28, "()"),
    "guidance.low": FREE,
    "guidance.high": FREE,
    "guidance.ws": FREE,
    "guidance.phi": SHARE,
    "guidance.eta": FREE,
    "guidance.norm_threshold": ANY_SIZE,
    "solver.v": SHARE,
    "solver.eta": SHARE,
    "solver.gamma": (0.0, math.sqrt(2.0) - 1.0, "[]"),
    "solver.noise_scale": (0.0, 2.0, "[]"),
    "solver.s_min": (0.0, math.inf, "[]"),
    "solver.s_max": (0.0, math.inf, "[]"),
    "solver.order": (1, 3, "[]"),
    "UniformLogSNR.start": FREE,
    "UniformLogSNR.end": FREE,
    "Karras.rho": (0.1, 1000.0, "[]"),
    "Karras.start": FREE,
    "Karras.end": FREE,
    "Secant.centre": LOGSNR,
    "Secant.width": (0.2, 1000.0, "[]"),
    "Secant.spread": (0.0, 80.0, "[]"),
    "Secant.end": FREE,
    "Secant.growth": (0.0, 80.0, "[]"),
    "Secant.start": FREE,
    "clip.percentile": SHARE,
}
"""Of each number: the least, the greatest, and which of the two it may be."""

ODD = (
    *(None, True, 0, -1, 10**30, -(10**6), 1.5, -0.5, math.nan, math.inf, -math.inf),
    *("x", "", "\n", (), (1,), ("x",), (math.nan,), ((1,),), {}, {"kind": 3}, {"kind": "x"}),
)
FOREIGN = (
    *(1j, b"x", object(), 10**400, [1], [[1], [2, 3]], np.array(["x"]), np.array([0.5, math.nan])),
    np.array([-1.0, 2.0]),
)
KINDS = [(slot.name, name) for slot in slots.SLOTS.values() for name in slot.kinds]
FIELDS = [
    (slot, name, field)
    for slot, name in KINDS
    for field in slots.fields(slots.SLOTS[slot].kinds[name])
]


def parts(slot, name, field):
    """The kind, its node with what it needs, and the field."""
    kind = slots.SLOTS[slot].kinds[name]
    return kind, dict(recipe.node(kind).items()) | GIVEN.get(name, {}), slots.fields(kind)[field]


def fits(field, *candidates):
    """Whether a field is of a known type that one of these is of."""
    expected = values.expected(field)
    known = slots.slot_of(field) is None and not values.fits("x", expected)
    return known and any(values.fits(value, expected) for value in candidates)


def of_type(field, value):
    """Whether a value is of a field's type; anything is of one that is not known."""
    expected = values.expected(field)
    is_known = slots.slot_of(field) is None and Any not in (expected, *typing.get_args(expected))
    return values.fits(value, expected) if is_known else slots.slot_of(field) is None


def is_number(field):
    """Whether a field holds a number, or several."""
    is_tuple = fits(field, (1,), (1, 1, 1)) and not fits(field, ("x",))
    return is_tuple or (fits(field, 1) and not fits(field, ()))


NUMBERS = [place for place in FIELDS if is_number(parts(*place)[2])]


def outside(low, high, ends, whole):
    """Numbers that lie outside a range, those nearest to its ends among them."""
    yield math.nan
    for end, away, closed in ((low, -math.inf, ends[0] == "["), (high, math.inf, ends[1] == "]")):
        if not (math.isinf(end) and closed):
            yield away
        if math.isfinite(end) and whole:
            yield from (end + 0.5, int(end + math.copysign(1, away)))
        elif math.isfinite(end):
            yield math.nextafter(end, away) if closed else end


@pytest.mark.parametrize(("slot", "name"), KINDS)
def test_every_kind_is_made_of_its_defaults_and_what_it_needs(slot, name):
    """So that what the walks below find wrong is the field that they change."""
    kind = slots.SLOTS[slot].kinds[name]
    node = dict(recipe.node(kind).items()) | GIVEN.get(name, {})
    assert slots.SLOTS[slot].fits(recipe.make(node, slot, "config.here", train_steps=10))


@pytest.mark.parametrize(("slot", "name", "field"), NUMBERS)
def test_numbers_outside_their_range_are_refused(slot, name, field):
    _, node, known = parts(slot, name, field)
    kinds_own = f"{name}.{field}" in RANGES
    low, high, ends = RANGES[f"{name}.{field}" if kinds_own else f"{slot}.{field}"]
    several = not fits(known, 1)
    whole = not fits(known, *([(1.5,), (1.5, 1.5, 1.5)] if several else [1.5]))
    for number in outside(low, high, ends, whole):
        value = (number, *(known.default or ())[1:]) if several else number
        with pytest.raises(ValueError, match=field) as refusal:
            recipe.make(node | {field: value}, slot, "config.here", train_steps=10)
        assert str(refusal.value).startswith("config.here")


def test_every_number_has_a_range_above():
    told = [{f"{name}.{field}", f"{slot}.{field}"} & set(RANGES) for slot, name, field in NUMBERS]
    assert all(told)
    assert set().union(*told) == set(RANGES)


@pytest.mark.parametrize(("slot", "name", "field"), FIELDS)
def test_made_in_python_of_what_no_recipe_holds_it_says_so_in_one_line(
    monkeypatch, slot, name, field
):
    """By a ValueError, whatever the value is; what is taken is of the field's type, or an array."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    kind, _, known = parts(slot, name, field)
    traced = slot == "solver" and not kind.__dataclass_fields__[field].metadata.get("static")
    for value in (*ODD, *FOREIGN):
        try:
            kind(**(GIVEN.get(name, {}) | {field: value}))
        except ValueError as error:
            message = str(error)
            assert "\n" not in message
            assert len(message) < 500
        else:
            is_array = traced and isinstance(value, np.ndarray) and np.all(np.isfinite(value))
            assert of_type(known, value) or is_array or value is None, f"{value!r} is taken"


@pytest.mark.parametrize(("slot", "name", "field"), FIELDS)
def test_odd_values_are_taken_or_refused_in_one_line(slot, name, field):
    """Those that are of another type are refused."""
    _, node, known = parts(slot, name, field)
    for value in ODD:
        is_wrong = slots.slot_of(known) is None and not values.fits(value, values.expected(known))
        is_open = value is None and field in slots.FACTS
        try:
            recipe.make(node | {field: value}, slot, "config.here", train_steps=10)
        except ValueError as error:
            message = str(error)
            assert message.startswith("config.here")
            assert "\n" not in message
            assert len(message) < 500
        else:
            assert not is_wrong or is_open, f"{value!r} is taken"


@pytest.mark.parametrize(("slot", "name", "field"), FIELDS)
def test_every_field_is_explained(slot, name, field):
    assert meanings(slots.SLOTS[slot].kinds[name]).get(field)
