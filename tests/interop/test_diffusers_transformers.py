"""Names and layouts of diffusers' transformers, by hand; tests/networks compare with torch."""

import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.interop import diffusers_transformers as interop
from cfg_jax.nn import patched

RNG = np.random.default_rng(0)
SIZE = {
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "in_channels": 3,
    "num_layers": 1,
    "patch_size": 2,
}
DIT = SIZE | {
    "_class_name": "DiTTransformer2DModel",
    "out_channels": 6,
    "num_embeds_ada_norm": 5,
}
SD3 = SIZE | {
    "_class_name": "SD3Transformer2DModel",
    "joint_attention_dim": 7,
    "caption_projection_dim": 8,
    "pooled_projection_dim": 9,
    "pos_embed_max_size": 3,
    "qk_norm": "rms_norm",
    "dual_attention_layers": [0],
}


def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def dit_shapes():
    block = "transformer_blocks.0"
    shapes = {
        "pos_embed.proj.weight": (8, 3, 2, 2),
        "pos_embed.proj.bias": (8,),
        f"{block}.norm1.emb.class_embedder.embedding_table.weight": (6, 8),
    }
    return shapes | {
        name: shape
        for args in (
            (f"{block}.norm1.emb.timestep_embedder.linear_1", 256, 8),
            (f"{block}.norm1.emb.timestep_embedder.linear_2", 8, 8),
            (f"{block}.norm1.linear", 8, 48),
            (f"{block}.attn1.to_q", 8, 8),
            (f"{block}.attn1.to_k", 8, 8),
            (f"{block}.attn1.to_v", 8, 8),
            (f"{block}.attn1.to_out.0", 8, 8),
            (f"{block}.ff.net.0.proj", 8, 32),
            (f"{block}.ff.net.2", 32, 8),
            ("proj_out_1", 8, 16),
            ("proj_out_2", 8, 24),
        )
        for name, shape in linear(*args).items()
    }


def sd3_shapes():
    """Of a block that is the last, so that its context has two modulations and no output."""
    block = "transformer_blocks.0"
    shapes = {
        "pos_embed.proj.weight": (8, 3, 2, 2),
        "pos_embed.proj.bias": (8,),
        "pos_embed.pos_embed": (1, 9, 8),
    }
    norms = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
    shapes |= {f"{block}.attn.{name}.weight": (4,) for name in norms}
    shapes |= {f"{block}.attn2.{name}.weight": (4,) for name in norms[:2]}
    return shapes | {
        name: shape
        for args in (
            ("time_text_embed.timestep_embedder.linear_1", 256, 8),
            ("time_text_embed.timestep_embedder.linear_2", 8, 8),
            ("time_text_embed.text_embedder.linear_1", 9, 8),
            ("time_text_embed.text_embedder.linear_2", 8, 8),
            ("context_embedder", 7, 8),
            (f"{block}.norm1.linear", 8, 72),
            (f"{block}.norm1_context.linear", 8, 16),
            *((f"{block}.attn.{n}", 8, 8) for n in ("to_q", "to_k", "to_v", "to_out.0")),
            *((f"{block}.attn.add_{n}_proj", 8, 8) for n in "qkv"),
            *((f"{block}.attn2.{n}", 8, 8) for n in ("to_q", "to_k", "to_v", "to_out.0")),
            (f"{block}.ff.net.0.proj", 8, 32),
            (f"{block}.ff.net.2", 32, 8),
            ("norm_out.linear", 8, 16),
            ("proj_out", 8, 12),
        )
        for name, shape in linear(*args).items()
    }


CASES = {"dit": (DIT, dit_shapes()), "sd3": (SD3, sd3_shapes())}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """The network, and tensors of the names and shapes that diffusers writes."""
    config, shapes = CASES[request.param]
    tensors = {name: RNG.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    return interop.network(config, length=4), tensors


def test_every_tensor_has_its_place(case):
    network, tensors = case
    params = interop.parameters(tensors, network, 3)["params"]
    kernel = params["input"]["kernel"]
    assert kernel.dtype == jnp.float32
    x = RNG.normal(size=(1, 2, 2, 3)).astype(np.float32)
    want = np.einsum("hwi,oihw->o", x[0], tensors["pos_embed.proj.weight"].astype(float))
    np.testing.assert_allclose(patched(jnp.asarray(x), 2)[0, 0, 0] @ kernel, want, rtol=1e-4)
    hidden = tensors["transformer_blocks.0.ff.net.0.proj.weight"].T
    name = "image_forward" if "context_embedder.weight" in tensors else "forward"
    np.testing.assert_array_equal(params["block0"][name]["hidden"]["kernel"], hidden)


def test_the_two_that_hold_scale_before_shift_are_turned_round():
    network, tensors = interop.network(SD3, length=4), {}
    for name, shape in sd3_shapes().items():
        tensors[name] = RNG.normal(size=shape).astype(np.float32)
    params = interop.parameters(tensors, network, 3)["params"]
    for ours, theirs in (
        (params["output_modulation"], "norm_out.linear"),
        (params["block0"]["context_modulation"], "transformer_blocks.0.norm1_context.linear"),
    ):
        scale, shift = np.split(tensors[f"{theirs}.bias"], 2)
        np.testing.assert_array_equal(ours["dense"]["bias"], np.concatenate([shift, scale]))
        scale, shift = np.split(tensors[f"{theirs}.weight"].T, 2, axis=-1)
        kernel = np.concatenate([shift, scale], axis=-1)
        np.testing.assert_array_equal(ours["dense"]["kernel"], kernel)
    first = params["block0"]["image_modulation"]["dense"]["bias"]
    np.testing.assert_array_equal(first, tensors["transformer_blocks.0.norm1.linear.bias"])


def test_missing_and_surplus_tensors_are_counted_in_one_error(case):
    network, tensors = case
    first, second, *_ = tensors
    others = {name: tensor for name, tensor in tensors.items() if name not in (first, second)}
    with pytest.raises(ValueError, match=r"architecture: 2 missing .*; 1 unexpected .mid_block.x."):
        interop.parameters(others | {"mid_block.x": np.ones(3)}, network, 3)


@pytest.mark.parametrize(
    ("config", "changed", "message"),
    [
        (DIT, {"norm_type": "ada_norm"}, "norm_type must be 'ada_norm_zero', got 'ada_norm'"),
        (DIT, {"attention_bias": False}, "attention_bias must be True, got False"),
        (SD3, {"caption_projection_dim": 9}, "caption_projection_dim must be 8, got 9"),
        (SD3, {"dual_attention_layers": (1,)}, "dual_attention_layers must be .0,., got .1,."),
        (SD3, {"qk_norm": "layer_norm"}, "qk_norm must be 'rms_norm', got 'layer_norm'"),
        (DIT, {"out_channels": 4}, "out_channels must be 3 or 6, got 4"),
        (SD3, {"out_channels": 6}, "out_channels must be 3, got 6"),
        (SD3, {"_class_name": None}, "_class_name must be one of .*, got None"),
    ],
)
def test_what_our_networks_cannot_do_is_refused_by_name(config, changed, message):
    with pytest.raises(ValueError, match=message):
        interop.network(config | changed)


@pytest.mark.parametrize("config", [DIT, SD3])
def test_a_config_without_a_size_is_refused(config):
    without = {name: value for name, value in config.items() if name != "num_layers"}
    with pytest.raises(ValueError, match=r"config of a .*2DModel must have 'num_layers'"):
        interop.network(without)
