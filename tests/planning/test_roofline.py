"""Times of a program of round figures on a chip of round figures."""

import pytest
from analyses import analysis

from cfg_jax.planning.roofline import roofline


def test_each_bound(slice_):
    found = roofline(analysis(), slice_)
    assert found.arithmetic == pytest.approx(16e6 / 8 / 1e6)
    assert found.memory == pytest.approx(500 / 1e3)
    assert found.links == pytest.approx(3 * 320 * 7 / 8 / 1e2)
    assert found.bound == "links"
    assert found.seconds() == found.links


def test_utilisation_slows_arithmetic_alone(slice_):
    found = roofline(analysis(collectives=()), slice_)
    assert found.bound == "arithmetic"
    assert found.seconds(0.4) == pytest.approx(2 / 0.4)
    bound = roofline(analysis(collectives=(), accessed=3000), slice_)
    assert bound.bound == "memory"
    assert (bound.seconds(1.0), bound.seconds(0.4)) == pytest.approx((3, 5))
