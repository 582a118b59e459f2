"""DiT against diffusers' network of the same random weights, by block and by gradient."""

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
    error,
    outputs_of,
    randomised,
)

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(0)
CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 7,
    "norm_eps": 1e-6,  # the published network's, in all norms
}
Z = RNG.normal(size=(3, 8, 8, 4)).astype(np.float32)
T, LABEL = np.array([981, 500, 3]), np.array([0, 6, 7])
AHEAD = RNG.normal(size=(3, 8, 8, 8)).astype(np.float32)
"""What outputs are weighted with, for gradients."""


@pytest.fixture(scope="module")
def theirs():
    """Blocks share their embeddings, and frequencies are divided by 128: as published."""
    model = randomised(diffusers.DiTTransformer2DModel(**CONFIG))
    for block in model.transformer_blocks:
        block.norm1.emb = model.transformer_blocks[0].norm1.emb
    model.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = 0
    return model


@pytest.fixture(scope="module")
def ours(theirs):
    network = interop.network(CONFIG | {"_class_name": type(theirs).__name__})
    tensors = arrays(theirs.state_dict().items())
    assert any("blocks.2.norm1.emb" in name for name in tensors)
    return network, interop.parameters(tensors, network, 4)


def cond():
    return {"label": jnp.asarray(LABEL)}


def levels(network):
    return jnp.asarray(network.level_features.schedule.levels[T], jnp.float32)


def asked(theirs, z):
    return theirs(z, timestep=torch.tensor(T), class_labels=torch.tensor(LABEL)).sample


def test_every_block_and_the_output_agree(theirs, ours):
    network, variables = ours
    with torch.no_grad():
        output, blocks = outputs_of(
            theirs.transformer_blocks, lambda: asked(theirs, channels_first(Z))
        )
    apply = jax.jit(functools.partial(network.apply, capture_intermediates=True))
    got, seen = apply(variables, jnp.asarray(Z), levels(network), cond())
    for i, block in enumerate(blocks):
        assert error(seen["intermediates"][f"block{i}"]["__call__"][0], block.numpy()) < 1e-4
    want = channels_last(output)
    assert error(got.value, want[..., :4]) < 1e-4
    assert error(got.v, (want[..., 4:] + 1) / 2) < 1e-4


def test_gradients_by_all_parameters_and_by_z_agree(theirs, ours):
    network, variables = ours
    z = channels_first(Z).requires_grad_()
    (asked(theirs, z) * channels_first(AHEAD)).sum().backward()
    grads = arrays((name, value.grad) for name, value in theirs.named_parameters())

    def loss(variables, z):
        got = network.apply(variables, z, levels(network), cond())
        return (jnp.concatenate([got.value, 2 * got.v], -1) * AHEAD).sum()

    got = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, jnp.asarray(Z))
    want = interop.parameters(grads, network, 4), channels_last(z.grad)
    assert error(got, want, 1e-3) < 1e-4


def test_tensors_of_another_network_are_counted(theirs, ours):
    network, _ = ours
    tensors = arrays(theirs.state_dict().items())
    del tensors["proj_out_2.bias"]
    tensors |= {"proj_out_3.weight": np.ones(3), "proj_out_1.bias": np.ones(3)}
    with pytest.raises(
        ValueError, match=r"1 missing \(proj_out_2.bias\); 1 unexpected .*; 1 of an"
    ):
        interop.parameters(tensors, network, 4)


def test_embeddings_that_blocks_do_not_share_are_refused(ours):
    network, _ = ours
    apart = randomised(diffusers.DiTTransformer2DModel(**CONFIG))
    with pytest.raises(ValueError, match="differs from the first block's"):
        interop.parameters(arrays(apart.state_dict().items()), network, 4)


def test_a_network_that_ours_is_not_is_refused():
    config = CONFIG | {"_class_name": "DiTTransformer2DModel"}
    with pytest.raises(ValueError, match="activation_fn must be 'gelu-approximate', got 'geglu'"):
        interop.network(config | {"activation_fn": "geglu"})
    with pytest.raises(ValueError, match="_class_name must be one of DiTTransformer2DModel, SD3"):
        interop.network(config | {"_class_name": "PixArtTransformer2DModel"})
