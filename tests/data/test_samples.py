import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.data.samples import to_float, to_int16, to_uint8

EVERY = {"uint8": np.arange(256, dtype=np.uint8), "int16": np.arange(-(2**15), 2**15).astype("i2")}
BACK = {"uint8": to_uint8, "int16": to_int16}


@pytest.mark.parametrize("shape", [(-1, 1), (2, -1, 1), (2, 2, -1, 2), (2, 2, 4, -1, 1)])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("dtype", EVERY)
def test_every_stored_value_goes_to_its_float_and_back(dtype, array, shape):
    stored = EVERY[dtype].reshape(shape)
    exact = stored / 127.5 - 1 if dtype == "uint8" else stored / 32768
    found = to_float(array(stored))
    assert isinstance(found, type(array(stored)))
    assert found.dtype == np.float32
    # Two roundings, the first of a number up to 2.
    np.testing.assert_allclose(found, exact, rtol=0, atol=2.5e-7)
    back = BACK[dtype](found)
    assert isinstance(back, np.ndarray)
    np.testing.assert_array_equal(back, stored)
    assert back.dtype == dtype


@pytest.mark.parametrize(("dtype", "extremes"), [("uint8", (0, 255)), ("int16", (-32768, 32767))])
def test_what_is_outside_is_clipped_to_the_nearest(dtype, extremes):
    values = np.array([-np.inf, -1e9, -1.01, -1, 1, 1.01, 1e9, np.inf])
    back = BACK[dtype](values)
    assert back.dtype == dtype
    assert back.tolist() == [extremes[0]] * 4 + [extremes[1]] * 4
    rounded = BACK[dtype](np.linspace(-1, 1, 1001) * 0.99)
    exact = np.linspace(-1, 1, 1001) * 0.99
    exact = (exact + 1) * 127.5 if dtype == "uint8" else exact * 32768
    assert np.abs(rounded - exact).max() < 0.501


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_other_dtypes_are_no_stored_samples(dtype):
    with pytest.raises(TypeError, match=f"should be uint8 or int16, got {dtype}"):
        to_float(np.zeros(3, dtype))
