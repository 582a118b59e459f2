"""The weighted denoising error, in float64 by the papers' formulas, whatever the target."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from cfg_jax import schedules
from cfg_jax.objectives import WEIGHTINGS, Denoising, Draw
from cfg_jax.parts import Prediction, Setting

SCHEDULE = schedules.Cosine()
SETTING = Setting(SCHEDULE, {}, {}, {})
TARGETS = ("eps", "x", "v", "flow", "edm")
S = 0.4  # σ_data
RNG = np.random.default_rng(0)


def test_squared_error_is_the_formula():
    x, eps = RNG.normal(size=(2, 5, 4, 3)).astype(np.float32)
    lam = np.linspace(-5, 5, 5).astype(np.float32)
    cond = {"label": jnp.arange(5)}

    def ask(z, logsnr, cond):
        return 0.5 * z + logsnr[:, None, None] + cond["label"][:, None, None]

    drawn = Draw(*map(jnp.asarray, (x, lam, eps)), cond, jnp.ones(5))
    got = Denoising().losses(ask, drawn)
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(s * lam)))[:, None, None] for s in (-1, 1))
    answer = 0.5 * (alpha * x + sigma * eps) + (lam + np.arange(5))[:, None, None]
    np.testing.assert_allclose(got, np.mean((answer - eps) ** 2, axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(
        Denoising().losses(lambda *asked: Prediction(ask(*asked), jnp.ones((5, 4, 3))), drawn), got
    )


def test_the_best_denoiser_of_gaussian_data_has_the_closed_forms_loss():
    """For x ~ N(0, s²), E||ε̂* - ε||² = α² s² / (α² s² + σ²): the least loss there is."""
    s = 0.5
    x = s * jax.random.normal(jax.random.key(9), (200_000, 1))

    def best(z, logsnr, cond):
        alpha2, sigma2 = jax.nn.sigmoid(logsnr)[:, None], jax.nn.sigmoid(-logsnr)[:, None]
        return jnp.sqrt(sigma2) * z / (alpha2 * s**2 + sigma2)

    drawn = Denoising().draw(jax.random.key(2), x, {}, SETTING)
    got = float(Denoising().losses(best, drawn).mean())
    alpha2 = np.asarray(jax.nn.sigmoid(drawn.logsnr), np.float64)
    want = np.mean(alpha2 * s**2 / (alpha2 * s**2 + 1 - alpha2))
    assert got == pytest.approx(want, rel=0.01)


@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_of_a_bfloat16_network_is_float32(target):
    objective = Denoising(target=target)
    drawn = objective.draw(jax.random.key(0), jnp.zeros((4, 2)), {}, SETTING)
    losses = objective.losses(lambda z, *_: z.astype(jnp.bfloat16), drawn)
    assert losses.dtype == jnp.float32


# The papers' formulas, in float64: weight, and the space of the error that it weighs.
PAPERS = {
    "Uniform": (lambda snr: np.ones_like(snr), "own"),
    "SNR": (lambda snr: snr, "x"),
    "TruncatedSNR": (lambda snr: np.maximum(snr, 1.0), "x"),
    "MinSNR": (lambda snr: np.minimum(snr, 5.0), "x"),
    "P2": (lambda snr: 1.0 / (1.0 + snr), "eps"),
    "Sigmoid": (lambda snr: expit(2.0 - np.log(snr)), "eps"),
}
WALK = sorted(itertools.product(TARGETS, WEIGHTINGS))


def of_target(target, alpha, sigma, x, eps):
    """The target of x and ε, as each paper writes it."""
    root = np.sqrt(sigma**2 + S**2 * alpha**2)
    y, spread = x + sigma / alpha * eps, sigma / alpha  # EDM's noisy data and noise level
    deviation = np.sqrt(spread**2 + S**2)
    return {
        "eps": lambda: (eps, 1.0),
        "x": lambda: (x, 1.0),
        "v": lambda: (alpha * eps - sigma * x, 1.0),
        "flow": lambda: (eps - x, 1.0 / (alpha + sigma)),
        # (x - c_skip y) / c_out, shown c_in y = z / root.
        "edm": lambda: ((x - S**2 / deviation**2 * y) / (spread * S / deviation), 1.0 / root),
    }[target]()


def case(target, lams):
    """Draws at these λ, a network's prediction and what it makes of x and ε, all in float64."""
    lam = np.asarray(lams, np.float64)[:, None]
    alpha, sigma = np.sqrt(expit(lam)), np.sqrt(expit(-lam))
    x, eps, error = RNG.normal(size=(3, len(lams), 6))
    wanted, scale = of_target(target, alpha, sigma, x, eps)
    # d(prediction)/dx̂ at given z, where ε̂ = (z - α x̂) / σ.
    ratio = (of_target(target, alpha, sigma, x + sigma, eps - alpha)[0] - wanted) / sigma
    return lam[:, 0], x, eps, wanted, scale, error, error / ratio, alpha / sigma


def weighted(objective, lam, x, eps, shown):
    """The losses with draws at these λ, weighed as `draw` weighs them."""
    fixed = Fixed(lam)
    drawn = objective.draw(
        jax.random.key(0), jnp.asarray(x, jnp.float32), {}, SETTING._replace(schedule=fixed)
    )
    drawn = drawn._replace(eps=jnp.asarray(eps, jnp.float32))
    return objective.losses(shown, drawn)


class Fixed:
    """A schedule that draws the λ it was given, of a density as a logistic one of scale 3."""

    def __init__(self, lam):
        self.lam = jnp.asarray(lam, jnp.float32)

    def logsnr(self, u):
        return self.lam

    def log_prob(self, lam):
        return jax.nn.log_sigmoid(lam / 3) + jax.nn.log_sigmoid(-lam / 3) - jnp.log(3.0)


@pytest.mark.parametrize(("target", "weight"), WALK)
def test_a_weighting_is_its_papers_whatever_the_target(target, weight):
    lams = np.array([-8.0, -3.0, -0.5, 0.0, 1.0, 2.0, 4.0, 8.0])
    lam, x, eps, wanted, scale, error, error_x, ratio = case(target, lams)
    z = np.sqrt(expit(lam))[:, None] * x + np.sqrt(expit(-lam))[:, None] * eps

    def ask(shown, logsnr, cond):
        np.testing.assert_allclose(shown, scale * z, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(logsnr, lam.astype(np.float32))
        return jnp.asarray(wanted + error, jnp.float32)

    objective = Denoising(target=target, weight=WEIGHTINGS[weight](), sigma_data=S)
    got = weighted(objective, lam, x, eps, ask)
    formula, space = PAPERS[weight]
    of = {"own": error, "x": error_x, "eps": ratio * error_x}[space]
    want = formula(np.exp(lam)) * np.mean(of**2, axis=1)
    if weight == "Sigmoid":  # ∫ over λ, whatever is drawn
        want = want / (expit(lam / 3) * expit(-lam / 3) / 3)
    np.testing.assert_allclose(got, want, rtol=2e-4)


@pytest.mark.parametrize(("target", "weight"), WALK)
def test_a_weighting_is_finite_at_any_noise_level(target, weight):
    """The factor of the target's own squared error; in float32 it equals that in float64."""
    lams = np.array([-40.0, -20.0, 0.0, 20.0, 40.0])
    objective = Denoising(target=target, weight=WEIGHTINGS[weight](), sigma_data=S)
    drawn = objective.draw(
        jax.random.key(0), jnp.zeros((5, 1)), {}, SETTING._replace(schedule=Fixed(lams))
    )
    assert np.isfinite(drawn.weight).all()
    assert np.isfinite(objective.losses(lambda z, *_: jnp.zeros_like(z), drawn)).all()
    lam, *_, error, error_x, ratio = case(target, lams)
    formula, space = PAPERS[weight]
    of = {"own": error, "x": error_x, "eps": ratio * error_x}[space]
    want = formula(np.exp(lam)) * (of / error)[:, 0] ** 2
    if weight == "Sigmoid":
        want = want / (expit(lam / 3) * expit(-lam / 3) / 3)
    inner = slice(1, 4) if target == "edm" else slice(None)  # there the oracle itself cancels
    np.testing.assert_allclose(np.asarray(drawn.weight)[inner], want[inner], rtol=1e-4)


def test_min_snr_at_no_signal_and_at_no_noise():
    """ε weight e^min(0, ln γ - λ), v weight sigmoid(-λ) · min(e^λ, γ)."""
    lams = np.array([-40.0, 40.0])
    for target, want in (
        ("eps", np.exp(np.minimum(0.0, np.log(5.0) - lams))),
        ("v", expit(-lams) * np.minimum(np.exp(lams), 5.0)),
    ):
        objective = Denoising(target=target, weight=WEIGHTINGS["MinSNR"]())
        drawn = objective.draw(
            jax.random.key(0), jnp.zeros((2, 1)), {}, SETTING._replace(schedule=Fixed(lams))
        )
        np.testing.assert_allclose(drawn.weight, want, rtol=1e-5)


def test_any_function_of_the_level_weighs_the_error_of_eps():
    lams = np.array([-2.0, 0.0, 3.0])
    lam, x, eps, wanted, _, error, error_x, ratio = case("v", lams)
    objective = Denoising(target="v", weight=lambda lam: 2.0 + lam**2)
    got = weighted(objective, lam, x, eps, lambda *_: jnp.asarray(wanted + error, jnp.float32))
    want = (2.0 + lam**2) * np.mean((ratio * error_x) ** 2, axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_every_weighting_and_target_is_walked():
    assert set(PAPERS) == set(WEIGHTINGS)
    for target in TARGETS:
        Denoising(target=target)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"target": "epsilon"}, "target must be one of eps, x, v, flow, edm; got 'epsilon'"),
        ({"target": "score"}, "target must be one of"),
        ({"sigma_data": 0.0}, "sigma_data must be a positive number"),
        ({"sigma_data": float("inf")}, "sigma_data must be a positive number"),
        ({"sigma_data": float("nan")}, "sigma_data must be a positive number"),
        ({"weight": 3}, "weight must be a callable logsnr -> weight, got 3"),
    ],
)
def test_values_out_of_range_are_refused(fields, line):
    with pytest.raises(ValueError, match="must be") as error:
        Denoising(**fields)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (kind, {name: value})
        for kind, names in {
            "MinSNR": ("gamma",),
            "P2": ("k", "gamma"),
            "Sigmoid": ("bias",),
        }.items()
        for name in names
        for value in (float("nan"), float("inf"), -float("inf"))
    ]
    + [("MinSNR", {"gamma": 0.0}), ("P2", {"k": 0.0}), ("P2", {"gamma": -0.1})],
)
def test_a_weighting_out_of_range_is_refused(kind, fields):
    with pytest.raises(ValueError, match=f"^{next(iter(fields))} must be"):
        WEIGHTINGS[kind](**fields)
