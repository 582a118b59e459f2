"""What holds for every guidance: its formula, its neutral strength, its calls, its travels."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guidance_methods import LABELS, METHODS, NETWORK, NULL, Z, eps_of, oracle

from cfg_jax import denoiser, prediction, sample, schedules
from cfg_jax.diffusion import piecewise

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
W = np.array([0.0, 1.5, -3.0], np.float32)


def pair_of(method, w, logsnr, network=NETWORK, z=Z):
    return denoiser.read(method.make(network, w), z, logsnr, LABELS)


@every_method
@pytest.mark.parametrize("logsnr", [0.5, np.array([-20.0, 0.0, 20.0], np.float32)])
@pytest.mark.parametrize("w", [0.3, 4.0, -2.5, W], ids=str)
def test_the_formula(method, w, logsnr):
    wide = np.asarray(w, np.float64)
    want = method.pair(oracle(logsnr), wide[:, None] if wide.ndim else wide)
    pair = pair_of(method, w, logsnr)
    for got, truth in zip((pair.x, pair.eps), want, strict=True):
        size = np.abs(truth).max(1, keepdims=True)
        np.testing.assert_allclose(got / size, truth / size, atol=2e-5)


@every_method
@pytest.mark.parametrize("logsnr", [-20.0, 0.5, 20.0])
def test_the_neutral_strength_is_the_network_to_the_last_bit(method, logsnr):
    asked = LABELS if method.neutral == 0.0 else jnp.full(3, NULL)
    want = denoiser.read(NETWORK, Z, logsnr, asked)
    guided = piecewise.at(method.make(NETWORK, method.neutral), logsnr)
    got = denoiser.read(guided, Z, logsnr, LABELS)
    np.testing.assert_array_equal(got.eps, want.eps)
    np.testing.assert_array_equal(got.x, want.x)


@every_method
def test_another_strength_is_something_else(method):
    none, some = pair_of(method, method.neutral, 0.5), pair_of(method, method.neutral + 0.5, 0.5)
    assert np.abs(none.x - some.x).max() > 1e-2


def of_zeros(z, logsnr, cond):
    return jnp.zeros_like(z)


def of_constants(z, logsnr, cond):
    return jnp.broadcast_to(0.1 * cond[:, None], z.shape)


@every_method
@pytest.mark.parametrize("network", [NETWORK, of_zeros, of_constants])
@pytest.mark.parametrize("logsnr", [-20.0, 20.0])
def test_nothing_is_nan(method, network, logsnr):
    for z in (Z, jnp.zeros_like(Z), jnp.full_like(Z, 0.1)):
        for w in (0.0, 2.0, W):
            pair = pair_of(method, w, logsnr, network, z)
            assert np.all(np.isfinite((pair.x, pair.eps)))


@every_method
def test_one_batched_call_of_one_network(method):
    batches = []

    def counting(z, logsnr, cond):
        batches.append(z.shape[0])
        return eps_of(0.7, z, logsnr, cond)

    pair_of(method, 1.0, 0.5, counting)
    assert batches == method.batches


@every_method
def test_a_new_strength_compiles_nothing(method):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def by_strength(w, logsnr):
        return pair_of(method, w, logsnr).x

    @jax.jit
    @chex.assert_max_traces(n=1)
    def by_pytree(guided):
        return denoiser.read(guided, Z, 0.5, LABELS).x

    for w in (0.5, 2.0):
        want = pair_of(method, w, 0.5).x
        np.testing.assert_allclose(by_strength(w, 0.5), want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(by_pytree(method.make(NETWORK, w)), want, rtol=1e-4, atol=1e-4)


@every_method
def test_pairs_of_a_network_are_guided(method):
    """A network that tells x̂ in place of ε is guided to the same place."""

    def tells_x(z, logsnr, cond):
        return denoiser.read(NETWORK, z, logsnr, cond).x

    want = pair_of(method, 1.5, 0.5)
    got = pair_of(method, 1.5, 0.5, denoiser.from_prediction(tells_x, prediction.X))
    np.testing.assert_allclose(got.x, want.x, atol=1e-4)
    np.testing.assert_allclose(got.eps, want.eps, atol=1e-4)


@every_method
def test_it_samples_with_a_strength_for_each_example(method):
    """Example 1 of a batch is what it is with its own strength for all."""
    if method is METHODS["scheduled"]:
        pytest.skip("a schedule is one function for the whole batch")

    def run(w):
        return sample(
            method.make(NETWORK, w),
            jax.random.key(0),
            LABELS,
            shape=(4,),
            schedule=schedules.Cosine(logsnr_min=-3.0, logsnr_max=3.0),
            steps=2,
        )

    np.testing.assert_allclose(run(W)[1], run(W[1])[1], rtol=1e-4, atol=1e-4)


@every_method
@pytest.mark.parametrize(
    ("w", "message"),
    [
        (float("nan"), "must be finite"),
        (np.array([0.0, np.inf]), "must be finite"),
        (np.ones((2, 2)), r"shape \(batch,\)"),
        (1e39, "must be finite in float32"),
    ],
)
def test_a_strength_that_is_none_is_refused(method, w, message):
    if method is METHODS["scheduled"]:
        pytest.skip("its strength is a function")
    with pytest.raises(ValueError, match=message) as refusal:
        method.make(NETWORK, w)
    assert "\n" not in str(refusal.value)


def test_only_the_interval_is_piecewise():
    found = {
        name for name, method in METHODS.items() if piecewise.breaks(method.make(NETWORK, 1.0))
    }
    assert found == {"interval"}
