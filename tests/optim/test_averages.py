"""Moving averages against sums of their profiles, and widths against numerical integrals."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.optim.averages import Constant, Power, exponent, move, weights

STEPS = 400
RNG = np.random.default_rng(0)
PATH = np.cumsum(RNG.normal(size=STEPS))


def averaged(average, path=PATH):
    """The average along a path of one parameter, after every step."""
    ema, trail = {"a": jnp.float32(0.0)}, []
    for t, value in enumerate(path, 1):
        ema = move(average, ema, {"a": jnp.float32(value)}, t)
        trail.append(float(ema["a"]))
    return np.array(trail)


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.2, 0.27])
def test_a_power_function_has_the_width_it_is_named_by(width):
    gamma = exponent(width)
    t = (np.arange(200_000) + 0.5) / 200_000
    density = (gamma + 1) * t**gamma / len(t)
    mean = (t * density).sum()
    assert np.sqrt((density * (t - mean) ** 2).sum()) == pytest.approx(width, rel=1e-4)


def test_a_power_functions_average_is_the_sum_over_its_profile():
    gamma = exponent(0.1)
    edges = (np.arange(STEPS + 1) / STEPS) ** (gamma + 1)
    # ∏ (1 - 1/t)^(γ+1) telescopes: step t's weight is (t/T)^(γ+1) - ((t-1)/T)^(γ+1), exactly.
    assert averaged(Power(width=0.1))[-1] == pytest.approx(np.diff(edges) @ PATH, rel=1e-4)


def test_a_constant_decay_is_ramped_up():
    decay, ema, want = 0.9, 0.0, []
    for t, value in enumerate(PATH, 1):
        beta = min(decay, t / (9 + t))
        ema = beta * ema + (1 - beta) * value
        want.append(ema)
    np.testing.assert_allclose(averaged(Constant(decay=decay)), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decay", [0.9, 0.9999, 0.999999, 0.9999999, 0.99999999])
def test_a_share_is_exact_however_near_1_the_decay_is(decay):
    for step in (1, 50, 1000, 10**9):
        want = 1 - min(Fraction(decay), Fraction(step, 9 + step))
        assert float(Constant(decay=decay).share(step)) == pytest.approx(float(want), rel=1e-6)


def test_an_average_that_was_kept_gets_all_the_weight():
    kept = np.repeat([100, 200, 300, 400], 2), np.tile([0.05, 0.1], 4)
    found = weights(*kept, step=300, width=0.1)
    np.testing.assert_allclose(found, np.eye(8)[5], atol=1e-6)


def test_averages_of_another_width_are_made_after_training():
    widths, at = [0.05, 0.1], np.arange(40, STEPS + 1, 40)
    trails = {width: averaged(Power(width=width)) for width in widths}
    kept_steps, kept_widths = np.repeat(at, 2), np.tile(widths, len(at))
    kept = np.array([trails[w][t - 1] for t, w in zip(kept_steps, kept_widths, strict=True)])
    spread = PATH.std()
    for width in (0.06, 0.075, 0.09):
        found = weights(kept_steps, kept_widths, step=STEPS, width=width) @ kept
        truth = averaged(Power(width=width))[-1]
        assert abs(found - truth) < 0.02 * spread
        assert abs(trails[0.05][-1] - truth) > 0.02 * spread


def published(steps, widths, step, width):
    """`solve_posthoc_coefficients` of NVlabs/edm2, training/phema.py, in our notation."""
    gammas = np.array([exponent(w) for w in widths])
    steps = np.asarray(steps, np.float64)

    def overlap(t, a, u, b):
        ratio = (t / u) ** np.where(t < u, b, -a)
        return (a + 1) * (b + 1) * ratio / ((a + b + 1) * np.maximum(t, u))

    gram = overlap(steps[:, None], gammas[:, None], steps[None], gammas[None])
    found = np.linalg.solve(gram, overlap(steps, gammas, float(step), exponent(width)))
    return found / found.sum()


@pytest.mark.parametrize("kept", [[90e3, 95e3, 100e3], np.arange(1, 9) * 12500.0])
@pytest.mark.parametrize("width", [0.03, 0.05, 0.075, 0.15, 0.2])
def test_the_average_of_constant_parameters_is_that_constant(kept, width):
    steps, widths = np.repeat(kept, 2), np.tile([0.05, 0.1], len(kept))
    found = weights(steps, widths, step=100_000, width=width)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(found, published(steps, widths, 100_000, width), atol=1e-4)


def test_averages_are_float32_whatever_the_parameters():
    ema = {"a": jnp.float32(0.5)}
    moved = move(Constant(decay=0.9), ema, {"a": jnp.bfloat16(1.0)}, 1000)
    assert moved["a"].dtype == jnp.float32
    assert float(moved["a"]) == pytest.approx(0.55)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\)"):
        Constant(decay=decay)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.28, 1.0, float("nan")])
def test_a_width_out_of_range_is_refused(width):
    for refused in (exponent, lambda width: Power(width=width)):
        with pytest.raises(ValueError, match=r"width must lie in \(0, 0.28\)"):
            refused(width)
