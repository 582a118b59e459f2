"""Convolutions against sums over windows in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from networks import convolved, double, random_variables

from cfg_jax.nn import Conv

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("sides", [(8,), (6, 4)])
def test_convolutions_are_sums_over_windows_centred_on_what_they_keep(sides, size, stride):
    x = RNG.normal(size=(2, *sides, 3))
    module = Conv(5, size=size, stride=stride)
    variables = random_variables(module, jnp.asarray(x, jnp.float32))
    kernel, bias = (double(variables["params"]["Conv_0"][n]) for n in ("kernel", "bias"))
    assert kernel.shape == (*(size,) * len(sides), 3, 5)
    reach = size // 2
    padded = np.pad(x, ((0, 0), *((reach, reach),) * len(sides), (0, 0)))
    want = np.zeros((2, *(side // stride for side in sides), 5))
    for place in np.ndindex(*want.shape[1:-1]):
        window = tuple(slice(i * stride, i * stride + size) for i in place)
        entries = np.tensordot(padded[(slice(None), *window)], kernel, len(sides) + 1)
        want[(slice(None), *place)] = entries + bias
    np.testing.assert_allclose(convolved(x, kernel, bias, (stride,) * len(sides)), want)
    got = module.apply(variables, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_that_of_a_video_is_one_in_three_dimensions_in_space_and_then_in_time(stride):
    x = RNG.normal(size=(2, 5, 4, 6, 3))
    module = Conv(4, stride=stride)
    variables = random_variables(module, jnp.asarray(x, jnp.float32))
    space, time = (double(variables["params"][name]) for name in ("Conv_0", "Conv_1"))
    want = convolved(x, space["kernel"][None], space["bias"], (1, stride, stride))
    want = convolved(want, time["kernel"][:, :, None].reshape(3, 1, 1, 4, 4), time["bias"])
    got = module.apply(variables, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_one_of_a_single_entry_mixes_channels_alone():
    x = jnp.ones((1, 2, 2, 2, 3))
    assert set(random_variables(Conv(4, size=1), x)["params"]) == {"Conv_0"}


@pytest.mark.parametrize("sides", [(4,), (4, 4), (2, 4, 4)])
def test_it_may_start_at_zero(sides):
    x = jnp.asarray(RNG.normal(size=(1, *sides, 3)), jnp.float32)
    for zero in (True, False):
        got, _ = Conv(4, zero=zero).init_with_output(jnp.zeros(2, jnp.uint32), x)
        assert bool(got.any()) != zero


@pytest.mark.parametrize("sides", [(8,), (6, 4), (3, 6, 4)])
def test_windows_may_begin_at_what_they_stand_for(sides):
    """Padded at the far ends alone, each window of stride 2 covers entries 2 i to 2 i + 2."""
    x = RNG.normal(size=(2, *sides, 3))
    module = Conv(5, stride=2, ahead=True)
    variables = random_variables(module, jnp.asarray(x, jnp.float32))
    p = double(variables["params"])
    frames = x.reshape(-1, *sides[-2:], 3)
    space = len(sides[-2:])
    padded = np.pad(frames, ((0, 0), *((0, 1),) * space, (0, 0)))
    want = np.zeros((len(frames), *(side // 2 for side in sides[-2:]), 5))
    for place in np.ndindex(*want.shape[1:-1]):
        window = padded[(slice(None), *(slice(2 * i, 2 * i + 3) for i in place))]
        want[(slice(None), *place)] = np.tensordot(window, p["Conv_0"]["kernel"], space + 1)
    want += p["Conv_0"]["bias"]
    if len(sides) == 3:
        want = want.reshape(2, 3, *want.shape[1:])
        want = convolved(want, p["Conv_1"]["kernel"][:, None], p["Conv_1"]["bias"])
    got = module.apply(variables, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
