"""Adapters of denoisers: what they return against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import denoiser, guidance, prediction, schedules

RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
P = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
LAM = np.array([-2.0, -0.5, 1.0, 3.0], np.float32)
ALPHA = np.sqrt(1 / (1 + np.exp(-LAM)))[:, None]
SIGMA = np.sqrt(1 / (1 + np.exp(LAM)))[:, None]


def constant(z, logsnr, cond):
    return P


def test_read_makes_the_pair_of_eps():
    x, eps, _ = denoiser.read(constant, Z, LAM, None)
    np.testing.assert_allclose(eps, P, rtol=1e-6)
    np.testing.assert_allclose(x, (Z - SIGMA * P) / ALPHA, rtol=1e-5, atol=1e-6)


def test_from_prediction_reads_v():
    x, eps, _ = denoiser.from_prediction(constant, prediction.V)(Z, LAM, None)
    np.testing.assert_allclose(x, ALPHA * Z - SIGMA * P, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(eps, SIGMA * Z + ALPHA * P, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bound", [1.0, 0.3])
def test_clipped_bounds_x_and_keeps_z(bound):
    x, eps, _ = denoiser.clipped(constant, bound)(Z, LAM, None)
    want = np.clip((Z - SIGMA * P) / ALPHA, -bound, bound)
    assert np.any(np.abs(want) == bound)
    np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ALPHA * x + SIGMA * eps, Z, atol=1e-5)


def test_clipping_that_clips_nothing_changes_nothing():
    free, held = (
        denoiser.read(constant, Z, LAM, None),
        denoiser.clipped(constant, 1e6)(Z, LAM, None),
    )
    np.testing.assert_array_equal(free.x, held.x)
    np.testing.assert_array_equal(free.eps, held.eps)


@pytest.mark.parametrize(("percentile", "bound"), [(0.6, 0.5), (1.0, 0.5), (0.0, 0.5), (0.9, 2.0)])
def test_dynamic_thresholding_shrinks_each_example_by_its_own_percentile(percentile, bound):
    x, eps, _ = denoiser.dynamically_thresholded(constant, percentile, bound)(Z, LAM, None)
    raw = (np.asarray(Z, np.float64) - SIGMA * P) / ALPHA
    s = np.maximum(np.quantile(np.abs(raw), percentile, axis=1, keepdims=True), bound)
    assert np.any(s > bound) or percentile == 0.0
    np.testing.assert_allclose(x, np.clip(raw, -s, s) / s * bound, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ALPHA * x + SIGMA * eps, Z, atol=1e-5)
    assert np.abs(x).max() <= bound * (1 + 1e-6)


def test_dynamic_thresholding_of_data_within_the_bound_changes_nothing():
    free = denoiser.read(constant, Z, LAM, None)
    held = denoiser.dynamically_thresholded(constant, 0.995, 1e6)(Z, LAM, None)
    np.testing.assert_array_equal(free.x, held.x)
    np.testing.assert_array_equal(free.eps, held.eps)


@pytest.mark.parametrize("lam", [-20.0, 20.0])
def test_dynamic_thresholding_is_finite_at_the_ends_and_of_nothing(lam):
    for network in (constant, lambda z, logsnr, cond: jnp.zeros_like(z)):
        pair = denoiser.dynamically_thresholded(network)(0 * Z, lam, None)
        assert np.all(np.isfinite(pair[:2]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ((1.5,), "percentile must lie in"),
            ((99.5,), "percentile"),
            ((0.9, 0.0), "bound must lie"),
        ),
        ((0.9, float("inf")), r"bound must lie in \[1e-30, 1e\+30\], got inf"),
    ],
)
def test_dynamic_thresholding_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        denoiser.dynamically_thresholded(constant, *arguments)


@pytest.mark.parametrize("bound", [-1.0, 0.0, float("nan"), float("inf"), "1"])
def test_a_bound_that_is_none_is_refused(monkeypatch, bound):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match="bound must"):
        denoiser.clipped(constant, bound)


def test_a_kind_or_schedule_may_be_named():
    for name, kind in prediction.KINDS.items():
        assert denoiser.from_prediction(constant, name).kind is kind
    made = denoiser.from_discrete(constant, "linear_beta")
    assert made.schedule == schedules.LinearBeta()
    got = prediction.convert(P, Z, logsnr=LAM, source="v", target="x")
    np.testing.assert_allclose(got, ALPHA * Z - SIGMA * P, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: denoiser.clipped(None), TypeError, "denoiser must be a callable .* got None"),
        (lambda: denoiser.dynamically_thresholded(3), TypeError, "denoiser must be a callable"),
        (lambda: denoiser.from_prediction(3, "v"), TypeError, "network must be a callable"),
        (lambda: denoiser.from_prediction(constant, "w"), ValueError, "kind must be one of eps"),
        (lambda: denoiser.from_prediction(constant, 3), TypeError, "kind must be one of eps, .* 3"),
        (lambda: denoiser.from_discrete(3, "linear_beta"), TypeError, "network must be a callable"),
        (
            lambda: denoiser.from_discrete(constant, schedules.Cosine()),
            TypeError,
            r"schedule must be one of LinearBeta, CosineBeta, .* got Cosine\(",
        ),
        (
            lambda: denoiser.from_discrete(constant, "cosine"),
            ValueError,
            "schedule must be one of LinearBeta, CosineBeta, ScaledLinearBeta; got 'cosine'",
        ),
    ],
)
def test_what_makes_no_denoiser_is_refused(monkeypatch, make, kind, message):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(kind, match=message):
        make()


def test_adapters_travel_through_jit_with_their_parameters():
    network = jax.tree_util.Partial(lambda p, z, logsnr, cond: p * z, 2.0)
    adapted = denoiser.clipped(denoiser.from_prediction(network, prediction.X), 0.5)
    assert len(jax.tree.leaves(adapted)) == 2
    out = jax.jit(lambda d, z: d(z, 0.0, None))(adapted, jnp.array([[0.1, 1.0]]))
    np.testing.assert_allclose(out.x, [[0.2, 0.5]])


WRONG = {
    "None": lambda z: None,
    "a number": lambda z: 0.0,
    "one channel": lambda z: z[:, :1],
    "one example": lambda z: z[:1],
    "one more axis": lambda z: z[None],
    "a pair": lambda z: (z, z),
    "whole numbers": lambda z: z.astype(jnp.int32),
    "complex numbers": lambda z: z + 1j,
    "an estimate of another shape": lambda z: prediction.Estimate(z, z[:, :1]),
}
WAYS = {
    "read": lambda asked: asked,
    "clipped": denoiser.clipped,
    "a prediction of v": lambda asked: denoiser.from_prediction(asked, prediction.V),
    "a prediction of ε": lambda asked: denoiser.from_prediction(asked, prediction.EPS),
    "guidance": lambda asked: guidance.classifier_free(asked, w=1.0, null=0),
    "autoguidance": lambda asked: guidance.autoguidance(asked, asked, w=1.0),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_of_zs_shape_is_refused(monkeypatch, way, wrong):
    """What only broadcasts to it too."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    asked = WAYS[way](lambda z, logsnr, cond: WRONG[wrong](z))
    with pytest.raises(
        ValueError, match=r"must return an array of floats of z's .*; got"
    ) as refusal:
        denoiser.read(asked, Z, 0.0, jnp.arange(4))
    assert "\n" not in str(refusal.value)
