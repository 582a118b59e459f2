"""Measures of reconstruction against their formulas, entry by entry in float64."""

import numpy as np
import pytest

from cfg_jax.evaluation import bits_per_dimension, codebook_usage, psnr, ssim

RNG = np.random.default_rng(0)


def gaussian_window():
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    return window / window.sum()


def ssim_by_hand(a, b, data_range):
    """Wang et al., Equation 13, at every place of one channel."""
    window, found = gaussian_window(), []
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mu_p, mu_q = (window * p).sum(), (window * q).sum()
            var_p = (window * (p - mu_p) ** 2).sum()
            var_q = (window * (q - mu_q) ** 2).sum()
            cov = (window * (p - mu_p) * (q - mu_q)).sum()
            luminance = (2 * mu_p * mu_q + c1) / (mu_p**2 + mu_q**2 + c1)
            found.append(luminance * (2 * cov + c2) / (var_p + var_q + c2))
    return np.mean(found)


@pytest.mark.parametrize("data_range", [2.0, 255.0])
def test_ssim_is_the_mean_of_the_index_over_places_and_channels(data_range):
    x = RNG.uniform(-1, 1, size=(2, 13, 16, 2)) * data_range / 2
    y = x + 0.2 * RNG.normal(size=x.shape) * data_range
    want = [
        np.mean([ssim_by_hand(x[n, ..., c], y[n, ..., c], data_range) for c in range(2)])
        for n in range(2)
    ]
    got = ssim(x, y, data_range=data_range)
    np.testing.assert_allclose(got, want, rtol=1e-10)
    np.testing.assert_allclose(ssim(y, x, data_range=data_range), got, rtol=1e-12)


def test_ssim_is_one_for_the_same_and_less_than_zero_for_the_inverse():
    x = RNG.uniform(0, 1, size=(1, 16, 16, 3))
    np.testing.assert_allclose(ssim(x, x, data_range=1.0), 1.0, rtol=1e-12)
    assert ssim(x, 1 - x, data_range=1.0)[0] < -0.9


def test_psnr_is_of_each_example_and_of_its_range():
    x = RNG.normal(size=(3, 5, 4, 3))
    y = x + np.array([0.1, 0.01, 0.0])[:, None, None, None]
    np.testing.assert_allclose(psnr(y, x, data_range=1.0), [20.0, 40.0, np.inf])
    more = psnr(y[:2], x[:2], data_range=2.0) - psnr(y[:2], x[:2], data_range=1.0)
    np.testing.assert_allclose(more, 20 * np.log10(2.0))


def test_bits_are_nats_over_log_two_and_the_numbers_of_the_data():
    kl = np.array([10.0, 30.0])
    np.testing.assert_allclose(
        bits_per_dimension(kl, dimensions=64), 20.0 / np.log(2.0) / 64, rtol=1e-12
    )


def test_a_codebook_is_used_by_a_set():
    used, perplexity = codebook_usage(np.array([8, 0, 2, 0, 6]))
    p = np.array([0.5, 0.125, 0.375])
    assert used == 0.6
    np.testing.assert_allclose(perplexity, np.prod(p**-p), rtol=1e-12)
    assert codebook_usage(np.ones(7)) == (1.0, pytest.approx(7.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: psnr(np.ones((1, 2)), np.ones((1, 3)), data_range=1.0),
            "must have the same shape",
        ),
        (lambda: psnr(np.ones((1, 2)), np.ones((1, 2)), data_range=0.0), "data_range must be pos"),
        (lambda: ssim(np.ones((1, 10, 20, 3)), np.ones((1, 10, 20, 3)), data_range=1.0), "11×11"),
        (lambda: bits_per_dimension(np.ones(0), dimensions=3), "need examples and dimensions"),
        (lambda: codebook_usage(np.zeros(3)), "none negative and not all zero"),
        (lambda: codebook_usage(np.array([-1, 2])), "none negative"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
