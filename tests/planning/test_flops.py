"""Counted operations against arithmetic by hand, and against XLA's own count where it has one."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from cfg_jax.networks import UNet
from cfg_jax.planning import flops


def counted(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flops.count(jax.jit(function).trace(*arguments).jaxpr)


def by_xla(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def matmul(a, b):
    return a @ b


def convolve(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def test_products_by_hand():
    assert counted(matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert counted(matmul, (2, 3, 5), (2, 5, 7)) == 2 * 2 * 3 * 5 * 7
    assert counted(lambda a, b: jnp.einsum("abc,dcb->ad", a, b), (2, 3, 4), (5, 4, 3)) == (
        2 * 2 * 5 * 3 * 4
    )


def test_a_convolution_by_hand_counts_no_padding():
    # 3 taps a side, of which the two border positions of each side of 8 have 2: 8 * 3 - 2 = 22.
    assert counted(convolve, (2, 8, 8, 3), (3, 3, 3, 5)) == 2 * 2 * 5 * 3 * 22**2
    valid = functools.partial(convolve, padding="VALID")
    assert counted(valid, (2, 8, 8, 3), (3, 3, 3, 5)) == 2 * 2 * 5 * 3 * (6 * 3) ** 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "VALID"},
        {"window_strides": (2, 3)},
        {"padding": [(2, 1), (0, 3)], "window_strides": (2, 1)},
        {"rhs_dilation": (2, 1)},
        {"lhs_dilation": (2, 3), "padding": [(1, 2), (2, 2)]},
        {"feature_group_count": 2},
        {"batch_group_count": 2},
    ],
)
def test_convolutions_as_xla_counts_them(options):
    groups = options.get("feature_group_count", 1)
    shapes = ((4, 9, 8, 6), (3, 2, 6 // groups, 8))
    function = functools.partial(convolve, **options)
    assert counted(function, *shapes) == by_xla(function, *shapes)


def test_a_gradient_of_both_as_xla_counts_it():
    def loss(kernel, weight, x):
        h = convolve(x, kernel, window_strides=(2, 2))
        return jnp.sum(h.reshape(h.shape[0], -1) @ weight)

    shapes = (3, 3, 32, 64), (6 * 6 * 64, 48), (8, 12, 12, 32)
    gradient = jax.grad(loss, argnums=(0, 1, 2))
    assert counted(gradient, *shapes) == pytest.approx(by_xla(gradient, *shapes), rel=0.02)


def test_a_scan_counts_as_often_as_it_runs():
    def body(carry, weight):
        return lax.scan(lambda c, _: (c @ weight, None), carry, None, length=3)[0], None

    def scanned(x, weights):
        return lax.scan(body, x, weights)[0]

    once = 2 * 4 * 6 * 6
    assert counted(scanned, (4, 6), (5, 6, 6)) == 5 * 3 * once
    # Backwards: the products of the gradients by carry and by weight.
    gradient = jax.grad(lambda x, weights: scanned(x, weights).sum(), argnums=(0, 1))
    assert counted(gradient, (4, 6), (5, 6, 6)) == 3 * 5 * 3 * once


@pytest.mark.parametrize(("again", "products"), [(False, 4), (True, 6)])
def test_what_remat_computes_again_counts(again, products):
    def inner(a, b):
        return jnp.sin(jnp.sin(a @ b) @ b)

    chosen = jax.checkpoint(inner) if again else inner
    gradient = jax.value_and_grad(lambda a, b: chosen(a, b).sum(), argnums=(0, 1))
    assert counted(gradient, (6, 6), (6, 6)) == (products + 2) * 2 * 6**3


def test_what_nothing_uses_does_not_count():
    def both(a, b):
        return (a @ b, a @ b @ b)[0]

    assert counted(both, (6, 6), (6, 6)) == 2 * 6**3


def test_what_every_device_does_counts_for_all():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    split = jax.shard_map(matmul, mesh=mesh, in_specs=(P(("a", "b")), P()), out_specs=P(("a", "b")))
    assert counted(split, (16, 5), (5, 7)) == counted(matmul, (16, 5), (5, 7))


def test_the_longest_branch_counts():
    def either(x, weight):
        return lax.cond(x[0, 0] > 0, lambda: x @ weight @ weight, lambda: x @ weight)

    assert counted(either, (4, 6), (6, 6)) == 2 * (2 * 4 * 6 * 6)


def test_a_loop_of_unknown_length_is_refused():
    def until(x, weight):
        return lax.while_loop(lambda c: jnp.sum(c) < 1, lambda c: c @ weight, x)

    with pytest.raises(ValueError, match="while loop"):
        counted(until, (4, 6), (6, 6))
    assert counted(lambda x: lax.while_loop(lambda c: c[0] < 1, lambda c: c + 1, x), (3,)) == 0


def test_the_network_costs_what_its_layers_do():
    network = UNet(channels=16, channel_mult=(1,), blocks=1, head_channels=16)
    z, logsnr = jnp.zeros((4, 8, 8, 3)), jnp.zeros(4)
    params = jax.eval_shape(network.init, jax.random.key(0), z, logsnr, {})
    found = flops.count(jax.jit(network.apply).trace(params, z, logsnr, {}).jaxpr)
    positions = {1: 8 * 8, 3: (8 * 3 - 2) ** 2}
    expected = 0
    for *size, ins, outs in (leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1):
        attends = not size and ins == 16 and outs in (16, 48)
        times = positions[size[0]] if size else 64 if attends else 1
        expected += 2 * 4 * times * ins * outs
        if outs == 48:  # queries by keys, and the mean of the values
            expected += 2 * (2 * 4 * 64 * 64 * 16)
    assert found == expected


def test_the_rate_of_products_is_their_operations_over_the_median_time(monkeypatch):
    """2 n³ for n = 2048, by a clock that says 1, 4 and 100 seconds."""
    clock = iter([0.0, 1.0, 10.0, 14.0, 20.0, 120.0])
    monkeypatch.setattr(flops.time, "perf_counter", lambda: next(clock))
    assert flops.matmul_rate(jnp.float32, repeats=3) == 2 * 2048**3 / 4.0
