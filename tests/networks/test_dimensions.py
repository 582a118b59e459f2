"""Sounds, pictures and videos through the U-Net, against float64 NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import UNet as Reference
from networks import double, level_features, linear, random_variables, silu, two_dense

from cfg_jax.networks import UNet
from cfg_jax.parts import Beside, Classes, Sequence

RNG = np.random.default_rng(0)
SHAPES = {"sound": (16, 2), "picture": (8, 4, 2), "video": (3, 8, 4, 2)}
SMALL = {"sound": (8, 2), "picture": (4, 2, 2), "video": (3, 4, 2, 2)}
LAM = jnp.array([-3.0, 4.0])


def single(x):
    return jnp.asarray(x, jnp.float32)


def network(data):
    return UNet(
        channels=8,
        channel_mult=(1, 2),
        blocks=1,
        attention_resolutions=(2, 8),  # the shortest side of space, at the second level
        head_channels=4,
        inlets=(
            ("label", Classes(5)),
            ("text", Sequence(3, 6)),
            ("small", Beside(SMALL[data])),
        ),
    )


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.slow
def test_a_unet_is_its_layers_in_float64(data):
    module, z = network(data), RNG.normal(size=(2, *SHAPES[data]))
    label, text = np.array([4, 1]), RNG.normal(size=(2, 3, 6))
    small = RNG.normal(size=(2, *SMALL[data]))
    cond = {"label": jnp.asarray(label), "text": single(text), "small": single(small)}
    variables = random_variables(module, single(z), LAM, cond)
    p = double(variables["params"])
    assert "down1_0_attention" in p
    assert "down0_0_attention" not in p
    assert ("down1_0_frames_attention" in p) == (data == "video")

    factors = [big // little for big, little in zip(z.shape[1:-1], small.shape[1:-1], strict=True)]
    embedding = two_dense(p, "level", level_features(LAM, 8)) + p["label"]["embedding"][label]
    seen = np.concatenate([z, linear(small, factors)], axis=-1)
    want = Reference(module, variables)(seen, silu(embedding), {"text": text})
    got = jax.jit(module.apply)(variables, single(z), LAM, cond)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.slow
def test_sequences_are_attended_to_from_zero_and_each_example_sees_its_own(data):
    module, z = network(data), single(RNG.normal(size=(2, *SHAPES[data])))
    cond = {
        "label": jnp.array([4, 1]),
        "text": single(RNG.normal(size=(2, 3, 6))),
        "small": single(RNG.normal(size=(2, *SMALL[data]))),
    }
    other = cond | {"text": cond["text"].at[1].add(1.0)}
    fresh = module.shapes(SHAPES[data])["params"]
    cross = {name for name in fresh if name.endswith("_text_cross")}
    assert cross == {f"{name}_text_cross" for name in ("down1_0", "middle", "up1_0", "up1_1")}
    apply = jax.jit(module.apply)
    variables = random_variables(module, z, LAM, cond)
    closed = {
        "params": variables["params"]
        | {name: jax.tree.map(jnp.zeros_like, variables["params"][name]) for name in cross}
    }
    np.testing.assert_array_equal(apply(closed, z, LAM, cond), apply(closed, z, LAM, other))
    base, changed = apply(variables, z, LAM, cond), apply(variables, z, LAM, other)
    np.testing.assert_allclose(base[0], changed[0], atol=1e-5)
    assert np.abs(base[1] - changed[1]).max() > 1e-3


class Attend(UNet):
    """The attention of one place alone."""

    @nn.compact
    def __call__(self, x, sequence):
        from cfg_jax.networks.blocks import Shown

        return self.attend("here", x, Shown(x[:, 0, 0], {"text": sequence}))


def test_attention_starts_as_the_identity():
    x = single(RNG.normal(size=(2, 4, 4, 8)))
    got, _ = Attend(head_channels=4).init_with_output(jax.random.key(0), x, jnp.ones((2, 3, 6)))
    np.testing.assert_array_equal(got, x)


def test_frames_are_never_halved_and_may_be_any_number():
    module = UNet(channels=8, channel_mult=(1, 1, 1), blocks=1, head_channels=8)
    for frames in (1, 3, 8):
        assert module.shapes((frames, 8, 4, 1))["params"]["output"]["Conv_0"]["bias"].shape == (1,)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((6, 1), "halves the length 2 times: it needs multiples of 4; got 6"),
        ((5, 8, 6, 1), "halves height and width 2 times: it needs multiples of 4; got 8×6"),
        ((0, 4, 1), "needs multiples of 4; got 0×4"),
        ((8,), r"takes \(length, channels\), .* got \(8,\)"),
        ((1, 2, 8, 8, 1), r"or \(frames, height, width, channels\); got \(1, 2, 8, 8, 1\)"),
    ],
)
def test_shapes_that_it_cannot_take_are_refused(shape, message):
    module = UNet(channels=8, channel_mult=(1, 1, 1), blocks=1, head_channels=8)
    with pytest.raises(ValueError, match=message):
        module.check(shape)
