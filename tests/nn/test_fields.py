"""Dtypes by name."""

import jax.numpy as jnp
import pytest

from cfg_jax.nn import DTYPES, dtype_name


@pytest.mark.parametrize("name", DTYPES)
def test_a_dtype_and_its_name_are_the_same(name):
    assert dtype_name(name) == dtype_name(getattr(jnp, name)) == dtype_name(jnp.dtype(name)) == name


@pytest.mark.parametrize("wrong", ["int32", "float99", "float64", None, 3, jnp.int8, ["float32"]])
def test_other_dtypes_are_refused(wrong):
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16"):
        dtype_name(wrong)
