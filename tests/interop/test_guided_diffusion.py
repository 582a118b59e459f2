"""Checkpoints of guided-diffusion: their names, and the networks they make, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adm import Network, Spec
from networks import bilinear

from cfg_jax import schedules
from cfg_jax.interop import guided_diffusion
from cfg_jax.interop.guided_diffusion import ARCHITECTURES, Architecture
from cfg_jax.networks import Encoder, UNet
from cfg_jax.nn import TimestepFeatures
from cfg_jax.parts import Beside, Classes

SCHEDULE = schedules.LinearBeta(steps=100)
LEVELS = {
    "channels": 32,
    "channel_mult": (1, 2),
    "blocks": 1,
    "attention_resolutions": (4,),
    "head_channels": 32,
    "level_features": TimestepFeatures(schedule=SCHEDULE),
}
LABEL = ("label", Classes(5))
COND = {"label": jnp.array([4, 0, 2])}
T = np.array([0, 37, 99])
LAM = jnp.asarray(SCHEDULE.levels[T], jnp.float32)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 8, 8, 3))


def conv(inputs, outputs, size=3):
    return {"weight": (outputs, inputs, size, size), "bias": (outputs,)}


def conv1d(inputs, outputs):
    return {"weight": (outputs, inputs, 1), "bias": (outputs,)}


def linear(inputs, outputs):
    return {"weight": (outputs, inputs), "bias": (outputs,)}


def norm(channels):
    return {"weight": (channels,), "bias": (channels,)}


def residual(inputs, outputs):
    return {
        "in_layers.0": norm(inputs),
        "in_layers.2": conv(inputs, outputs),
        "emb_layers.1": linear(128, 2 * outputs),
        "out_layers.0": norm(outputs),
        "out_layers.3": conv(outputs, outputs),
        **({"skip_connection": conv(inputs, outputs, 1)} if inputs != outputs else {}),
    }


def attention(channels):
    return {
        "norm": norm(channels),
        "qkv": conv1d(channels, 3 * channels),
        "proj_out": conv1d(channels, channels),
    }


def way_down(down):
    return {
        "time_embed.0": linear(32, 128),
        "time_embed.2": linear(128, 128),
        "input_blocks.0.0": conv(3, 32),
        "input_blocks.1.0": residual(32, 32),
        "input_blocks.2.0": down,
        "input_blocks.3.0": residual(32, 64),
        "input_blocks.3.1": attention(64),
        "middle_block.0": residual(64, 64),
        "middle_block.1": attention(64),
        "middle_block.2": residual(64, 64),
    }


def way_up(up):
    return {
        "output_blocks.0.0": residual(128, 64),
        "output_blocks.0.1": attention(64),
        "output_blocks.1.0": residual(96, 64),
        "output_blocks.1.1": attention(64),
        "output_blocks.1.2": up,
        "output_blocks.2.0": residual(96, 32),
        "output_blocks.3.0": residual(64, 32),
        "out.0": norm(32),
        "out.2": conv(32, 6),
    }


UNET = {
    **way_down(residual(32, 32)),
    **way_up(residual(64, 64)),
    "label_emb": {"weight": (5, 128)},
}
CONV = {
    **way_down({"op": conv(32, 32)}),
    **way_up({"conv": conv(64, 64)}),
    "label_emb": {"weight": (5, 128)},
}
UPSAMPLER = {**UNET, "input_blocks.0.0": conv(6, 32)}
ENCODER = {
    **way_down(residual(32, 32)),
    "out.0": norm(64),
    "out.2": {
        "positional_embedding": (64, 17),
        "qkv_proj": conv1d(64, 192),
        "c_proj": conv1d(64, 5),
    },
}
RESIZED = {"input_blocks.2.0": "down", "output_blocks.1.2": "up"}


def flat(names, prefix=""):
    """{"a": {"b": shape}} as {"a.b": shape}."""
    found = {}
    for name, inner in names.items():
        if isinstance(inner, dict):
            found |= flat(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = inner
    return found


def tensors(names):
    """Random values of a scale that keeps activations near one; none is zero."""
    rng = np.random.default_rng(1)

    def values(shape):
        spread = 0.5 if len(shape) < 2 else 1 / np.sqrt(np.prod(shape[1:]))
        return (rng.normal(size=shape) * spread).astype(np.float32)

    return {name: values(shape) for name, shape in flat(names).items()}


def unet(**options):
    return UNet(**{**LEVELS, "inlets": (LABEL,), "learned_variance": True} | options)


def encoder():
    return Encoder(**LEVELS, num_classes=5)


def nchw(x):
    return np.moveaxis(np.asarray(x, np.float64), -1, 1)


@functools.partial(jax.jit, static_argnums=0)
def answers(network, params, z, logsnr, cond):
    return network.apply(params, z, logsnr, cond)


def check_unet(network, state, spec, x, cond, seen):
    """Compares ε̂ and v of our network with those of NumPy's, which sees `seen`."""
    arch = Architecture(network=network, side=8, legacy=spec.legacy)
    params = guided_diffusion.parameters(state, arch)
    eps, v = answers(network, params, jnp.asarray(x, jnp.float32), LAM, cond)
    want = np.moveaxis(Network(state, spec).unet(nchw(seen), T, cond.get("label")), 1, -1)
    scale = np.abs(want).max()
    np.testing.assert_allclose(eps, want[..., :3], atol=1e-4 * scale)
    np.testing.assert_allclose(v, (want[..., 3:] + 1) / 2, atol=1e-4 * scale)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("heads", [0, 4])
@pytest.mark.slow
def test_a_unet_is_theirs(legacy, heads):
    spec = Spec(32, legacy=legacy, heads=heads, resized=RESIZED)
    check_unet(unet(heads=heads), tensors(UNET), spec, X, COND, X)


def test_a_unet_that_changes_size_by_convolutions_is_theirs():
    check_unet(unet(resample="conv"), tensors(CONV), Spec(32), X, COND, X)


def test_an_unconditional_unet_is_theirs():
    names = {name: shape for name, shape in UNET.items() if name != "label_emb"}
    check_unet(unet(inlets=()), tensors(names), Spec(32, resized=RESIZED), X, {}, X)


def test_an_upsampler_is_theirs():
    small = X[:, :4, 2:6]
    cond = {**COND, "small": jnp.asarray(small, jnp.float32)}
    seen = np.concatenate([X, bilinear(small, 2)], axis=-1)
    spec = Spec(32, resized=RESIZED)
    network = unet(inlets=(LABEL, ("small", Beside((4, 4, 3)))))
    check_unet(network, tensors(UPSAMPLER), spec, X, cond, seen)


def test_a_classifier_is_theirs():
    network = encoder()
    state = tensors(ENCODER)
    params = guided_diffusion.parameters(state, Architecture(network=network, side=8))
    got = jax.jit(network.apply)(params, jnp.asarray(X, jnp.float32), LAM)
    want = Network(state, Spec(32, resized=RESIZED)).classifier(nchw(X), T)
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_half_precision_becomes_float32():
    state = {name: value.astype(np.float16) for name, value in tensors(ENCODER).items()}
    params = guided_diffusion.parameters(state, Architecture(network=encoder(), side=8))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


PUBLISHED = {
    "imagenet64": 296,
    "imagenet128": 422,
    "imagenet256": 554,
    "imagenet512": 559,
    "upsampler64_256": 312,
    "upsampler128_512": 309,
    "imagenet64_classifier": 65,
    "imagenet128_classifier": 43,
    "imagenet256_classifier": 54,
    "imagenet512_classifier": 54,
}
"""Millions of parameters: Dhariwal & Nichol 2021, Tables 11 and 12."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_have_the_published_sizes(name):
    arch = guided_diffusion.architecture(name)
    shapes = jax.tree.leaves(arch.network.shapes(arch.shape))
    assert round(sum(leaf.size for leaf in shapes) / 1e6) == PUBLISHED[name]


def test_the_published_schedules():
    for name, arch in ARCHITECTURES.items():
        cosine = name in ("imagenet64", "imagenet64_classifier")
        kind = schedules.CosineBeta if cosine else schedules.LinearBeta
        assert arch.schedule == kind(steps=1000)


def refusal(state, network=None):
    arch = Architecture(network=network or unet(), side=8)
    with pytest.raises(ValueError, match="of another architecture") as caught:
        guided_diffusion.parameters(state, arch)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tensors_of_another_network_are_told_apart():
    state = tensors(UNET)
    lacking = dict(state)
    del lacking["label_emb.weight"]
    assert "1 missing (label_emb.weight)" in refusal(lacking)
    assert "1 unexpected (extra)" in refusal({**state, "extra": np.zeros(3)})
    other = {**state, "out.0.bias": np.zeros(7)}
    assert "1 of another shape (out.0.bias (7,) for (32,))" in refusal(other)
    larger = unet(channel_mult=(1, 2, 2))
    wanted = guided_diffusion.tensor_shapes(Architecture(network=larger, side=8))
    missing = [name for name in wanted if name not in state]
    many = refusal(state, larger)
    assert f"{len(missing)} missing" in many
    assert f"and {len(missing) - 3} more)" in many
    assert len(many) < 600


def test_an_unknown_architecture_is_refused_with_all_names():
    with pytest.raises(ValueError, match=r"there is no architecture 'imagenet65'.*imagenet512"):
        guided_diffusion.architecture("imagenet65")
