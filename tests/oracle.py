"""Comparison of float32 results with float64 oracles."""

import numpy as np

RELATIVE = 5e-6


def assert_relative(actual, expected, relative=RELATIVE, absolute=0.0):
    """Compares float32 results with a float64 oracle."""
    assert np.asarray(actual).dtype == np.float32
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=relative, atol=absolute
    )
