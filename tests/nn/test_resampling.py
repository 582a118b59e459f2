"""Resampling against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.nn import downsample, upsample

RNG = np.random.default_rng(0)


def test_resampling_is_means_and_copies():
    x = jnp.asarray(RNG.normal(size=(2, 4, 6, 3)), jnp.float32)
    up = upsample(x)
    np.testing.assert_array_equal(up, np.asarray(x).repeat(2, 1).repeat(2, 2))
    np.testing.assert_allclose(downsample(up), x, rtol=1e-6)
    corner = np.asarray(x)[:, :2, :2].mean((1, 2))
    np.testing.assert_allclose(downsample(x)[:, 0, 0], corner, rtol=1e-5, atol=1e-6)


RESAMPLED = {
    "sound": ((12,), None, (1,)),
    "picture": ((6, 9), None, (1, 2)),
    "video": ((4, 6, 9), None, (2, 3)),
    "video, in time": ((6, 4, 5), (1,), (1,)),
    "picture, its width": ((5, 6), (2,), (2,)),
}


@pytest.mark.parametrize("case", RESAMPLED)
def test_by_any_factor_along_space_or_the_axes_asked_for(case):
    sides, asked, axes = RESAMPLED[case]
    x = RNG.normal(size=(2, *sides, 3))
    copied, mean = x, x
    for axis in axes:
        copied = copied.repeat(3, axis)
        thirds = [mean.take(np.arange(i, mean.shape[axis], 3), axis) for i in range(3)]
        mean = sum(thirds) / 3
    single = jnp.asarray(x, jnp.float32)
    np.testing.assert_array_equal(upsample(single, 3, asked), copied.astype(np.float32))
    np.testing.assert_allclose(downsample(single, 3, asked), mean, rtol=1e-5, atol=1e-6)


def test_a_side_that_the_factor_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="a side of 6 cannot be divided by 4"):
        downsample(jnp.ones((1, 6, 1)), 4)
