"""What is read of diffusers' autoencoders, and what is refused, without torch."""

import jax
import numpy as np
import pytest
from networks import random_variables

from cfg_jax.codecs import KL, VQ
from cfg_jax.interop import diffusers_autoencoders as interop
from cfg_jax.interop.diffusers_autoencoder_configs import codec, config

SD1 = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TINY = KL(channels=8, channel_mult=(1, 2), blocks=1, groups=4, latent_channels=2)


def tensors(ours=TINY):
    shape = (ours.factor, ours.factor, ours.data_channels)
    variables = random_variables(ours, jax.numpy.zeros((1, *shape)))
    return variables, interop.tensors(variables, ours)


def test_the_published_configs_are_read():
    assert codec(SD1) == KL(scale=0.18215)
    assert codec(SD1 | {"scaling_factor": 0.13025, "force_upcast": True}) == KL(scale=0.13025)
    flux = {
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "latents_mean": None,
        "latents_std": None,
        "mid_block_add_attention": True,
    }
    want = KL(
        latent_channels=16, scale=0.3611, shift=0.1159, quant_conv=False, post_quant_conv=False
    )
    assert codec(SD1 | flux) == want
    vq = {
        "_class_name": "VQModel",
        "block_out_channels": [128, 256, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "latent_channels": 3,
        "num_vq_embeddings": 8192,
    }
    want = VQ(channel_mult=(1, 2, 4), swapped=True)
    assert codec(SD1 | vq) == want
    assert codec(SD1 | vq | {"scaling_factor": 0.18215}) == want.clone(scale=0.18215)


def test_mean_and_deviation_of_each_channel_are_honoured():
    mean, std = (0.1, -0.2, 0.3, 0.4), (0.5, 1.0, 2.0, 4.0)
    said = {"latents_mean": mean, "latents_std": std, "scaling_factor": 0.5}
    ours = codec(SD1 | said)
    z = np.random.default_rng(0).normal(size=(1, 2, 2, 4)).astype(np.float32)
    want = z * np.array(std) / 0.5 + np.array(mean)
    np.testing.assert_allclose(ours.unscaled(jax.numpy.asarray(z)), want, rtol=1e-5, atol=1e-6)
    assert codec(config(ours)) == ours


@pytest.mark.parametrize(
    "ours",
    [
        KL(),
        KL(latent_channels=16, scale=0.3611, shift=0.1159, quant_conv=False),
        KL(channels=24, channel_mult=(2, 1), groups=8, middle_attention=False, data_channels=1),
        KL(channels=32, channel_mult=(1, 2, 4), attention_factors=(2, 4), blocks=1),
        VQ(swapped=True, code_channels=3, scale=0.7),
    ],
)
def test_a_config_that_we_write_is_read_again(ours):
    again = codec(config(ours))
    widths = [tuple(int(m * one.channels) for m in one.channel_mult) for one in (ours, again)]
    assert widths[0] == widths[1]
    same = {"channels": again.channels, "channel_mult": again.channel_mult}
    if ours.scale is None:  # diffusers leaves none open
        same["scale"] = 1.0
    assert again == ours.clone(**same)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"_class_name": "AutoencoderTiny"}, "^AutoencoderTiny is not read; .* AutoencoderKL, VQM"),
        ({"_class_name": "AsymmetricAutoencoderKL"}, "^AsymmetricAutoencoderKL is not read"),
        ({"_class_name": "ConsistencyDecoderVAE"}, "^ConsistencyDecoderVAE is not read"),
        ({"act_fn": "relu"}, "act_fn must be silu or swish, got 'relu'"),
        ({"in_channels": 4}, "data of 4 channels come back with 3"),
        ({"up_block_types": ["UpBlock2D"] * 4}, "4 levels must each be UpDecoderBlock2D or Attn"),
        ({"down_block_types": ["DownEncoderBlock2D"]}, "4 levels must each be DownEncoderBlock2D"),
        (
            {"down_block_types": ["AttnDownEncoderBlock2D"] + ["DownEncoderBlock2D"] * 3},
            "attention on the way down and on the way up must be at the same sides",
        ),
        ({"latents_std": [1.0] * 4}, "latents_mean and latents_std come together"),
        (
            {"latents_std": [1.0] * 4, "latents_mean": [1.0] * 4, "shift_factor": 0.1},
            "without a shift_factor",
        ),
        ({"spatial": 3, "temporal": 1}, "entries not known here: spatial, temporal"),
        ({"_class_name": "VQModel", "norm_type": "spatial"}, "norm_type must be group"),
    ],
)
def test_what_is_not_done_is_refused_by_name(entries, message):
    with pytest.raises(ValueError, match=message):
        codec(SD1 | entries)


def test_what_diffusers_has_not_is_not_written():
    with pytest.raises(ValueError, match="the same number of groups at every level"):
        config(KL(channels=8, channel_mult=(1, 2)))
    with pytest.raises(ValueError, match="VQModel has one scale and no shift"):
        config(VQ(shift=0.5))


def test_a_round_trip_is_exact_and_the_names_are_theirs():
    variables, named = tensors()
    jax.tree.map(np.testing.assert_array_equal, interop.parameters(named, TINY), variables)
    assert {name: value.shape for name, value in named.items()} == interop.tensor_shapes(TINY)
    for name, shape in {
        "encoder.down_blocks.0.downsamplers.0.conv.weight": (8, 8, 3, 3),
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": (16, 8, 1, 1),
        "encoder.mid_block.attentions.0.to_q.weight": (16, 16),
        "decoder.up_blocks.0.upsamplers.0.conv.bias": (16,),
        "decoder.up_blocks.1.resnets.1.norm2.weight": (8,),
        "quant_conv.weight": (4, 4, 1, 1),
    }.items():
        assert named[name].shape == shape


def test_missing_and_surplus_tensors_are_counted_in_one_error():
    _, named = tensors()
    del named["quant_conv.weight"], named["encoder.conv_in.bias"]
    named |= {f"loss.{i}": np.zeros(1) for i in range(5)}
    with pytest.raises(ValueError, match=r"2 missing .*; 5 unexpected \(loss.0, .* and 2 more\)"):
        interop.parameters(named, TINY)
    named = tensors()[1]
    named["encoder.conv_in.weight"] = named["encoder.conv_in.weight"][:, :2]
    with pytest.raises(ValueError, match=r"1 of another shape \(encoder.conv_in.weight \(8, 2"):
        interop.parameters(named, TINY)


def test_variables_of_other_data_are_not_written():
    sound = random_variables(TINY, jax.numpy.zeros((1, 4, 3)))
    with pytest.raises(ValueError, match="autoencoders are of pictures"):
        interop.tensors(sound, TINY)
