"""MMDiT against diffusers' network of Stable Diffusion 3, block by block and in its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.interop import diffusers_transformers as interop

torch = pytest.importorskip("torch", reason="needs torch")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
from torch_models import (  # noqa: E402
    arrays,
    channels_first,
    channels_last,
    double,
    error,
    outputs_of,
    randomised,
)

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
CONFIG = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 10,
    "pos_embed_max_size": 7,
}
KINDS = {
    "sd3": {},
    "sd3.5-large": {"qk_norm": "rms_norm"},
    "sd3.5-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0,)},
}
SIZES = {"square": (14, 14), "wide": (6, 10)}
T = np.array([0.5, 0.125])  # whose thousandfold float32 holds
LOGSNR = jnp.asarray(-2 * np.log(T / (1 - T)), jnp.float32)
TEXT = RNG.normal(size=(2, 5, 12)).astype(np.float32)
POOLED = RNG.normal(size=(2, 10)).astype(np.float32)
COND = {"text": jnp.asarray(TEXT), "pooled": jnp.asarray(POOLED)}


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    """Their network, and ours with its variables."""
    config = CONFIG | KINDS[request.param]
    theirs = randomised(diffusers.SD3Transformer2DModel(**config))
    network = interop.network(config | {"_class_name": type(theirs).__name__}, length=5)
    return theirs, network, interop.parameters(arrays(theirs.state_dict().items()), network, 4)


def asked(theirs, z):
    return theirs(
        z,
        encoder_hidden_states=double(TEXT),
        pooled_projections=double(POOLED),
        timestep=double(1000 * T),
    ).sample


@pytest.mark.parametrize("size", SIZES)
def test_every_block_and_the_output_agree(pair, size):
    """In both streams; positions of sizes below the grid's come from its middle."""
    theirs, network, variables = pair
    z = RNG.normal(size=(2, *SIZES[size], 4)).astype(np.float32)
    with torch.no_grad():
        output, blocks = outputs_of(
            theirs.transformer_blocks, lambda: asked(theirs, channels_first(z))
        )
    apply = jax.jit(functools.partial(network.apply, capture_intermediates=True))
    got, seen = apply(variables, jnp.asarray(z), LOGSNR, COND)
    for i, (context, image) in enumerate(blocks):
        ours = seen["intermediates"][f"block{i}"]["__call__"][0]
        assert error(ours[0], image.numpy()) < 1e-4
        assert (context is None) == (ours[1] is None) == (i == 1)
        assert context is None or error(ours[1], context.numpy()) < 1e-4
    assert error(got, channels_last(output)) < 1e-4


def test_gradients_by_all_parameters_and_by_z_agree(pair):
    """Positions are no parameters there, so they have no gradient to compare with."""
    theirs, network, variables = pair
    array, ahead = RNG.normal(size=(2, 2, 6, 10, 4)).astype(np.float32)
    z = channels_first(array).requires_grad_()
    theirs.zero_grad()
    (asked(theirs, z) * channels_first(ahead)).sum().backward()
    grads = {name: value.grad for name, value in theirs.named_parameters()}
    grads["pos_embed.pos_embed"] = torch.ones_like(theirs.pos_embed.pos_embed)

    def loss(variables, z):
        return (network.apply(variables, z, LOGSNR, COND) * ahead).sum()

    got = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, jnp.asarray(array))
    assert np.abs(got[0]["params"].pop("positions")).max() > 0
    want = interop.parameters(arrays(grads.items()), network, 4), channels_last(z.grad)
    del want[0]["params"]["positions"]
    assert error(got, want, 1e-3) < 1e-4


def test_larger_than_the_grid_is_an_error(pair):
    _, network, variables = pair
    z = jnp.ones((1, 16, 6, 4))
    with pytest.raises(
        ValueError, match="positions of 7 patches a side: sides are at most 14; got"
    ):
        network.apply(variables, z, LOGSNR[:1], jax.tree.map(lambda a: a[:1], COND))


def test_dual_attention_in_other_blocks_than_the_first_is_refused():
    config = CONFIG | {"_class_name": "SD3Transformer2DModel", "dual_attention_layers": (1,)}
    with pytest.raises(ValueError, match="dual_attention_layers must be"):
        interop.network(config)
