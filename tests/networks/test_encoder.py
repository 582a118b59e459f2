"""The noisy classifier: its parts put together by hand, and what its logits depend on."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_variables
from scipy import special

from cfg_jax.networks import Encoder
from cfg_jax.networks.blocks import ResidualBlock
from cfg_jax.networks.encoder import LogProb
from cfg_jax.nn import AttentionPool, Conv, GroupNorm, LogSNRFeatures, SelfAttention

TINY = Encoder(
    channels=8,
    channel_mult=(1, 2),
    blocks=1,
    attention_resolutions=(4,),
    head_channels=8,
    num_classes=5,
)
RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(3, 8, 8, 2)), jnp.float32)
LAM = jnp.array([-3.0, 0.0, 5.0])
LABELS = jnp.array([0, 2, 4])


@pytest.fixture(scope="module")
def variables():
    return random_variables(TINY, Z, LAM)


@jax.jit
def logits(variables, z, lam):
    return TINY.apply(variables, z, lam)


@pytest.mark.slow
def test_it_is_its_parts_put_together(variables):
    def part(module, name, *args):
        return module.apply({"params": variables["params"][name]}, *args)

    features = LogSNRFeatures()(LAM, 8)
    embedding = part(nn.Dense(32), "level_0", features)
    embedding = nn.silu(part(nn.Dense(32), "level_1", nn.silu(embedding)))
    h = part(Conv(8), "input", Z)
    h = part(ResidualBlock(8), "down0_0", h, embedding)
    h = part(ResidualBlock(8, "down"), "downsample1", h, embedding)
    h = part(ResidualBlock(16), "down1_0", h, embedding)
    h = part(SelfAttention(8), "down1_0_attention", h)
    h = part(ResidualBlock(16), "middle_0", h, embedding)
    h = part(SelfAttention(8), "middle_attention", h)
    h = part(ResidualBlock(16), "middle_1", h, embedding)
    h = nn.silu(part(GroupNorm(), "output_norm", h))
    want = part(AttentionPool(5, 8), "pool", h)
    np.testing.assert_allclose(logits(variables, Z, LAM), want, rtol=1e-4, atol=1e-4)


def test_it_depends_on_image_and_level_of_each_example_alone(variables):
    base = logits(variables, Z, LAM)
    assert base.shape == (3, 5)
    for changed in (
        logits(variables, Z.at[1].add(0.1), LAM),
        logits(variables, Z, LAM.at[1].add(0.1)),
    ):
        assert np.abs(changed[1] - base[1]).max() > 1e-4
        np.testing.assert_allclose(changed[::2], base[::2], atol=1e-5)


def test_a_scalar_level_is_everyones(variables):
    np.testing.assert_allclose(
        TINY.apply(variables, Z, 0.5), logits(variables, Z, jnp.full(3, 0.5)), atol=1e-5
    )


def test_bfloat16_gives_float32_close_to_float32(variables):
    got = TINY.clone(dtype=jnp.bfloat16).apply(variables, Z, LAM)
    want = logits(variables, Z, LAM)
    assert got.dtype == jnp.float32
    assert 0 < np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_the_log_probability_is_that_of_each_label(variables):
    log_prob = LogProb(network=TINY, params=variables)
    all_of_them = special.log_softmax(np.asarray(logits(variables, Z, LAM), np.float64), axis=-1)
    want = all_of_them[np.arange(3), LABELS]
    np.testing.assert_allclose(jax.jit(lambda f: f(Z, LAM, LABELS))(log_prob), want, rtol=1e-4)


def test_its_gradient_is_the_slope_of_the_log_probability(variables):
    log_prob = LogProb(network=TINY, params=variables)
    direction = jnp.asarray(RNG.normal(size=Z.shape), jnp.float32)

    @jax.jit
    def along(step):
        return log_prob(Z + step * direction, LAM, LABELS)

    gradient = jax.jit(jax.grad(lambda z: log_prob(z, LAM, LABELS).sum()))(Z)
    slope = (along(1e-2) - along(-1e-2)) / 2e-2
    np.testing.assert_allclose((gradient * direction).sum((1, 2, 3)), slope, rtol=0.02, atol=0.02)


def test_what_it_cannot_take_is_refused():
    with pytest.raises(ValueError, match="the Encoder halves height and width 1 times"):
        TINY.init(jax.random.key(0), Z[:, :7], LAM)
    with pytest.raises(ValueError, match="the Encoder needs num_classes"):
        TINY.clone(num_classes=None).init(jax.random.key(0), Z, LAM)
    with pytest.raises(ValueError, match="num_classes must be a whole number from 1 to 1000000"):
        TINY.clone(num_classes=0)
    with pytest.raises(ValueError, match="the Encoder takes no 'label' in its condition"):
        TINY.init(jax.random.key(0), Z, LAM, {"label": LABELS})


def test_it_takes_no_entries(variables):
    assert TINY.takes == ()
    np.testing.assert_array_equal(TINY.apply(variables, Z, LAM, {}), TINY.apply(variables, Z, LAM))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1), (2, 4, 6, 1)])
def test_sounds_and_videos_are_classified_too(shape):
    """An example's logits are its own, and the order of its entries along each side matters."""
    z = jnp.asarray(RNG.normal(size=(3, *shape)), jnp.float32)
    variables = random_variables(TINY, z, LAM)
    base = TINY.apply(variables, z, LAM)
    assert base.shape == (3, 5)
    changed = TINY.apply(variables, z.at[1].add(0.1), LAM)
    np.testing.assert_allclose(changed[::2], base[::2], atol=1e-5)
    for axis in range(1, z.ndim - 1):
        moved = TINY.apply(variables, jnp.flip(z, axis), LAM)
        assert (np.abs(moved - base).max(1) > 1e-4).all()


def test_the_entry_that_is_the_class_is_found_in_a_dictionary(variables):
    bare = LogProb(network=TINY, params=variables)
    want = bare(Z, LAM, LABELS)
    named = LogProb(network=TINY, params=variables, of="digit")
    cond = {"digit": LABELS, "pose": jnp.ones((3, 2))}
    np.testing.assert_array_equal(named(Z, LAM, cond), want)
    for log_prob in (bare, named):
        with pytest.raises(ValueError, match=r"knows the class by the entry .* it has 'label'"):
            log_prob(Z, LAM, {"label": LABELS})
