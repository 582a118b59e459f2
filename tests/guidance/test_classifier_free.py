"""Classifier-free guidance and negative conditions against numpy, by one network call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import guidance
from cfg_jax.diffusion.prediction import Estimate

Z = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
LABELS = jnp.array([0, 4, 7])
NULL = 9


def eps_of(params, z, logsnr, cond):
    """Nonlinear in everything, so that no two halves can be confused."""
    level = jnp.asarray(logsnr)
    level = level[:, None] if level.ndim else level
    return jnp.tanh(params * z + level) + 0.1 * cond[:, None] ** 2


NETWORK = jax.tree_util.Partial(eps_of, 0.7)


def expected(w, away, logsnr):
    w = np.asarray(w, np.float64)
    w = w[:, None] if w.ndim else w
    towards = np.asarray(NETWORK(Z, logsnr, LABELS), np.float64)
    from_ = np.asarray(NETWORK(Z, logsnr, away), np.float64)
    return (1 + w) * towards - w * from_


@pytest.mark.parametrize("logsnr", [0.5, jnp.array([-2.0, 0.0, 3.0])])
@pytest.mark.parametrize("w", [0.0, 0.3, 4.0, -1.0, -2.5, np.array([0.0, 1.0, -3.0])])
def test_the_formula(w, logsnr):
    guided = guidance.classifier_free(NETWORK, w=w, null=NULL)
    got = guided(Z, logsnr, LABELS)
    want = expected(w, jnp.full(3, NULL), logsnr)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("w", [0.3, np.array([0.0, 1.0, -3.0])])
def test_a_negative_condition_takes_the_nulls_place(w):
    away = jnp.array([1, 2, 3])
    got = guidance.negative(NETWORK, w=w, cond=away)(Z, 0.5, LABELS)
    np.testing.assert_allclose(got, expected(w, away, 0.5), rtol=1e-5, atol=1e-5)


def test_no_guidance_is_the_conditional_network_exactly_and_minus_one_the_unconditional():
    none = guidance.classifier_free(NETWORK, w=0.0, null=NULL)(Z, 0.5, LABELS)
    np.testing.assert_array_equal(none, NETWORK(Z, 0.5, LABELS))
    against = guidance.classifier_free(NETWORK, w=-1.0, null=NULL)(Z, 0.5, LABELS)
    np.testing.assert_array_equal(against, NETWORK(Z, 0.5, jnp.full(3, NULL)))


def test_one_call_of_twice_the_batch():
    batches = []

    def counting(z, logsnr, cond):
        batches.append(z.shape[0])
        return eps_of(0.7, z, logsnr, cond)

    guidance.classifier_free(counting, w=1.0, null=NULL)(Z, 0.5, LABELS)
    assert batches == [6]


def test_w_and_params_are_leaves_and_may_be_traced():
    guided = guidance.classifier_free(NETWORK, w=0.3, null=NULL)
    assert len(jax.tree.leaves(guided)) == 3
    run = jax.jit(lambda w: guidance.classifier_free(NETWORK, w=w, null=NULL)(Z, 0.5, LABELS))
    np.testing.assert_allclose(
        run(2.0), expected(2.0, jnp.full(3, NULL), 0.5), rtol=1e-5, atol=1e-5
    )
    slope = jax.jacobian(lambda w: run(w))(2.0)
    want = expected(3.0, jnp.full(3, NULL), 0.5) - expected(2.0, jnp.full(3, NULL), 0.5)
    np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-4)


def test_a_network_of_pairs_is_guided_in_both():
    def pair(z, logsnr, cond):
        eps = eps_of(0.7, z, logsnr, cond)
        return Estimate(x=z - eps, eps=eps)

    got = guidance.classifier_free(pair, w=0.5, null=NULL)(Z, 0.5, LABELS)
    want = expected(0.5, jnp.full(3, NULL), 0.5)
    np.testing.assert_allclose(got.eps, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.x, np.asarray(Z) - want, rtol=1e-5, atol=1e-5)


def test_conditions_of_several_leaves():
    def network(z, logsnr, cond):
        return z * cond["scale"] + cond["label"][:, None]

    cond = {"label": LABELS, "scale": jnp.ones((3, 2))}
    null = {"label": 0, "scale": jnp.array([0.5, 2.0])}
    got = guidance.classifier_free(network, w=1.0, null=null)(Z, 0.0, cond)
    want = 2 * (Z + LABELS[:, None]) - Z * null["scale"]
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("w", [float("nan"), float("inf"), np.array([0.0, np.nan])])
def test_a_strength_that_is_no_number_is_refused(w):
    with pytest.raises(ValueError, match="w must be finite"):
        guidance.classifier_free(NETWORK, w=w, null=NULL)


def test_a_strength_of_two_axes_is_refused():
    with pytest.raises(ValueError, match=r"shape \(batch,\)"):
        guidance.classifier_free(NETWORK, w=np.ones((2, 2)), null=NULL)


@pytest.mark.parametrize(
    ("null", "message"),
    [
        ({"label": 1}, "structure of the condition"),
        (jnp.zeros(2, jnp.int32), r"must be a number or have shape \(\)"),
    ],
)
def test_a_null_that_does_not_fit_is_refused(null, message):
    with pytest.raises(ValueError, match=message):
        guidance.classifier_free(NETWORK, w=1.0, null=null)(Z, 0.0, LABELS)


def test_the_two_conventions(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    assert guidance.from_scale(guidance.to_scale(0.3)) == pytest.approx(0.3)
    assert guidance.from_scale(1.0) == 0.0
    assert guidance.to_scale(0.0) == 1.0
    for convert, name in ((guidance.from_scale, "s"), (guidance.to_scale, "w")):
        with pytest.raises(ValueError, match=f"{name} must be a number or an array .*, got 'x'"):
            convert("x")
        with pytest.raises(ValueError, match=f"{name} must be finite, got inf"):
            convert(np.inf)
