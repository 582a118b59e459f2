"""The kernel distance against its definition in double loops, and its lack of bias."""

import numpy as np
import pytest

from cfg_jax.evaluation import kernel_distance


def by_definition(x, y):
    """With sums in Python's own arithmetic."""
    m, d = x.shape

    def kernel(a, b):
        return (float(np.dot(a, b)) / d + 1.0) ** 3

    within = sum(kernel(z[i], z[j]) for z in (x, y) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    return within / (m * (m - 1)) - 2.0 * across / m**2


@pytest.mark.parametrize("shape", [(2, 1), (12, 5), (7, 30)])
def test_whole_sets_have_the_distance_of_the_definition(shape):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape), rng.normal(0.5, 2.0, shape)
    mean, deviation = kernel_distance(x, y, subsets=3, subset_size=len(x))
    assert mean == pytest.approx(by_definition(x, y), rel=1e-12)
    assert deviation == pytest.approx(0.0, abs=1e-12)


def test_subsets_are_drawn_without_replacement_by_their_seed():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    possible = [by_definition(np.delete(x, i, 0), y) for i in range(4)]
    found = {kernel_distance(x, y, subsets=1, subset_size=3, seed=s)[0] for s in range(40)}
    rounded = sorted({round(value, 9) for value in found})
    assert rounded == sorted({round(value, 9) for value in possible})
    assert kernel_distance(x, y, subset_size=2) == kernel_distance(x, y, subset_size=2)


def test_mean_and_deviation_are_over_subsets():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 4)), rng.normal(1.0, 1.0, (50, 4))
    draws = np.random.default_rng(5)
    values = [
        by_definition(
            x[draws.choice(30, 10, replace=False)], y[draws.choice(50, 10, replace=False)]
        )
        for _ in range(7)
    ]
    found = kernel_distance(x, y, subsets=7, subset_size=10, seed=5)
    assert found == pytest.approx((np.mean(values), np.std(values)), rel=1e-10)


def test_equal_distributions_are_at_no_distance_on_average():
    """The biased estimate would be E k(x, x) / 20 > 0.1 higher."""
    rng = np.random.default_rng(3)
    values = [
        kernel_distance(*rng.normal(size=(2, 20, 2)), subsets=1, subset_size=20)[0]
        for _ in range(2000)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(2000)
    assert min(values) < 0


def test_float32_is_summed_in_float64():
    x = np.random.default_rng(4).normal(100.0, 1.0, (20, 3)).astype(np.float32)
    y = x[::-1] + np.float32(0.5)
    mean, _ = kernel_distance(x, y, subsets=1, subset_size=20)
    assert mean == pytest.approx(
        by_definition(x.astype(np.float64), y.astype(np.float64)), rel=1e-6
    )


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), {"subset_size": 5}, "2 and 3 features"),
        (np.zeros((5, 2)), np.zeros((4, 2)), {"subset_size": 5}, r"\[2, 4\].*got 5"),
        (np.zeros((5, 2)), np.zeros((4, 2)), {}, r"\[2, 4\].*got 1000"),
        (np.zeros((5, 2)), np.zeros((5, 2)), {"subset_size": 1}, "subset_size"),
        (np.zeros((5, 2)), np.zeros((5, 2)), {"subset_size": 2, "subsets": 0}, "at least 1"),
        (np.zeros(5), np.zeros((5, 2)), {"subset_size": 2}, "finite, of"),
        (np.full((5, 2), np.nan), np.zeros((5, 2)), {"subset_size": 2}, "finite, of"),
    ],
)
def test_what_has_no_distance_is_refused(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(a, b, **options)
