"""Guided-diffusion itself, run by torch beside ours on the same weights and the same noise.

Needs torch, and a checkout of OpenAI's guided-diffusion that GUIDED_DIFFUSION names.
"""

import functools
import importlib.util
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfg_jax
from cfg_jax import grids, guidance, prediction, schedules, solvers
from cfg_jax.interop import guided_diffusion
from cfg_jax.interop.guided_diffusion import ARCHITECTURES, Architecture
from cfg_jax.networks import Encoder, UNet
from cfg_jax.networks.encoder import LogProb
from cfg_jax.nn import TimestepFeatures
from cfg_jax.parts import Beside, Classes
from cfg_jax.runtime import torch_file

CHECKOUT = os.environ.get("GUIDED_DIFFUSION")
pytestmark = [
    pytest.mark.guided_diffusion,
    pytest.mark.skipif(not CHECKOUT, reason="GUIDED_DIFFUSION names no checkout"),
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
]
if CHECKOUT:
    sys.path.append(CHECKOUT)

SIDE, CLASSES, STEPS = 16, 5, 20
LEVELS = {
    "channels": 32,
    "channel_mult": (1, 2, 2),
    "blocks": 1,
    "attention_resolutions": (8, 4),
    "head_channels": 32,
}
LABEL = ("label", Classes(CLASSES))
SCHEDULE = schedules.LinearBeta(steps=1000)
KEY = jax.random.key(7)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, SIDE, SIDE, 3)).astype(np.float32)
T = np.array([0, 421, 999])
LABELS = np.array([4, 0, 2])
COND = {"label": jnp.asarray(LABELS)}


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def randomised(module):
    """New values for every parameter: many start at zero, which would hide what they do."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        spread = 0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = spread * noise
    return module.eval()


def ours(module, network, tmp_path, legacy=True):
    """Our variables, by way of a file that torch wrote."""
    import torch

    torch.save(module.state_dict(), tmp_path / "model.pt")
    arch = Architecture(network=network, side=SIDE, legacy=legacy)
    return guided_diffusion.parameters(torch_file.read(tmp_path / "model.pt"), arch)


def their_levels(**options):
    return {
        "image_size": SIDE,
        "in_channels": 3,
        "model_channels": 32,
        "num_res_blocks": 1,
        "attention_resolutions": (2, 4),
        "channel_mult": (1, 2, 2),
        "num_head_channels": 32,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
    } | options


def their_unet(**options):
    from guided_diffusion.unet import UNetModel

    return randomised(UNetModel(**their_levels(out_channels=6, num_classes=CLASSES) | options))


def their_classifier():
    from guided_diffusion.unet import EncoderUNetModel

    return randomised(EncoderUNetModel(**their_levels(out_channels=CLASSES, pool="attention")))


def told(rescaled=False, schedule=SCHEDULE):
    return TimestepFeatures(schedule=schedule, rescaled=rescaled)


def our_unet(**options):
    return UNet(
        **LEVELS
        | {"inlets": (LABEL,), "learned_variance": True, "level_features": told()}
        | options
    )


def our_classifier():
    return Encoder(**LEVELS, num_classes=CLASSES, level_features=told())


def nchw(x):
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def nhwc(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def assert_close(got, want, relative):
    np.testing.assert_allclose(got, want, atol=relative * np.abs(want).max(), rtol=0)


@functools.partial(jax.jit, static_argnums=0)
def both(network, params, z, logsnr, cond):
    """All outputs, as theirs has them."""
    eps, v = network.apply(params, z, logsnr, cond)
    return jnp.concatenate([eps, 2 * v - 1], axis=-1)


KINDS = {
    "legacy attention": ({}, {}, True),
    "new attention": ({"use_new_attention_order": True}, {}, False),
    "heads": ({"num_head_channels": -1, "num_heads": 4}, {"heads": 4}, True),
    "convolutions": ({"resblock_updown": False}, {"resample": "conv"}, True),
    "unconditional": ({"num_classes": None}, {"inlets": ()}, True),
    "fewer channels first": (
        {"model_channels": 64, "channel_mult": (0.5, 1, 1)},
        {"channels": 64, "channel_mult": (0.5, 1, 1)},
        True,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_unets(kind, tmp_path):
    import torch

    theirs, options, legacy = KINDS[kind]
    module, network = their_unet(**theirs), our_unet(**options)
    params = ours(module, network, tmp_path, legacy)
    with torch.no_grad():
        y = torch.tensor(LABELS) if network.takes else None
        want = module(nchw(X), torch.from_numpy(T), y)
    lam = jnp.asarray(SCHEDULE.levels[T], jnp.float32)
    got = both(network, params, X, lam, COND if network.takes else {})
    assert_close(got, nhwc(want), 1e-4)


def test_rescaled_time_steps(tmp_path):
    import torch

    schedule = schedules.CosineBeta(steps=250)
    t = np.array([0, 100, 249])
    module, network = their_unet(), our_unet(level_features=told(True, schedule))
    params = ours(module, network, tmp_path)
    with torch.no_grad():
        want = module(nchw(X), torch.from_numpy(t * 4.0), torch.tensor(LABELS))
    got = both(network, params, X, jnp.asarray(schedule.levels[t], jnp.float32), COND)
    assert_close(got, nhwc(want), 1e-4)


def test_upsamplers(tmp_path):
    import torch
    from guided_diffusion.unet import SuperResModel

    levels = their_levels(out_channels=6, num_classes=CLASSES)
    sizes = levels.pop("image_size"), levels.pop("in_channels")
    module = randomised(SuperResModel(*sizes, **levels))
    network = our_unet(inlets=(LABEL, ("small", Beside((4, 4, 3)))))
    params = ours(module, network, tmp_path)
    small = X[:, :4, 3:7]
    with torch.no_grad():
        want = module(nchw(X), torch.from_numpy(T), low_res=nchw(small), y=torch.tensor(LABELS))
    cond = {**COND, "small": jnp.asarray(small)}
    got = both(network, params, X, jnp.asarray(SCHEDULE.levels[T], jnp.float32), cond)
    assert_close(got, nhwc(want), 1e-4)


def test_classifiers_and_their_gradients(tmp_path):
    import torch
    import torch.nn.functional as functional

    module, network = their_classifier(), our_classifier()
    params = ours(module, network, tmp_path)
    x = nchw(X).requires_grad_(True)
    logits = module(x, torch.from_numpy(T))
    chosen = functional.log_softmax(logits, dim=-1)[range(3), torch.tensor(LABELS)]
    (gradient,) = torch.autograd.grad(chosen.sum(), x)
    lam = jnp.asarray(SCHEDULE.levels[T], jnp.float32)
    assert_close(jax.jit(network.apply)(params, X, lam), logits.detach().numpy(), 1e-4)
    log_prob = LogProb(network=network, params=params, of="label")
    uphill = jax.jit(lambda f: f(jnp.asarray(X), lam, COND))
    assert_close(uphill(guidance.ascent(log_prob, w=1.0)), nhwc(gradient), 1e-4)


@pytest.fixture
def pair(tmp_path):
    """Their network and classifier, and our denoiser, which also tells v, and log p(c|z)."""
    unet, classifier = their_unet(), their_classifier()
    network, encoder = our_unet(), our_classifier()

    def denoiser(params, z, logsnr, cond):
        eps, v = network.apply(params, z, logsnr, cond)
        found = prediction.estimate(eps, z, logsnr=logsnr, kind=prediction.EPS)
        return found._replace(v=v)

    return (
        (unet, classifier),
        jax.tree_util.Partial(denoiser, ours(unet, network, tmp_path)),
        LogProb(network=encoder, params=ours(classifier, encoder, tmp_path), of="label"),
    )


def noises():
    """The noise of every step, as `sample` draws it."""
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(3))
    for fold in range(1, STEPS + 1):
        folded = jax.vmap(jax.random.fold_in, (0, None))(keys, fold)
        yield jax.vmap(lambda key: jax.random.normal(key, X.shape[1:]))(folded)


def their_sample(modules, monkeypatch, *, ddim, scale):
    import torch
    import torch.nn.functional as functional
    from guided_diffusion.script_util import create_gaussian_diffusion

    unet, classifier = modules
    diffusion = create_gaussian_diffusion(
        steps=1000, learn_sigma=True, timestep_respacing=f"ddim{STEPS}" if ddim else f"{STEPS}"
    )

    def uphill(x, t, y):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            chosen = functional.log_softmax(classifier(x, t), dim=-1)[range(len(y)), y]
            return torch.autograd.grad(chosen.sum(), x)[0] * scale

    drawn = noises()
    monkeypatch.setattr(torch, "randn_like", lambda x: nchw(next(drawn)))
    loop = diffusion.ddim_sample_loop if ddim else diffusion.p_sample_loop
    x = loop(
        unet,
        (3, 3, SIDE, SIDE),
        noise=nchw(X),
        cond_fn=uphill if scale else None,
        model_kwargs={"y": torch.tensor(LABELS)},
        device="cpu",
    )
    return nhwc(x)


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_twenty_ancestral_steps(pair, monkeypatch, scale):
    theirs, denoiser, log_prob = pair
    want = their_sample(theirs, monkeypatch, ddim=False, scale=scale)
    got = cfg_jax.sample(
        cfg_jax.denoiser.clipped(denoiser),
        KEY,
        COND,
        shape=X.shape[1:],
        schedule=SCHEDULE,
        solver=solvers.Ancestral(
            v=None, shift=guidance.ascent(log_prob, w=scale) if scale else None
        ),
        grid=grids.UniformU(),
        steps=STEPS,
        z=jnp.asarray(X),
    )
    assert np.abs(got - want).max() < 1e-3


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_twenty_ddim_steps(pair, monkeypatch, scale):
    theirs, denoiser, log_prob = pair
    want = their_sample(theirs, monkeypatch, ddim=True, scale=scale)
    got = cfg_jax.sample(
        guidance.classifier(cfg_jax.denoiser.clipped(denoiser), log_prob, w=scale),
        KEY,
        COND,
        shape=X.shape[1:],
        schedule=schedules.LinearBeta(steps=1000, spacing="leading"),
        solver=solvers.DDIM(),
        grid=grids.UniformU(),
        steps=STEPS,
        z=jnp.asarray(X),
    )
    assert np.abs(got - want).max() < 1e-3


IMAGENET = {
    "attention_resolutions": "32,16,8",
    "class_cond": True,
    "learn_sigma": True,
    "num_channels": 256,
    "num_head_channels": 64,
    "num_res_blocks": 2,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
}
FLAGS = {
    "imagenet64": IMAGENET
    | {"image_size": 64, "num_channels": 192, "num_res_blocks": 3, "use_new_attention_order": True},
    "imagenet128": IMAGENET | {"image_size": 128, "num_heads": 4, "num_head_channels": -1},
    "imagenet256": IMAGENET | {"image_size": 256},
    "imagenet256_uncond": IMAGENET | {"image_size": 256, "class_cond": False},
    "imagenet512": IMAGENET | {"image_size": 512},
    "lsun256": IMAGENET | {"image_size": 256, "class_cond": False},
    "upsampler64_256": IMAGENET
    | {"large_size": 256, "small_size": 64, "num_channels": 192, "num_heads": 4}
    | {"num_head_channels": -1},
    "upsampler128_512": IMAGENET
    | {"large_size": 512, "small_size": 128, "num_channels": 192, "attention_resolutions": "32,16"},
    "imagenet64_classifier": {"image_size": 64, "classifier_depth": 4},
    "imagenet128_classifier": {"image_size": 128},
    "imagenet256_classifier": {"image_size": 256},
    "imagenet512_classifier": {"image_size": 512},
}
"""The flags of its README that decide a network."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_published_networks_have_the_tensors_of_theirs(name):
    """Made by their own factory from the flags of their README; without memory behind them."""
    import torch
    from guided_diffusion import script_util

    if "classifier" in name:
        made, defaults = script_util.create_classifier, script_util.classifier_defaults()
    elif "upsampler" in name:
        made = script_util.sr_create_model_and_diffusion
        defaults = script_util.sr_model_and_diffusion_defaults()
    else:
        made = script_util.create_model_and_diffusion
        defaults = script_util.model_and_diffusion_defaults()
    with torch.device("meta"):
        module = made(**defaults | FLAGS[name])
    module = module[0] if isinstance(module, tuple) else module
    want = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert guided_diffusion.tensor_shapes(ARCHITECTURES[name]) == want
    orders = {type(m).__name__ for n, m in module.named_modules() if n.endswith(".attention")}
    pooled = {"QKVAttention"} if "classifier" in name else set()
    legacy = ARCHITECTURES[name].legacy
    assert orders == {"QKVAttentionLegacy" if legacy else "QKVAttention"} | pooled
