"""Group normalisation against Flax and against float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from networks import double, normed, random_variables

from cfg_jax.nn import GroupNorm, Statistics, layer_norm

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (24, 8), (6, 2), (5, 1)])
def test_group_norm_is_flaxs(channels, groups):
    x = jnp.asarray(RNG.normal(3.0, 2.0, size=(2, 4, 6, channels)), jnp.float32)
    ours, theirs = GroupNorm(), nn.GroupNorm(groups, epsilon=1e-5)
    variables = random_variables(ours, x)
    np.testing.assert_allclose(
        ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-4, atol=1e-4
    )


def test_adaptive_group_norm_scales_and_shifts_the_normalised():
    x = jnp.asarray(RNG.normal(size=(2, 4, 4, 8)), jnp.float32)
    scale, shift = (jnp.asarray(RNG.normal(size=(2, 8)), jnp.float32) for _ in range(2))
    norm = GroupNorm()
    variables = random_variables(norm, x)
    plain = norm.apply(variables, x)
    want = plain * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(norm.apply(variables, x, scale, shift), want, rtol=1e-4, atol=1e-5)


def test_group_norm_of_a_constant_is_finite():
    x = jnp.full((1, 4, 4, 8), 1e3)
    norm = GroupNorm()
    assert np.abs(norm.apply(norm.init(jax.random.key(0), x), x)).max() < 1.0


@pytest.mark.parametrize("sides", [(7,), (4, 6), (3, 4, 5)])
@pytest.mark.parametrize("far", [1, 30, 1000, 3000])
def test_it_keeps_its_digits_where_the_mean_is_many_deviations(sides, far):
    """What is lost is what float32 loses of x itself: half of its last digit, 2^-24 · far."""
    x = (RNG.normal(size=(2, *sides, 64)) + far).astype(np.float32)
    norm = GroupNorm()
    variables = random_variables(norm, x)
    x64 = x.astype(np.float64)
    want = normed(double(variables["params"]), x64)
    got = norm.apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_an_outlier_in_the_middle_costs_few_digits():
    """No entry is further from the mean than √N deviations, which costs N · 2^-24 of them."""
    x = (RNG.normal(size=(1, 9, 9, 32)) + 1e3).astype(np.float32)
    x[:, 4, 4] = -1e3
    norm = GroupNorm()
    variables = random_variables(norm, x)
    want = normed(double(variables["params"]), x.astype(np.float64))
    np.testing.assert_allclose(norm.apply(variables, jnp.asarray(x)), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
def test_epsilon_is_added_to_the_variance(epsilon):
    x = RNG.normal(size=(2, 5, 1))
    norm = GroupNorm(epsilon=epsilon)
    single_x = jnp.asarray(x, jnp.float32)
    params = {"params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)}}
    want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + epsilon)
    np.testing.assert_allclose(norm.apply(params, single_x), want, rtol=1e-5, atol=1e-5)


def test_gradients_far_from_zero_are_those_in_float64():
    at, cotangent = draws(64), RNG.normal(size=(3, 4, 6, 64))
    x = (at[0] + 1000.0).astype(np.float32)
    at = (x.astype(np.float64), *at[1:])
    back = jax.vjp(apply_norm, *single(at))[1](*single((cotangent,)))
    assert_near(back, reference_gradients(cotangent, *at), 2e-5)


def normalised(x):
    """x̂ and 1 / σ, of float64 images whose groups are one axis more: (…, groups, channels / 32)."""
    mean = x.mean((1, 2, 4), keepdims=True)
    inverse = 1 / np.sqrt(x.var((1, 2, 4), keepdims=True) + 1e-5)
    return (x - mean) * inverse, inverse


def grouped(x):
    return x.reshape(*x.shape[:-1], np.gcd(32, x.shape[-1]), -1)


def reference(x, gamma, beta, scale, shift):
    """Group norm in float64."""
    x_hat = normalised(grouped(x))[0].reshape(x.shape)
    return (x_hat * gamma + beta) * (1 + scale)[:, None, None] + shift[:, None, None]


def reference_gradients(cotangent, x, gamma, beta, scale, shift):
    """By x, γ, β, scale and shift, of Σ cotangent · y."""
    x_hat, inverse = normalised(grouped(x))
    inner = cotangent * (1 + scale)[:, None, None]
    g = grouped(inner * gamma)
    along = (g * x_hat).mean((1, 2, 4), keepdims=True)
    by_x = inverse * (g - g.mean((1, 2, 4), keepdims=True) - x_hat * along)
    x_hat = x_hat.reshape(x.shape)
    by_gamma, by_beta = (inner * x_hat).sum((0, 1, 2)), inner.sum((0, 1, 2))
    by_scale = (cotangent * (x_hat * gamma + beta)).sum((1, 2))
    return by_x.reshape(x.shape), by_gamma, by_beta, by_scale, cotangent.sum((1, 2))


def moved(f, at, along, step=1e-5):
    """The derivative of a float64 function along a direction, by central differences."""
    ahead, behind = (
        f(*(a + sign * step * d for a, d in zip(at, along, strict=True))) for sign in (1, -1)
    )
    return jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)


def draws(channels, batch=3):
    """Images and their norm's parameters, in float64."""
    shapes = [(batch, 4, 6, channels), (channels,), (channels,), (batch, channels)]
    x, *rest = (RNG.normal(size=shape) for shape in [*shapes, shapes[-1]])
    return 2.0 * x + 1.0, *rest


def apply_norm(x, gamma, beta, scale, shift):
    params = {"params": {"scale": gamma, "bias": beta}}
    return GroupNorm().apply(params, x, scale, shift)


def single(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def assert_near(got, want, tolerance=1e-5):
    """Every entry of every array within a tolerance relative to the largest one."""
    for mine, its in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=tolerance * np.abs(its).max())


@pytest.mark.parametrize("channels", [64, 24, 5])
def test_group_norm_and_its_gradients_are_those_in_float64(channels):
    at, along = draws(channels), draws(channels)
    cotangent = along[0]
    got, back = jax.vjp(apply_norm, *single(at))
    assert_near(got, reference(*at))
    assert_near(back(*single((cotangent,))), reference_gradients(cotangent, *at))
    assert_near(
        jax.jvp(apply_norm, single(at), single(along))[1], moved(reference, at, along), 2e-5
    )


def test_second_derivatives_of_group_norm_are_those_in_float64():
    at, along = draws(8), draws(8)
    cotangent = RNG.normal(size=at[0].shape)

    def gradients(*at):
        return jax.vjp(apply_norm, *at)[1](*single((cotangent,)))

    want = moved(lambda *at: reference_gradients(cotangent, *at), at, along)
    got = jax.jvp(gradients, single(at), single(along))[1]
    assert_near(got, want, 1e-4)


@pytest.mark.parametrize("how", ["remat", "vmap", "shard_map"])
def test_gradients_of_group_norm_are_the_same_under(how):
    at, cotangent = draws(8, batch=4), RNG.normal(size=(4, 4, 6, 8))

    def mapped(x, gamma, beta, scale, shift):
        each = jax.vmap(apply_norm, in_axes=(0, None, None, 0, 0))
        return each(x[:, None], gamma, beta, scale[:, None], shift[:, None])[:, 0]

    split, whole = PartitionSpec("data"), PartitionSpec()
    changed = {
        "remat": jax.checkpoint(apply_norm),
        "vmap": mapped,
        "shard_map": jax.shard_map(
            apply_norm,
            mesh=jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
            in_specs=(split, whole, whole, split, split),
            out_specs=split,
        ),
    }[how]

    @jax.jit
    def gradients(*at):
        return jax.vjp(changed, *at)[1](*single((cotangent,)))

    assert_near(gradients(*single(at)), reference_gradients(cotangent, *at))


def test_group_norm_in_bfloat16_keeps_its_statistics_in_float32():
    x, gamma, beta, scale, shift = draws(64)
    x = jnp.asarray(100.0 + x, jnp.bfloat16)
    params = {"params": single({"scale": gamma, "bias": beta})}
    got = GroupNorm(dtype=jnp.bfloat16).apply(params, x, *single((scale, shift)))
    assert got.dtype == jnp.bfloat16
    want = reference(np.asarray(x, np.float64), gamma, beta, scale, shift)
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=2**-8, atol=2e-3)


def test_a_part_may_be_normalised_by_the_statistics_of_its_whole():
    x = jnp.asarray(RNG.normal(50.0, 2.0, size=(2, 6, 4, 12)), jnp.float32)
    norm = GroupNorm(1e-3, groups=3)
    variables = random_variables(norm, x)
    groups = np.float64(x).reshape(2, -1, 3, 4)
    found = (groups.mean((1, 3)), groups.var((1, 3)))
    whole = Statistics(*(jnp.asarray(value, jnp.float32) for value in found))
    want = norm.apply(variables, x)
    got = norm.apply(variables, x[:, :2], statistics=whole)
    np.testing.assert_allclose(got, want[:, :2], rtol=1e-4, atol=1e-4)
    assert np.abs(norm.apply(variables, x[:, :2]) - want[:, :2]).max() > 0.1
    flax_norm = nn.GroupNorm(3, epsilon=1e-3)
    np.testing.assert_allclose(want, flax_norm.apply(variables, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layer_norm_scales_and_shifts_each_normalised_place(dtype):
    """In float32, of places whose mean is large beside their deviation."""
    x = RNG.normal(30.0, 2.0, size=(2, 3, 8))
    x = np.asarray(jnp.asarray(x, dtype), np.float64)
    scale, shift = RNG.normal(size=(2, 2, 8))
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    h = (x - x.mean(-1, keepdims=True)) / spread
    want = h * (1 + scale[:, None]) + shift[:, None]
    args = (jnp.asarray(a, jnp.float32) for a in (scale, shift))
    got = layer_norm(jnp.asarray(x, dtype), *args, dtype=dtype)
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got.astype(jnp.float32), want, atol=1e-4 if dtype == "float32" else 0.03
    )
    plain = layer_norm(jnp.asarray(x, jnp.float32), epsilon=1.0)
    np.testing.assert_allclose(plain, h * spread / np.sqrt(spread**2 + 1), atol=1e-4)
