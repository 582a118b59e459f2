"""Features of the noise level against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import schedules
from cfg_jax.nn import (
    LEVEL_FEATURES,
    FlowTimeFeatures,
    LogSNRFeatures,
    TimestepFeatures,
    sincos_positions,
)


def test_noise_level_features_tell_levels_apart():
    lam = np.linspace(-20, 20, 401).astype(np.float32)
    features = np.asarray(LogSNRFeatures()(jnp.asarray(lam), 32), np.float64)
    assert features.shape == (401, 32)
    angles = lam.astype(np.float64)[:, None] * np.logspace(1, -2, 16)
    np.testing.assert_allclose(
        features, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=3e-5
    )
    apart = np.linalg.norm(features[:, None] - features[None], axis=-1) + 10 * np.eye(401)
    assert apart.min() > 0.1


@pytest.mark.parametrize("rescaled", [False, True])
def test_time_step_features_are_those_of_the_step(rescaled):
    schedule = schedules.LinearBeta(steps=200)
    t = np.array([0, 1, 57, 199])
    features = TimestepFeatures(schedule=schedule, rescaled=rescaled)
    got = features(jnp.asarray(schedule.levels[t], jnp.float32), 16)
    told = t * (5.0 if rescaled else 1.0)
    angles = told[:, None] / 10_000.0 ** (np.arange(8) / 8)
    np.testing.assert_allclose(got, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=2e-4)
    assert hash(features) == hash(TimestepFeatures(schedule=schedule, rescaled=rescaled))


def test_time_steps_need_a_schedule_of_them():
    with pytest.raises(ValueError, match=r"schedule must be one of discrete time steps.*Cosine"):
        TimestepFeatures(schedule=schedules.Cosine())
    with pytest.raises(ValueError, match="schedule must be given"):
        TimestepFeatures()(jnp.zeros(1), 4)


def test_flow_time_features_are_those_of_a_thousand_times_the_noises_share():
    """Of t = σ / (α + σ), which the features of a network in bfloat16 are told in float32 too."""
    t = np.array([0.981, 0.98, 0.5, 0.01])
    logsnr = jnp.asarray(-2 * np.log(t / (1 - t)), jnp.float32)
    got = np.asarray(FlowTimeFeatures()(logsnr, 16))
    angles = 1000 * t[:, None] / 10_000.0 ** (np.arange(8) / 8)
    np.testing.assert_allclose(got, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=2e-4)
    half = FlowTimeFeatures()(logsnr.astype(jnp.bfloat16), 16)
    assert half.dtype == jnp.float32
    assert np.abs(got[0] - got[1]).max() > 0.1


@pytest.mark.parametrize("period", [10_000.0, 4.0])
@pytest.mark.parametrize(("sides", "channels"), [((5,), 8), ((3, 4), 10), ((2, 3, 4), 14)])
def test_positions_are_sines_and_cosines_of_the_place_along_each_side(sides, channels, period):
    """The last side first; what cannot be shared out in pairs is zero."""
    got = np.asarray(sincos_positions(sides, channels, period))
    pairs = channels // (2 * len(sides))
    frequencies = period ** (-np.arange(pairs) / pairs)
    for place in np.ndindex(*sides):
        want = [f(i * frequencies) for i in reversed(place) for f in (np.sin, np.cos)]
        spare = channels - 2 * pairs * len(sides)
        np.testing.assert_allclose(got[place], np.concatenate([*want, np.zeros(spare)]), atol=1e-5)


@pytest.mark.parametrize("name", LEVEL_FEATURES)
def test_equal_features_are_equal_and_hashable(name):
    kind = LEVEL_FEATURES[name]
    assert kind() == kind()
    assert hash(kind()) == hash(kind())
