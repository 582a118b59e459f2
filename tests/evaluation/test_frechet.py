"""The Fréchet distance against closed forms, SciPy's matrix square root and 50-digit arithmetic."""

import mpmath
import numpy as np
import pytest
import scipy.linalg

from cfg_jax.evaluation import Moments, frechet_distance, moments


def gaussian(mean, covariance):
    return Moments(np.asarray(mean, np.float64), np.asarray(covariance, np.float64), 1000)


def random_gaussian(rng, size, rank=None):
    factor = rng.normal(size=(size, rank or 2 * size))
    return gaussian(rng.normal(size=size), factor @ factor.T)


def test_moments_are_numpys():
    features = np.random.default_rng(0).normal(3.0, 2.0, (50, 7)).astype(np.float32)
    result = moments(features)
    np.testing.assert_allclose(result.mean, features.astype(np.float64).mean(0), rtol=1e-14)
    np.testing.assert_allclose(
        result.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-12
    )
    assert result.mean.dtype == result.covariance.dtype == np.float64
    assert result.count == 50


def test_moments_of_more_samples_than_are_taken_at_a_time_are_numpys(monkeypatch):
    monkeypatch.setattr("cfg_jax.evaluation.frechet._ROWS", 7)
    features = np.random.default_rng(0).normal(size=(50, 4))
    result = moments(features)
    np.testing.assert_allclose(result.covariance, np.cov(features, rowvar=False), rtol=1e-12)


def test_moments_survive_a_mean_far_from_zero():
    features = np.random.default_rng(0).normal(size=(40, 3))
    near, far = moments(features), moments(features + 1e6)
    np.testing.assert_allclose(far.covariance, near.covariance, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 3)), "at least 2 samples, got 1"),
        (np.zeros((0, 3)), "at least 2 samples, got 0"),
        (np.zeros(3), "shape"),
        (np.array([[0.0], [np.nan]]), "finite"),
        (np.array([[0.0], [np.inf]]), "finite"),
    ],
)
def test_features_without_moments_are_refused(features, message):
    with pytest.raises(ValueError, match=message) as error:
        moments(features)
    assert "\n" not in str(error.value)


def test_one_dimension_is_the_difference_of_means_and_of_deviations():
    a, b = gaussian([1.0], [[4.0]]), gaussian([-2.0], [[25.0]])
    assert frechet_distance(a, b) == pytest.approx(3.0**2 + (5.0 - 2.0) ** 2, rel=1e-14)


def test_commuting_covariances_have_a_closed_form():
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    s, t = rng.uniform(0.0, 3.0, (2, 6))
    s[0] = t[1] = t[2] = 0.0
    means = rng.normal(size=(2, 6))
    a = gaussian(means[0], basis @ np.diag(s**2) @ basis.T)
    b = gaussian(means[1], basis @ np.diag(t**2) @ basis.T)
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((s - t) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("size", [2, 16, 64])
def test_equals_scipys_matrix_square_root(size):
    rng = np.random.default_rng(size)
    a, b = random_gaussian(rng, size), random_gaussian(rng, size)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_equals_fifty_digit_arithmetic():
    rng = np.random.default_rng(3)
    a, b = random_gaussian(rng, 4), random_gaussian(rng, 4)
    with mpmath.workdps(50):
        product = mpmath.matrix(a.covariance.tolist()) * mpmath.matrix(b.covariance.tolist())
        eigenvalues, _ = mpmath.eig(product)
        cross = sum(mpmath.sqrt(mpmath.re(value)) for value in eigenvalues)
        expected = float(
            np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance) - 2 * cross
        )
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_singular_covariances_have_their_exact_distance(rank):
    """For C₁ = A Aᵀ and C₂ = B Bᵀ the trace of the root is the nuclear norm of Aᵀ B."""
    rng = np.random.default_rng(rank)
    factors = rng.normal(size=(2, 12, rank))
    means = rng.normal(size=(2, 12))
    a, b = (gaussian(m, f @ f.T) for m, f in zip(means, factors, strict=True))
    cross = np.linalg.norm(factors[0].T @ factors[1], "nuc")
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum(factors**2) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rank", [None, 1, 5])
def test_a_gaussian_is_at_no_distance_from_itself(rank):
    a = random_gaussian(np.random.default_rng(4), 20, rank)
    assert 0.0 <= frechet_distance(a, a) < 1e-6 * np.trace(a.covariance)


def test_is_symmetric_and_the_same_in_any_basis():
    rng = np.random.default_rng(5)
    a, b = random_gaussian(rng, 8), random_gaussian(rng, 8, rank=3)
    turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    turned = [gaussian(turn @ g.mean, turn @ g.covariance @ turn.T) for g in (a, b)]
    distance = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(*turned) == pytest.approx(distance, rel=1e-6)


def test_other_features_are_refused():
    rng = np.random.default_rng(6)
    with pytest.raises(ValueError, match="2 and 3 features"):
        frechet_distance(random_gaussian(rng, 2), random_gaussian(rng, 3))
