"""Diffusers' autoencoders, run by torch in float64 beside ours on the same random weights."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.codecs import quantise
from cfg_jax.interop import diffusers_autoencoders as interop
from cfg_jax.interop.diffusers_autoencoder_configs import config

torch = pytest.importorskip("torch", reason="needs torch")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
pytestmark = pytest.mark.parity

RELATIVE = 1e-4
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 12, 20, 3)), jnp.float32)
LEVELS = {
    "block_out_channels": (16, 32, 24),
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "layers_per_block": 2,
    "norm_num_groups": 8,  # a group of one channel would hide the biases before it
}
PLAIN = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
KLS = {
    "quant": LEVELS | {"latent_channels": 4, "shift_factor": 0.1},
    "bare": PLAIN
    | {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False},
    "one_level": {"block_out_channels": (16,), "norm_num_groups": 8, "use_quant_conv": False},
}
VQS = {
    "attention": LEVELS | {"latent_channels": 3, "num_vq_embeddings": 11},
    "width": PLAIN | {"latent_channels": 4, "vq_embed_dim": 2, "num_vq_embeddings": 7},
}


def randomised(module):
    """New values for every parameter, norms and biases too; codes are near vectors of X."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        spread = 0.5 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    module = module.double().eval()
    if hasattr(module, "quantize"):
        codes = module.quantize.embedding.weight
        vectors = module.encode(nchw(X)).latents.detach().movedim(1, -1).flatten(0, -2)
        near = vectors[:: len(vectors) // len(codes)][: len(codes)]
        codes.data = (near + 0.1 * torch.randn(near.shape, generator=generator)).float().double()
    return module


def pair(kind, options):
    """Their module, and our autoencoder with its variables."""
    theirs = randomised(getattr(diffusers, kind)(**options))
    tensors = {name: value.float().numpy() for name, value in theirs.state_dict().items()}
    return theirs, *interop.read({"_class_name": kind, **theirs.config}, tensors)


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x, np.float64), -1, 1)))


def nhwc(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def distance(got, want):
    """The largest error over the largest value."""
    assert np.shape(got) == np.shape(want)
    return np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max()


def outputs(module):
    """A dictionary that a run of their module fills with what each of its parts returns."""
    seen = collections.OrderedDict()
    for name, part in module.named_modules():
        if name:

            def hook(_, __, value, name=name):
                if isinstance(value, torch.Tensor) and value.ndim == 4:
                    seen[name] = nhwc(value)

            part.register_forward_hook(hook)
    return seen


NAMES = [
    (r"/input\b", ".conv_in"),
    (r"/output_norm\b", ".conv_norm_out"),
    (r"/output\b", ".conv_out"),
    (r"/middle\b", ".mid_block"),
    (r"/block_(\d+)", r".resnets.\1"),
    (r"/attention_(\d+)", r".attentions.\1"),
    (r"/downsamples_(\d+)", r".down_blocks.\1.downsamplers.0"),
    (r"/upsamples_(\d+)", r".up_blocks.\1.upsamplers.0"),
    (r"encoder/levels_(\d+)", r"encoder.down_blocks.\1"),
    (r"decoder/levels_(\d+)", r"decoder.up_blocks.\1"),
    (r"^(post_)?quant$", r"\1quant_conv"),
    (r"resnets\.(\d+)/GroupNorm_0", r"resnets.\1.norm1"),
    (r"resnets\.(\d+)/GroupNorm_1", r"resnets.\1.norm2"),
    (r"resnets\.(\d+)/Conv_(\d)$", r"resnets.\1.CONV\2"),
    (r"CONV0", "conv1"),
    (r"CONV1", "conv2"),
    (r"CONV2", "conv_shortcut"),
]
"""Ours of a part to theirs; levels, which there end with another size, have no counterpart."""


def by_their_names(intermediates):
    flat = collections.OrderedDict()
    for path, value in jax.tree_util.tree_leaves_with_path(intermediates):
        name = "/".join(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        name = name.removesuffix("/__call__")
        for ours, theirs in NAMES:
            name = re.sub(ours, theirs, name)
        if not re.search(r"blocks\.\d+$", name):
            flat[name] = value
    return flat


def check_parts(got, want, least):
    """Every part of ours is one of theirs, in the same order of magnitude of error."""
    common = [name for name in got if name in want]
    assert len(common) >= least
    for kind in ("conv_in", "resnets", "mid_block", "conv_norm_out", "conv_out"):
        assert any(kind in name for name in common), kind
    worst = max((distance(got[name], want[name]), name) for name in common)
    assert worst[0] < RELATIVE, worst


def applied(codec, method):
    """A method, with what its parts return."""
    kept = {"capture_intermediates": True, "mutable": ["intermediates"]}

    @jax.jit
    def run(variables, x):
        out, state = codec.apply(variables, x, method=method, **kept)
        return out, state["intermediates"]

    return run


@pytest.mark.parametrize("case", KLS)
def test_every_part_of_a_kl_autoencoder(case):
    theirs, codec, variables = pair("AutoencoderKL", KLS[case])
    seen = outputs(theirs)
    posterior = theirs.encode(nchw(X)).latent_dist
    moments, parts = applied(codec, codec.moments)(variables, X)
    for got, want in ((moments.mean, posterior.mean), (moments.logvar, posterior.logvar)):
        assert distance(got, nhwc(want)) < RELATIVE
    assert distance(moments.kl(), posterior.kl().detach().numpy()) < RELATIVE
    check_parts(by_their_names(parts), seen, 8)

    z = jnp.asarray(RNG.normal(size=moments.mean.shape), jnp.float32)
    scale, shift = theirs.config.scaling_factor, theirs.config.shift_factor or 0.0
    assert (
        distance(
            codec.apply(variables, X, method=codec.encode),
            (posterior.mean.detach().movedim(1, -1).numpy() - shift) * scale,
        )
        < RELATIVE
    )
    want = theirs.decode(nchw(z) / scale + shift).sample
    got, parts = applied(codec, codec.decode)(variables, z)
    assert distance(got, nhwc(want)) < RELATIVE
    check_parts(by_their_names(parts), seen, 8)


def assert_gradients(ours, theirs, codec, got):
    """Every parameter's gradient, theirs filled in by `backward`."""
    named = interop.tensors(ours, codec)
    want = {name: value.grad.numpy() for name, value in theirs.named_parameters()}
    assert set(named) == set(want)
    assert all(np.abs(value).max() > 0 for value in want.values())
    # A softmax does not change with k's bias, so that its gradient is rounding beside q's.
    against = {name: want[name.replace("to_k.bias", "to_q.bias")] for name in want}
    error = {name: np.abs(named[name] - want[name]).max() for name in want}
    worst = max((error[name] / np.abs(against[name]).max(), name) for name in want)
    assert worst[0] < RELATIVE, worst
    assert distance(*got) < RELATIVE


@pytest.mark.parametrize("case", ["quant", "bare"])
def test_gradients_of_a_kl_autoencoder(case):
    theirs, codec, variables = pair("AutoencoderKL", KLS[case])
    shape = codec.apply(variables, X, method=codec.moments).mean.shape
    eps = RNG.normal(size=shape).astype(np.float32)
    weight = RNG.normal(size=X.shape).astype(np.float32)

    x = nchw(X).requires_grad_(True)
    posterior = theirs.encode(x).latent_dist
    back = theirs.decode(posterior.mean + posterior.std * nchw(eps)).sample
    ((back * nchw(weight)).sum() + 0.1 * posterior.kl().sum()).backward()

    def loss(variables, x):
        moments = codec.apply(variables, x, method=codec.moments)
        z = codec.scaled(moments.mean + moments.std * eps)
        back = codec.apply(variables, z, method=codec.decode)
        return (back * weight).sum() + 0.1 * moments.kl().sum()

    ours, by_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, X)
    assert_gradients(ours, theirs, codec, (by_x, nhwc(x.grad)))


@pytest.mark.parametrize("case", VQS)
def test_every_part_of_a_vq_autoencoder(case):
    theirs, codec, variables = pair("VQModel", VQS[case])
    seen = outputs(theirs)
    latents = theirs.encode(nchw(X)).latents
    got, parts = applied(codec, codec.latents)(variables, X)
    assert distance(got, nhwc(latents)) < RELATIVE
    check_parts(by_their_names(parts), seen, 8)

    quantised, _, (_, _, codes) = theirs.quantize(latents)
    assert len(np.unique(codes)) > 3
    assert distance(codec.scaled(got), nhwc(latents) * codec.scale) < RELATIVE
    found = codec.apply(variables, got, method=codec.quantised)
    np.testing.assert_array_equal(found.codes.ravel(), codes)
    assert distance(found.vectors, nhwc(quantised)) < RELATIVE
    np.testing.assert_array_equal(codec.apply(variables, X, method=codec.codes), found.codes)

    decoded = theirs.decode(latents)
    back, parts = applied(codec, codec.decode)(variables, codec.scaled(got))
    assert distance(back, nhwc(decoded.sample)) < RELATIVE
    check_parts(by_their_names(parts), seen, 8)
    from_codes = codec.apply(variables, found.codes, method=codec.from_codes)
    assert distance(from_codes, nhwc(decoded.sample)) < RELATIVE
    assert distance(found.loss.mean(), decoded.commit_loss.item()) < RELATIVE


@pytest.mark.parametrize("case", VQS)
def test_losses_and_gradients_of_a_vq_autoencoder(case):
    theirs, codec, variables = pair("VQModel", VQS[case])
    weight = RNG.normal(size=X.shape).astype(np.float32)
    x = nchw(X).requires_grad_(True)
    back, commitment = theirs(x, return_dict=False)
    ((back * nchw(weight)).mean() + commitment).backward()

    def loss(variables, x):
        back, found = codec.apply(variables, x)
        return (back * weight).mean() + found.loss.mean()

    ours, by_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, X)
    used = theirs.quantize.embedding.weight.grad.abs().sum(1) > 0
    assert used.sum() > 3
    assert_gradients(ours, theirs, codec, (by_x, nhwc(x.grad)))


@pytest.mark.parametrize("swapped", [False, True])
def test_the_loss_of_a_codebook_with_beta_on_either_term(swapped):
    from diffusers.models.autoencoders.vae import VectorQuantizer

    theirs = VectorQuantizer(6, 3, beta=0.4, legacy=swapped).double()
    theirs.embedding.weight.data = torch.from_numpy(RNG.normal(size=(6, 3)))
    z = RNG.normal(size=(2, 4, 5, 3))
    weight = RNG.normal(size=z.shape)
    given = nchw(z).requires_grad_(True)
    vectors, loss, _ = theirs(given)
    (loss + (vectors * nchw(weight)).sum()).backward()

    def ours(codebook, z):
        found = quantise.quantise(codebook, z, beta=0.4, swapped=swapped)
        return found.loss.mean() + (found.vectors * weight).sum()

    codebook = jnp.asarray(theirs.embedding.weight.detach().numpy(), jnp.float32)
    by_codes, by_z = jax.grad(ours, argnums=(0, 1))(codebook, jnp.asarray(z, jnp.float32))
    assert distance(by_codes, theirs.embedding.weight.grad.numpy()) < RELATIVE
    assert distance(by_z, nhwc(given.grad)) < RELATIVE


@pytest.mark.parametrize(
    ("kind", "options"),
    [("AutoencoderKL", case) for case in KLS.values()]
    + [("VQModel", case) for case in VQS.values()],
)
def test_what_we_write_is_what_they_hold(kind, options):
    theirs, codec, variables = pair(kind, options)
    again = config(codec)
    made = getattr(diffusers, kind)(**{k: v for k, v in again.items() if k != "_class_name"})
    state = {
        name: torch.from_numpy(value) for name, value in interop.tensors(variables, codec).items()
    }
    made.load_state_dict(state, strict=True)
    want = theirs(nchw(X)).sample
    assert distance(nhwc(made.double().eval()(nchw(X)).sample), nhwc(want)) < 1e-6


def test_the_old_names_of_attention_and_its_convolutions_are_read():
    _, codec, variables = pair("AutoencoderKL", KLS["quant"])
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, value in interop.tensors(variables, codec).items():
        for new, former in old.items():
            name = re.sub(rf"(attentions\.\d+\.){re.escape(new)}\.", rf"\1{former}.", name)
        convolved = ".attentions." in name and value.ndim == 2
        tensors[name] = value[..., None, None] if convolved else value
    assert any("proj_attn" in name for name in tensors)
    assert not any("to_q" in name for name in tensors)
    jax.tree.map(np.testing.assert_array_equal, interop.parameters(tensors, codec), variables)


@pytest.mark.parametrize(
    ("kind", "options", "count"),
    [
        ("AutoencoderKL", {"latent_channels": 4}, 83_653_863),
        (
            "AutoencoderKL",
            {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
            83_819_683,
        ),
        ("VQModel", {"num_vq_embeddings": 8192}, 55_322_782),
    ],
)
def test_published_networks_have_their_tensors(kind, options, count):
    """Without memory behind them."""
    wide = (128, 256, 512, 512) if kind == "AutoencoderKL" else (128, 256, 512)
    said = {
        "block_out_channels": wide,
        "down_block_types": ("DownEncoderBlock2D",) * len(wide),
        "up_block_types": ("UpDecoderBlock2D",) * len(wide),
        "layers_per_block": 2,
    }
    with torch.device("meta"):
        theirs = getattr(diffusers, kind)(**said | options)
    want = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    got = interop.tensor_shapes(interop.codec({"_class_name": kind, **theirs.config}))
    assert got == want
    assert sum(np.prod(shape) for shape in got.values()) == count
