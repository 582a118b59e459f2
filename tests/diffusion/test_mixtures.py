"""Exact mixtures against mpmath and autodiff, and the implicit classifier of guidance."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import stats

from cfg_jax import guidance, mixtures
from cfg_jax.diffusion.logsnr import sigma

RNG = np.random.default_rng(0)
MEANS = RNG.normal(0, 0.5, (3, 4, 2))
STDS = RNG.uniform(0.05, 0.25, (3, 4))
WEIGHTS = RNG.uniform(0.5, 2.0, (3, 4))
PRIORS = np.array([0.5, 0.3, 0.2])
MIXTURE = mixtures.gaussian_mixture(MEANS, STDS, weights=WEIGHTS, priors=PRIORS)
Z = jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 3, 3, 0])


def exact_log_prob(z, lam, label):
    """log p(z_λ|c) in 40 digits, component by component."""
    with mpmath.workdps(40):
        lam = mpmath.mpf(float(lam))
        a2, s2 = 1 / (1 + mpmath.exp(-lam)), 1 / (1 + mpmath.exp(lam))
        total = mpmath.mpf(0)
        for c in range(3) if label == 3 else [label]:
            prior = mpmath.mpf(float(PRIORS[c])) if label == 3 else 1
            for k in range(4):
                share = mpmath.mpf(float(WEIGHTS[c, k])) / mpmath.fsum(map(float, WEIGHTS[c]))
                var = a2 * mpmath.mpf(float(STDS[c, k])) ** 2 + s2
                square = mpmath.fsum(
                    (mpmath.mpf(float(z[d])) - mpmath.sqrt(a2) * float(MEANS[c, k, d])) ** 2
                    for d in range(2)
                )
                total += prior * share * mpmath.exp(-square / (2 * var)) / (2 * mpmath.pi * var)
        return float(mpmath.log(total))


@pytest.mark.parametrize("lam", [-20.0, -5.0, 0.0, 3.0])
def test_densities_are_mpmaths(lam):
    got = MIXTURE.log_prob(Z, lam, LABELS)
    want = [exact_log_prob(z, lam, int(c)) for z, c in zip(np.asarray(Z), LABELS, strict=True)]
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("lam", [-5.0, 0.0, 3.0])
def test_eps_is_minus_sigma_times_the_score(lam):
    score = jax.grad(lambda z: MIXTURE.log_prob(z, lam, LABELS).sum())(Z)
    got = MIXTURE(Z, lam, LABELS)
    np.testing.assert_allclose(got, -sigma(lam) * score, rtol=1e-4, atol=1e-5)


def test_the_posterior_is_bayes_rule():
    lam = 1.0
    joint = np.stack(
        [[exact_log_prob(z, lam, c) + np.log(PRIORS[c]) for c in range(3)] for z in np.asarray(Z)]
    )
    marginal = np.array([exact_log_prob(z, lam, 3) for z in np.asarray(Z)])
    got = MIXTURE.log_posterior(Z, lam)
    np.testing.assert_allclose(got, joint - marginal[:, None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("w", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("lam", [-4.0, 0.0, 2.0])
def test_guidance_is_that_of_the_implicit_classifier(w, lam):
    """ε̃ = ε(c) - w σ ∇ log p(c|z), and around the unconditional model with w + 1.

    Ho & Salimans 2022, Section 3.2, with exact scores and the exact posterior.
    """
    labels = jnp.array([0, 1, 2, 1, 2, 0])

    def log_posterior(z):
        return jnp.take_along_axis(MIXTURE.log_posterior(z, lam), labels[:, None], 1).sum()

    pull = sigma(lam) * jax.grad(log_posterior)(Z)
    got = guidance.classifier_free(MIXTURE, w=w, null=MIXTURE.null)(Z, lam, labels)
    around_conditional = MIXTURE(Z, lam, labels) - w * pull
    around_unconditional = MIXTURE(Z, lam, jnp.full(6, 3)) - (w + 1) * pull
    scale = np.abs(got).max()
    np.testing.assert_allclose(got, around_conditional, atol=1e-5 * max(scale, 1))
    np.testing.assert_allclose(got, around_unconditional, atol=1e-5 * max(scale, 1))


def test_samples_have_the_density():
    """The probability-integral transform of one coordinate of a class of one mode is uniform."""
    single = mixtures.gaussian_mixture([[[0.5, -1.0]], [[3.0, 0.0]]], [[0.2], [0.7]])
    x = np.asarray(single.sample(jax.random.key(0), jnp.ones(5000, jnp.int32)))
    assert stats.kstest((x[:, 0] - 3.0) / 0.7, "norm").pvalue > 1e-3
    classes = np.asarray(MIXTURE.sample(jax.random.key(1), jnp.full(5000, 3)))
    want = PRIORS[:, None, None] * (WEIGHTS / WEIGHTS.sum(1, keepdims=True))[..., None] * MEANS
    np.testing.assert_allclose(classes.mean(0), want.sum((0, 1)), atol=0.04)


@pytest.mark.parametrize("lam", [-20.0, 20.0])
def test_points_are_finite_at_the_ends(lam):
    points = mixtures.gaussian_mixture([[[0.0, 1.0]], [[1.0, 0.0]]], 0.0)
    assert np.all(np.isfinite(points(Z, lam, jnp.array([0, 1, 2, 0, 1, 2]))))


def test_the_reference_is_the_closed_form_of_one_gaussian():
    """The flow of N(μ, s²): z_λ = α μ + sqrt(α² s² + σ²) n with n constant."""
    s, low = 0.3, -10.0
    single = mixtures.gaussian_mixture([[[0.5, -1.0]]], s)
    a2, s2 = 1 / (1 + np.exp(-low)), 1 / (1 + np.exp(low))
    n = RNG.normal(size=(5, 2))
    z = np.sqrt(a2) * np.array([0.5, -1.0]) + np.sqrt(a2 * s**2 + s2) * n
    got = mixtures.reference(single, z, logsnr_from=low)
    np.testing.assert_allclose(got, np.array([0.5, -1.0]) + s * n, atol=1e-6)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"\(classes, modes, dim\)"):
        mixtures.gaussian_mixture(np.zeros((2, 2)), 0.1)
    for place, wrong in (("means", ([[[np.nan]]], 0.1)), ("stds", ([[[0.0]]], np.nan))):
        with pytest.raises(ValueError, match=f"{place} must be finite, got nan"):
            mixtures.gaussian_mixture(*wrong)
    for place in ("weights", "priors"):
        with pytest.raises(ValueError, match=f"{place} must be finite, got inf"):
            mixtures.gaussian_mixture([[[0.0]]], 0.1, **{place: np.inf})
    with pytest.raises(ValueError, match="stds must not be negative"):
        mixtures.gaussian_mixture(np.zeros((2, 1, 2)), -0.1)
