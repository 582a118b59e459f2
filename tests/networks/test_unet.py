"""The U-Net: its size against the published networks, its parts, and what it depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import bilinear, random_variables

from cfg_jax.diffusion.condition import Noisy, broadcast
from cfg_jax.networks import UNet
from cfg_jax.networks.blocks import REMAT, ResidualBlock
from cfg_jax.networks.unet import LearnedVariance

TINY = {
    "channels": 8,
    "channel_mult": (1, 2),
    "blocks": 1,
    "attention_resolutions": (4,),
    "head_channels": 8,
}
SMALLEST = UNet(channels=4, channel_mult=(1,), blocks=1, attention_resolutions=(), head_channels=4)
RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(3, 8, 8, 1)), jnp.float32)
LAM = jnp.array([-3.0, 0.0, 5.0])
LABELS = jnp.array([0, 2, 4])


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(module, variables, *args, **options):
    """One compiled program instead of one an operation."""
    return module.apply(variables, *args, **options)


@pytest.fixture(scope="module")
def net():
    module = UNet(num_classes=4, **TINY)
    return module, random_variables(module, Z, LAM, LABELS)


def size(network, shape, labels):
    variables = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(1), labels
    )
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_it_has_the_parameters_of_guided_diffusions_network():
    """7.66 M at 32×32×3, 64 channels, mult 1-2-2, 2 blocks, attention at 16, 32 channels a head."""
    network = UNet(
        channels=64, channel_mult=(1, 2, 2), blocks=2, attention_resolutions=(16,), head_channels=32
    )
    assert size(network, (1, 32, 32, 3), None) == 7_660_931


def test_the_imagenet_64_network_has_the_published_296_million():
    """Dhariwal & Nichol 2021, Table 4."""
    network = UNet(
        channels=192,
        channel_mult=(1, 2, 3, 4),
        blocks=3,
        attention_resolutions=(32, 16, 8),
        head_channels=64,
        num_classes=1000,
    )
    assert round(size(network, (1, 64, 64, 3), jnp.zeros(1, jnp.int32)) / 1e6) == 296


def test_it_starts_at_zero_and_its_blocks_as_identities():
    z = Z[:, :4, :4]
    variables = jax.jit(SMALLEST.init)(jax.random.key(0), z, LAM)
    np.testing.assert_array_equal(apply(SMALLEST, variables, z, LAM), 0.0)
    block, h = ResidualBlock(1), jnp.ones((3, 5))
    variables = jax.jit(block.init)(jax.random.key(0), z, h)
    np.testing.assert_array_equal(block.apply(variables, z, h), z)


def test_it_depends_on_image_level_and_label_of_each_example_alone(net):
    module, variables = net
    base = apply(module, variables, Z, LAM, LABELS)
    changes = [
        apply(module, variables, Z.at[1].add(0.1), LAM, LABELS),
        apply(module, variables, Z, LAM.at[1].add(0.1), LABELS),
        apply(module, variables, Z, LAM, LABELS.at[1].set(3)),
    ]
    for changed in changes:
        assert np.abs(changed[1] - base[1]).max() > 1e-4
        np.testing.assert_allclose(changed[::2], base[::2], atol=1e-6)


def test_a_scalar_level_is_everyones(net):
    module, variables = net
    np.testing.assert_allclose(
        apply(module, variables, Z, 0.5, LABELS),
        apply(module, variables, Z, jnp.full(3, 0.5), LABELS),
        atol=1e-6,
    )


def test_bfloat16_computes_nearly_the_same_from_float32_parameters(net):
    module, variables = net
    half = module.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), Z, LAM, LABELS)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    got, want = apply(half, variables, Z, LAM, LABELS), apply(module, variables, Z, LAM, LABELS)
    assert got.dtype == jnp.float32
    assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


@pytest.mark.parametrize("remat", [name for name in REMAT if name != "none"])
def test_remat_changes_what_is_kept_and_nothing_else(remat):
    z = Z[:, :4, :4]
    variables = random_variables(SMALLEST, z, LAM)

    def loss(v, network):
        return jnp.square(network.apply(v, z, LAM)).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    again = SMALLEST.clone(remat=remat)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        gradient(variables, SMALLEST),
        gradient(variables, again),
    )
    kept, recomputed = (
        str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(variables, network))
        for network in (SMALLEST, again)
    )
    assert recomputed.count("remat") > kept.count("remat") == 0


def test_dropout_is_on_in_training_alone():
    module = SMALLEST.clone(dropout=0.5)
    z = Z[:, :4, :4]
    variables = random_variables(module, z, LAM)
    still = apply(module, variables, z, LAM)
    np.testing.assert_array_equal(still, apply(SMALLEST, variables, z, LAM))
    one, two = (
        apply(module, variables, z, LAM, train=True, rngs={"dropout": jax.random.key(i)})
        for i in (0, 1)
    )
    assert np.abs(one - two).max() > 1e-3


@pytest.mark.parametrize("shape", [(2, 12, 20, 3), (2, 4, 8, 2)])
def test_unconditional_and_of_any_size_it_can_halve(shape):
    module = UNet(**TINY)
    z = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    variables = random_variables(module, z, 0.0)
    out = apply(module, variables, z, 0.0)
    assert out.shape == shape
    assert np.all(np.isfinite(out))
    assert np.abs(out).max() > 0


@pytest.mark.parametrize("shape", [(1, 7, 8, 1), (1, 8, 10, 1)])
def test_a_size_it_cannot_halve_is_refused(shape):
    module = UNet(**{**TINY, "channel_mult": (1, 1, 1)})
    with pytest.raises(ValueError, match=r"halves height and width 2 times.*multiples of 4"):
        module.init(jax.random.key(0), jnp.zeros(shape), 0.0)


def test_labels_missing_or_unwanted_are_refused():
    with pytest.raises(ValueError, match="needs labels"):
        UNet(num_classes=4, **TINY).init(jax.random.key(0), Z, 0.0)
    with pytest.raises(ValueError, match="takes no labels"):
        UNet(**TINY).init(jax.random.key(0), Z, 0.0, LABELS)


def with_output(variables, part):
    """The variables of a network whose last convolution has only these channels."""
    last = jax.tree.map(lambda leaf: leaf[..., part], variables["params"]["output"])
    return {"params": variables["params"] | {"output": last}}


def test_a_learned_variance_is_the_second_half_of_the_outputs():
    network = SMALLEST.clone(learned_variance=True)
    z = Z[:, :4, :4]
    variables = random_variables(network, z, LAM)
    first, second = (with_output(variables, part) for part in (slice(0, 1), slice(1, 2)))
    eps, interpolation = (apply(SMALLEST, half, z, LAM) for half in (first, second))
    np.testing.assert_allclose(apply(network, variables, z, LAM), eps, atol=1e-5)
    learned = LearnedVariance(network=network, params=variables)
    np.testing.assert_allclose(learned(z, LAM, None), (interpolation + 1) / 2, atol=1e-5)


def test_what_no_network_learned_cannot_be_asked_for():
    z = Z[:, :4, :4]
    with pytest.raises(ValueError, match="has learned no variance"):
        SMALLEST.apply(random_variables(SMALLEST, z, LAM), z, LAM, method="variance")


def test_an_upsampler_sees_the_small_image_enlarged_beside_the_noisy_one():
    network = SMALLEST.clone(upscale=2)
    cond = {"small": Z[:, :4, :4]}
    variables = random_variables(network, Z, LAM, cond)
    kernel = variables["params"]["input"]["Conv_0"]["kernel"]
    assert kernel.shape == (3, 3, 2, 4)

    def seen(part):
        """Variables that look at the noisy image alone, or at the small one alone."""
        first = {**variables["params"]["input"]["Conv_0"], "kernel": part}
        return {"params": variables["params"] | {"input": {"Conv_0": first}}}

    for blind, plain, x in (
        (kernel.at[:, :, 1].set(0.0), kernel[:, :, :1], Z),
        (kernel.at[:, :, 0].set(0.0), kernel[:, :, 1:], bilinear(cond["small"], 2)),
    ):
        np.testing.assert_allclose(
            apply(network, seen(blind), Z, LAM, cond),
            apply(SMALLEST, seen(plain), jnp.asarray(x, jnp.float32), LAM),
            atol=1e-5,
        )


def test_an_upsampler_without_its_images_is_refused():
    network = SMALLEST.clone(upscale=2)
    with pytest.raises(ValueError, match="needs small images"):
        network.init(jax.random.key(0), Z, LAM)
    with pytest.raises(ValueError, match=r"small images must have shape \(3, 4, 4, 1\)"):
        network.init(jax.random.key(0), Z, LAM, {"small": Z})
    with pytest.raises(ValueError, match="takes no labels"):
        network.init(jax.random.key(0), Z, LAM, {"small": Z[:, :4, :4], "label": LABELS})
    with pytest.raises(ValueError, match="small images must have shape Noisy"):
        network.clone(augmented=True).init(jax.random.key(0), Z, LAM, {"small": Z[:, :4, :4]})


def test_a_size_that_is_no_multiple_of_its_factor_is_refused():
    network = SMALLEST.clone(upscale=3)
    with pytest.raises(ValueError, match=r"enlarges 3 times.*multiples of 3; got 8×8"):
        network.shapes((8, 8, 1))


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def silu(x):
    return x / (1 + np.exp(-x))


def two_layers(params, name, features):
    return dense(params[f"{name}_1"], silu(dense(params[f"{name}_0"], features)))


def test_vectors_and_levels_of_small_images_are_added_to_the_embedding():
    """The blocks see silu(level + label + vector + small level), the last two by float64 NumPy."""
    network = SMALLEST.clone(num_classes=4, vector=3, upscale=2, augmented=True)
    vector = jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32).at[1].set(0.0)
    small = Noisy(Z[:, :4, :4], jnp.array([0.0, -20.0, 7.0]))
    cond = {"label": LABELS, "vector": vector, "small": small}
    variables = random_variables(network, Z, LAM, cond)
    params = variables["params"]
    wide = np.concatenate([vector, [[1.0], [0.0], [1.0]]], axis=1)
    angles = np.asarray(small.logsnr)[:, None] * np.logspace(1.0, -2.0, 2)
    features = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    added = two_layers(params, "vector", wide) + two_layers(params, "small_level", features)

    plain = SMALLEST.clone(num_classes=4, upscale=2)
    held = {name: leaf for name, leaf in params.items() if not name.startswith(("vector", "small"))}
    rows = []
    for i in range(3):  # the same, moved into the bias of the level's embedding
        level = held["level_1"]
        shifted = held | {"level_1": level | {"bias": level["bias"] + jnp.float32(added[i])}}
        one = {"label": LABELS[i : i + 1], "small": small.z[i : i + 1]}
        rows.append(apply(plain, {"params": shifted}, Z[i : i + 1], LAM[i : i + 1], one)[0])
    np.testing.assert_allclose(apply(network, variables, Z, LAM, cond), np.stack(rows), atol=2e-5)


def test_its_nulls_fit_its_condition():
    network = UNet(num_classes=4, vector=3, upscale=2, augmented=True, **TINY)
    parts = network.inputs((8, 8, 3))[2]
    cond = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), parts)
    found = broadcast(network.nulls(null_logsnr=-20.0), cond)
    assert found["label"].tolist() == [4]
    assert not found["vector"].any()
    assert not found["small"].z.any()
    assert found["small"].logsnr.tolist() == [-20.0]
    assert network.takes == ("label", "vector", "small")
    assert UNet(num_classes=4, **TINY).nulls(null_logsnr=-20.0) == {"label": 4}


def test_without_a_null_there_is_one_label_less():
    sizes = [size(UNet(num_classes=4, null=n, **TINY), Z.shape, LABELS) for n in (True, False)]
    assert sizes[0] - sizes[1] == 4 * TINY["channels"]


def test_its_inputs_are_what_it_takes():
    cond = UNet(num_classes=4, upscale=2, **TINY).inputs((8, 8, 3))[2]
    assert cond["label"].shape == (1,)
    assert cond["small"].shape == (1, 4, 4, 3)
    for network in (UNet(**TINY), UNet(num_classes=4, upscale=2, **TINY)):
        assert network.shapes((8, 8, 3))["params"]["output"]["Conv_0"]["bias"].shape == (3,)
