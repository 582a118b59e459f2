"""The two forms of classifier guidance, of ε̂ and of a step's mean, and what parts them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import grids, guidance, mixtures, sample, schedules, solvers

RNG = np.random.default_rng(2)
MIXTURE = mixtures.gaussian_mixture(
    RNG.normal(0, 0.7, (3, 2, 2)), RNG.uniform(0.1, 0.3, (3, 2)), priors=[0.5, 0.3, 0.2]
)
LABELS = jnp.arange(60) % 3
SLOPE = jnp.asarray(RNG.normal(size=(1, 4)), jnp.float32)


def log_posterior(mixture, z, logsnr, cond):
    return jnp.take_along_axis(mixture.log_posterior(z, logsnr), cond[:, None], 1)[:, 0]


EXACT = jax.tree_util.Partial(log_posterior, MIXTURE)


@pytest.mark.parametrize("v", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("low", "high"), [(-6.0, -5.0), (-1.0, 2.0), (4.0, 4.1)])
def test_the_forms_move_the_mean_in_the_ratio_of_the_docstring(v, low, high):
    """With a gradient that is the same everywhere, in float64."""
    zero = jax.tree_util.Partial(lambda z, logsnr, cond: jnp.zeros_like(z))
    linear = jax.tree_util.Partial(lambda z, logsnr, cond: (z * SLOPE).sum(1))
    z, noise = jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32)

    def step(denoiser, shift=None):
        solver = solvers.Ancestral(v=v, shift=shift)
        return solver.step(denoiser, z, (), None, lambda: noise, logsnr=low, logsnr_next=high)[0]

    plain = step(zero)
    by_eps = step(guidance.classifier(zero, linear, w=2.0)) - plain
    by_mean = step(zero, guidance.ascent(linear, w=2.0)) - plain
    alpha2, sigma2 = (1 / (1 + np.exp(sign * np.array([low, high]))) for sign in (-1, 1))
    ratio = np.sqrt(alpha2[1] / alpha2[0]) * (sigma2[0] / sigma2[1]) ** (1 - v)
    np.testing.assert_allclose(by_eps, ratio * by_mean, rtol=2e-3, atol=1e-5)
    want = -np.expm1(low - high) * sigma2[1] ** (1 - v) * sigma2[0] ** v * 2.0 * SLOPE
    np.testing.assert_allclose(by_mean, np.broadcast_to(want, z.shape), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("around", ["conditional", "unconditional"])
@pytest.mark.slow
def test_the_forms_agree_as_steps_grow(around):
    """With the exact posterior both go to classifier-free guidance, ε̂'s form at any step count."""
    w, null = (1.0, None) if around == "conditional" else (2.0, MIXTURE.null)
    network = MIXTURE if null is None else guidance.unconditional(MIXTURE, null=null)
    there = {"shape": (2,), "schedule": schedules.Cosine(logsnr_min=-10.0, logsnr_max=10.0)}

    def walk(denoiser, steps, shift=None):
        solver = solvers.Ancestral(v=0.5, shift=shift)
        grid = grids.UniformU()
        return sample(
            denoiser, jax.random.key(1), LABELS, solver=solver, grid=grid, steps=steps, **there
        )

    apart = []
    for steps in (32, 128):
        by_eps = walk(guidance.classifier(MIXTURE, EXACT, w=w, null=null), steps)
        free = walk(guidance.classifier_free(MIXTURE, w=1.0, null=MIXTURE.null), steps)
        by_mean = walk(network, steps, guidance.ascent(EXACT, w=w))
        np.testing.assert_allclose(by_eps, free, atol=2e-2)
        apart.append(float(jnp.sqrt(jnp.mean((by_eps - by_mean) ** 2))))
    assert apart[0] > 2 * apart[1] > 0.0


def test_a_network_without_labels_is_guided_towards_those_that_the_classifier_sees():
    def refuses_labels(z, logsnr, cond):
        assert cond is None
        return MIXTURE(z, logsnr, None)

    alone = guidance.unconditional(refuses_labels, null=None)
    guided = guidance.classifier(alone, EXACT, w=1.0)
    z = jnp.asarray(RNG.normal(size=(60, 2)), jnp.float32)
    np.testing.assert_allclose(
        guided(z, 0.0, LABELS).eps, MIXTURE(z, 0.0, LABELS), rtol=1e-3, atol=1e-5
    )
