"""The Inception score against closed forms and a plain double loop."""

import math

import numpy as np
import pytest

from cfg_jax.evaluation import inception_score


def by_definition(p):
    """The exponential of the mean divergence, in Python's own arithmetic."""
    samples, classes = p.shape
    marginal = [sum(p[i, y] for i in range(samples)) / samples for y in range(classes)]
    total = 0.0
    for i in range(samples):
        for y in range(classes):
            if p[i, y] > 0:
                total += p[i, y] * (math.log(p[i, y]) - math.log(marginal[y]))
    return math.exp(total / samples)


@pytest.fixture
def probabilities():
    return np.random.default_rng(0).dirichlet([0.3] * 7, 60)


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_sure_and_even_samples_score_the_number_of_classes(classes):
    score = inception_score(np.tile(np.eye(classes), (5, 1)))
    assert score == pytest.approx(classes, rel=1e-14)


def test_equal_rows_score_one():
    assert inception_score(np.tile([0.2, 0.5, 0.3], (9, 1))) == pytest.approx(1.0, abs=1e-14)


def test_sure_samples_score_the_exponential_entropy_of_the_classes():
    p = np.eye(3)[[0, 0, 0, 1, 1, 2]]
    entropy = -(3 / 6 * math.log(3 / 6) + 2 / 6 * math.log(2 / 6) + 1 / 6 * math.log(1 / 6))
    assert inception_score(p) == pytest.approx(math.exp(entropy), rel=1e-14)


def test_equals_the_definition(probabilities):
    assert inception_score(probabilities) == pytest.approx(by_definition(probabilities), rel=1e-12)


def test_zero_probabilities_count_nothing(probabilities):
    padded = np.concatenate([probabilities, np.zeros((60, 2))], axis=1)
    assert inception_score(padded) == pytest.approx(by_definition(probabilities), rel=1e-12)


def test_float32_is_summed_in_float64(probabilities):
    single = np.tile(probabilities, (500, 1)).astype(np.float32)
    assert inception_score(single) == pytest.approx(by_definition(probabilities), rel=1e-6)


def test_splits_are_scored_apart(probabilities):
    parts = [by_definition(probabilities[part]) for part in (slice(0, 20), slice(20, 40))]
    parts.append(by_definition(probabilities[40:]))
    mean, deviation = inception_score(probabilities, splits=3)
    assert mean == pytest.approx(np.mean(parts), rel=1e-12)
    assert deviation == pytest.approx(np.std(parts), rel=1e-9)


def test_uneven_splits_use_every_sample(probabilities):
    mean, _ = inception_score(probabilities[:5], splits=2)
    parts = [by_definition(probabilities[:3]), by_definition(probabilities[3:5])]
    assert mean == pytest.approx(np.mean(parts), rel=1e-12)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (np.ones(3), "shape"),
        (np.zeros((0, 3)), "shape"),
        (np.ones((2, 3)), "sum to 1"),
        (np.array([[1.5, -0.5]]), "sum to 1"),
        (np.array([[np.nan, 1.0]]), "sum to 1"),
    ],
)
def test_what_is_no_distribution_is_refused(p, message):
    with pytest.raises(ValueError, match=message):
        inception_score(p)


@pytest.mark.parametrize("splits", [0, 61])
def test_more_splits_than_samples_are_refused(probabilities, splits):
    with pytest.raises(ValueError, match=r"\[1, 60\]"):
        inception_score(probabilities, splits=splits)
