"""The U-Net: its size against the published networks, its parts, and what it depends on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import bilinear, double, level_features, random_variables, two_dense

from cfg_jax.diffusion.condition import Noisy
from cfg_jax.networks import UNet
from cfg_jax.networks.blocks import REMAT, ResidualBlock
from cfg_jax.parts import Beside, Classes, Prediction, Vector

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
LABEL = ("label", Classes(5))
LABELS = {"label": jnp.array([0, 2, 4])}


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(module, variables, *args, **options):
    """One compiled program instead of one an operation."""
    return module.apply(variables, *args, **options)


@pytest.fixture(scope="module")
def net():
    module = UNet(inlets=(LABEL,), **TINY)
    return module, random_variables(module, Z, LAM, LABELS)


def size(network, shape):
    return sum(leaf.size for leaf in jax.tree.leaves(network.shapes(shape)))


def test_it_has_the_parameters_of_guided_diffusions_network():
    """7.66 M at 32×32×3, 64 channels, mult 1-2-2, 2 blocks, attention at 16, 32 channels a head."""
    network = UNet(
        channels=64, channel_mult=(1, 2, 2), blocks=2, attention_resolutions=(16,), head_channels=32
    )
    assert size(network, (32, 32, 3)) == 7_660_931


def test_the_imagenet_64_network_has_the_published_296_million():
    """Dhariwal & Nichol 2021, Table 4."""
    network = UNet(
        channels=192,
        channel_mult=(1, 2, 3, 4),
        blocks=3,
        attention_resolutions=(32, 16, 8),
        head_channels=64,
        inlets=(("label", Classes(1000)),),
    )
    assert round(size(network, (64, 64, 3)) / 1e6) == 296


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
        apply(module, variables, Z, LAM, {"label": jnp.array([0, 3, 4])}),
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
@pytest.mark.slow
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
    for refused in (
        lambda: module.init(jax.random.key(0), jnp.zeros(shape), 0.0),
        lambda: module.check(shape[1:]),
        lambda: module.shapes(shape[1:]),
    ):
        with pytest.raises(ValueError, match=r"halves height and width 2 times.*multiples of 4"):
            refused()


def with_output(variables, part):
    """The variables of a network whose last convolution has only these channels."""
    last = jax.tree.map(lambda leaf: leaf[..., part], variables["params"]["output"])
    return {"params": variables["params"] | {"output": last}}


def test_a_learned_variance_is_the_second_half_of_the_outputs():
    network = SMALLEST.clone(learned_variance=True)
    z = Z[:, :4, :4]
    variables = random_variables(network, z, LAM)
    first, second = (with_output(variables, part) for part in (slice(0, 1), slice(1, 2)))
    value, interpolation = (apply(SMALLEST, half, z, LAM) for half in (first, second))
    got = apply(network, variables, z, LAM)
    assert isinstance(got, Prediction)
    np.testing.assert_allclose(got.value, value, atol=1e-5)
    np.testing.assert_allclose(got.v, (interpolation + 1) / 2, atol=1e-5)


SMALL = ("small", Beside((4, 4, 1)))


@pytest.mark.parametrize("name", ["small", "sketch"])
def test_an_upsampler_sees_the_small_image_enlarged_beside_the_noisy_one(name):
    network = SMALLEST.clone(inlets=((name, SMALL[1]),))
    cond = {name: Z[:, :4, :4]}
    variables = random_variables(network, Z, LAM, cond)
    kernel = variables["params"]["input"]["Conv_0"]["kernel"]
    assert kernel.shape == (3, 3, 2, 4)

    def seen(part):
        """Variables that look at the noisy image alone, or at the small one alone."""
        first = {**variables["params"]["input"]["Conv_0"], "kernel": part}
        return {"params": variables["params"] | {"input": {"Conv_0": first}}}

    for blind, plain, x in (
        (kernel.at[:, :, 1].set(0.0), kernel[:, :, :1], Z),
        (kernel.at[:, :, 0].set(0.0), kernel[:, :, 1:], bilinear(cond[name], 2)),
    ):
        np.testing.assert_allclose(
            apply(network, seen(blind), Z, LAM, cond),
            apply(SMALLEST, seen(plain), jnp.asarray(x, jnp.float32), LAM),
            atol=1e-5,
        )


def test_vectors_and_levels_of_small_images_are_added_to_the_embedding():
    """The blocks see silu(level + label + vector + small level), the last two by float64 NumPy."""
    network = SMALLEST.clone(
        inlets=(LABEL, ("vector", Vector(3)), ("small", Beside((4, 4, 1), noised=True)))
    )
    vector = jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32).at[1].set(0.0)
    small = Noisy(Z[:, :4, :4], jnp.array([0.0, -20.0, 7.0]))
    cond = {**LABELS, "vector": vector, "small": small}
    variables = random_variables(network, Z, LAM, cond)
    params = variables["params"]
    wide = np.concatenate([vector, [[1.0], [0.0], [1.0]]], axis=1)
    double_params = double(params)
    added = two_dense(double_params, "vector", wide)
    added += two_dense(double_params, "small_level", level_features(small.logsnr, 4))

    plain = SMALLEST.clone(inlets=(LABEL, SMALL))
    held = {name: leaf for name, leaf in params.items() if not name.startswith(("vector", "small"))}
    rows = []
    for i in range(3):  # the same, moved into the bias of the level's embedding
        level = held["level_1"]
        shifted = held | {"level_1": level | {"bias": level["bias"] + jnp.float32(added[i])}}
        one = {"label": LABELS["label"][i : i + 1], "small": small.z[i : i + 1]}
        rows.append(apply(plain, {"params": shifted}, Z[i : i + 1], LAM[i : i + 1], one)[0])
    np.testing.assert_allclose(apply(network, variables, Z, LAM, cond), np.stack(rows), atol=2e-5)


def test_every_class_has_an_embedding_the_null_too_if_it_is_counted():
    sizes = [size(UNet(inlets=(("label", Classes(n)),), **TINY), (8, 8, 1)) for n in (5, 4)]
    assert sizes[0] - sizes[1] == 4 * TINY["channels"]
