"""Precision and recall against loops over all pairs, and where balls are disjoint."""

import numpy as np
import pytest

from cfg_jax.evaluation import precision_recall


def by_definition(real, samples, k):
    def radii(x):
        return [sorted(np.linalg.norm(x - point, axis=1))[k] for point in x]

    def share(points, centres, reach):
        inside = [
            any(np.linalg.norm(p - c) <= r for c, r in zip(centres, reach, strict=True))
            for p in points
        ]
        return np.mean(inside)

    return share(samples, real, radii(real)), share(real, samples, radii(samples))


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_equals_the_definition(k, block):
    rng = np.random.default_rng(k)
    real, samples = rng.normal(size=(60, 4)), rng.normal(0.6, 0.7, (45, 4))
    want = by_definition(real, samples, k)
    assert 0.05 < want[0] < 0.95 or 0.05 < want[1] < 0.95
    found = precision_recall(real, samples, neighbours=k, block=block)
    assert found == pytest.approx(want, abs=1e-12)


def test_sets_far_apart_have_neither():
    rng = np.random.default_rng(0)
    assert precision_recall(rng.normal(size=(20, 3)), rng.normal(50, 1, (30, 3))) == (0.0, 0.0)


def test_a_set_lies_within_itself():
    x = np.random.default_rng(0).normal(size=(50, 8))
    assert precision_recall(x, x) == (1.0, 1.0)


def test_half_the_modes_is_half_the_recall():
    rng = np.random.default_rng(1)
    real = rng.uniform(size=(80, 2)) + 100.0 * (np.arange(80) < 40)[:, None]
    samples = np.concatenate([real[:40], real[:40] + 1e-3])
    assert precision_recall(real, samples) == (1.0, 0.5)


def test_a_mean_far_from_zero_costs_no_digits():
    rng = np.random.default_rng(2)
    real, samples = rng.normal(size=(60, 4)), rng.normal(0.6, 0.7, (45, 4))
    assert precision_recall(real + 1e4, samples + 1e4) == precision_recall(real, samples)


@pytest.mark.parametrize(
    ("real", "samples", "neighbours", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), 3, "2 and 3 features"),
        (np.zeros((3, 2)), np.zeros((5, 2)), 3, r"\[1, 2\].* 3 images"),
        (np.zeros((5, 2)), np.zeros((5, 2)), 0, r"\[1, 4\]"),
        (np.zeros(5), np.zeros((5, 2)), 3, "finite, of"),
        (np.zeros((5, 2)), np.full((5, 2), np.inf), 3, "finite, of"),
    ],
)
def test_what_cannot_be_compared_is_refused(real, samples, neighbours, message):
    with pytest.raises(ValueError, match=message):
        precision_recall(real, samples, neighbours=neighbours)
