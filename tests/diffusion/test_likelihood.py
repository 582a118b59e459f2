"""Bounds and likelihoods against mpmath, numeric integration, and densities known exactly."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import integrate

from cfg_jax import guidance, mixtures, schedules
from cfg_jax.diffusion import likelihood
from cfg_jax.diffusion.denoiser import as_pair
from cfg_jax.diffusion.logsnr import expand
from cfg_jax.diffusion.precision import enable_x64
from cfg_jax.sampling.inversion import invert

RNG = np.random.default_rng(0)
MIXTURE = mixtures.gaussian_mixture(RNG.normal(0, 0.5, (3, 2, 2)), RNG.uniform(0.15, 0.4, (3, 2)))
X = jnp.asarray(RNG.normal(0, 0.6, (6, 2)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 3, 3, 0])
VALUES = np.linspace(-1, 1, 256)


def sigmoid(t):
    return 1 / (1 + np.exp(-t))


def log_mass(lower, upper):
    """log(Φ(upper) - Φ(lower)) in 40 digits, from the tail that both lie in."""
    with mpmath.workdps(40):
        low, high = (-upper, -lower) if lower + upper > 0 else (lower, upper)
        return float(mpmath.log(mpmath.ncdf(high) - mpmath.ncdf(low)))


def log_bin(k, mean, std):
    """The log mass of the k-th of 256 bins under N(mean, std²)."""
    lower = -mpmath.inf if k == 0 else (mpmath.mpf(2 * k - 256) / 255 - mean) / std
    upper = mpmath.inf if k == 255 else (mpmath.mpf(2 * k - 254) / 255 - mean) / std
    return log_mass(lower, upper)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.01), (0.3, 0.2), (-1.4, 0.05), (1.02, 3.0)])
def test_the_discretized_gaussian_sums_to_one_and_is_mpmaths(mean, std):
    x = jnp.asarray(VALUES, jnp.float32)
    got = likelihood.discretized_log_prob(x, mean=jnp.full(256, mean), variance=std**2)
    assert float(jnp.exp(got).sum()) == pytest.approx(1.0, abs=2e-5)
    want = [log_bin(k, mean, std) for k in range(256)]
    # Where a bin is many standard deviations out, the rounding of x itself moves log P.
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


def test_the_discretized_gaussian_has_finite_gradients_far_out():
    def total(mean):
        x = jnp.asarray(VALUES, jnp.float32)
        return likelihood.discretized_log_prob(x, mean=mean, variance=1e-4).sum()

    gradient = jax.grad(total)(jnp.full(256, 0.9, jnp.float32))
    assert np.all(np.isfinite(gradient))
    assert np.all(np.asarray(gradient)[:200] < 0)


@pytest.mark.parametrize(
    ("m1", "s1", "m2", "s2"), [(0.3, 0.2, 0.1, 0.5), (1.0, 2.0, -1.0, 0.7), (0.2, 0.1, 0.2, 0.1)]
)
def test_the_divergence_of_gaussians_is_its_integral(m1, s1, m2, s2):
    def integrand(t):
        logs = [-0.5 * ((t - m) / s) ** 2 - np.log(s) for m, s in [(m1, s1), (m2, s2)]]
        return np.exp(logs[0]) / np.sqrt(2 * np.pi) * (logs[0] - logs[1])

    want, _ = integrate.quad(integrand, m1 - 12 * s1, m1 + 12 * s1)
    got = likelihood.normal_kl(
        shift=jnp.array(m1 - m2), variance=s2**2, log_ratio=2 * np.log(s1 / s2)
    )
    assert float(got) == pytest.approx(want, abs=1e-6, rel=1e-5)


def quadrature(function, mean, std):
    """E f(t) for t ~ N(mean, std²), by Gauss-Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    return np.sum(weights * function(mean + std * nodes)) / np.sqrt(2 * np.pi)


def discrete_terms(schedule, steps, level, v):
    """Every term of one pixel's bound in nats, for a denoiser of N(0, 0.25): x̂ = k(λ) z."""
    levels, x = schedule.grid(steps)[:-1], VALUES[level]
    a2, s2 = sigmoid(levels), sigmoid(-levels)
    gain = np.sqrt(a2) * 0.25 / (a2 * 0.25 + s2)
    prior = 0.5 * (s2[0] + a2[0] * x**2 - 1 - np.log(s2[0]))
    terms = []
    for k in range(steps - 1):
        beta = 1 - a2[k] / a2[k + 1]
        least = (1 - a2[k + 1]) / (1 - a2[k]) * beta
        variance = least ** (1 - v) * beta**v
        of_x = np.sqrt(a2[k + 1]) * beta / (1 - a2[k])
        # E(x - k z)² over z ~ N(α x, σ²).
        square = (x - gain[k] * np.sqrt(a2[k]) * x) ** 2 + gain[k] ** 2 * s2[k]
        kl = least / variance - 1 - np.log(least / variance) + of_x**2 * square / variance
        terms.append(0.5 * kl)
    variance = least ** (1 - v) * s2[-1] ** v

    def cross_entropy(z):
        return -log_bin(level, float(gain[-1] * z), float(np.sqrt(variance)))

    decoder = quadrature(np.vectorize(cross_entropy), np.sqrt(a2[-1]) * x, np.sqrt(s2[-1]))
    return prior, np.array(terms), decoder


def gaussian_denoiser(z, logsnr, cond):
    """The exact denoiser of N(0, 0.25)."""
    s2 = expand(jax.nn.sigmoid(-logsnr), z)
    return jnp.sqrt(s2) * z / (0.25 * (1 - s2) + s2)


@pytest.mark.parametrize(
    "schedule", [schedules.LinearBeta(steps=40), schedules.Cosine(logsnr_min=-9.0, logsnr_max=9.0)]
)
@pytest.mark.parametrize("v", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("level", [100, 255])
@pytest.mark.slow
def test_every_term_of_the_discrete_bound(schedule, v, level):
    """Against closed forms and quadrature, over many draws of the noise."""
    x, count, steps = VALUES[level], 4000, 12
    prior, terms, decoder = discrete_terms(schedule, steps, level, v)
    got = likelihood.discrete_vlb(
        gaussian_denoiser,
        jax.random.key(0),
        jnp.full((count, 1), x, jnp.float32),
        schedule=schedule,
        steps=steps,
        v=v,
    )
    bits = np.log(2)
    np.testing.assert_allclose(got.prior * bits, np.full(count, prior), rtol=1e-4, atol=1e-6)
    draws = np.asarray(got.transitions, np.float64) * bits
    error = 5 * draws.std(0) / np.sqrt(count)
    assert np.all(np.abs(draws.mean(0) - terms) < error + 1e-6)
    ends = np.asarray(got.decoder, np.float64) * bits
    assert abs(ends.mean() - decoder) < 5 * ends.std() / np.sqrt(count) + 1e-4
    total = got.prior + got.transitions.sum(1) + got.decoder
    np.testing.assert_allclose(got.bits_per_dim, total, rtol=1e-5)
    np.testing.assert_allclose(got.nats, total * bits, rtol=1e-5)


def test_the_simple_loss_is_the_closed_forms():
    """With ε̂ = g z, E(ε - ε̂)² = (1 - g σ)² + g² α² x², averaged over entries and levels."""
    schedule = schedules.CosineBeta(steps=50)
    x = jax.random.uniform(jax.random.key(1), (4000, 4), minval=-1.0)
    got = likelihood.discrete_vlb(
        gaussian_denoiser, jax.random.key(0), x, schedule=schedule, steps=10
    )
    a2, s2 = sigmoid(schedule.grid(10)[:-1]), sigmoid(-schedule.grid(10)[:-1])
    gain = np.sqrt(s2) / (0.25 * a2 + s2)
    second = np.mean(np.asarray(x, np.float64) ** 2, axis=1)
    want = np.mean((1 - gain * np.sqrt(s2)) ** 2) + np.mean(gain**2 * a2) * second
    gap = np.asarray(got.simple, np.float64) - want
    assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(len(gap))
    assert 5 * gap.std() / np.sqrt(len(gap)) < 0.03 * want.mean()


def test_a_network_may_supply_the_variance():
    """v by entry: half the entries have v = 0, the other half v = 1."""
    schedule, x = schedules.LinearBeta(steps=40), jnp.asarray(VALUES[[[3, 77, 130, 255]]])
    x = x.astype(jnp.float32)

    def bound(v, learned=None):
        def network(z, logsnr, cond):
            eps = gaussian_denoiser(z, logsnr, cond)
            if learned is None:
                return eps
            told = jnp.broadcast_to(jnp.asarray(learned, z.dtype), z.shape)
            return as_pair(eps, z, logsnr)._replace(v=told)

        return likelihood.discrete_vlb(
            network, jax.random.key(0), x, schedule=schedule, steps=8, v=v
        )

    half = np.array([0.0, 1.0, 0.0, 1.0])
    low, high, mixed = bound(0.0), bound(1.0), bound(None, half)
    assert not np.allclose(low.nats, high.nats)
    # Terms by entry do not come back, but the mean of the two choices of halves does.
    other = bound(None, 1.0 - half)
    np.testing.assert_allclose(mixed.nats + other.nats, low.nats + high.nats, rtol=1e-5)
    np.testing.assert_allclose(bound(None, 1.0).nats, high.nats, rtol=1e-6)
    np.testing.assert_array_equal(bound(1.0, half).nats, high.nats)
    with pytest.raises(ValueError, match="learned none"):
        bound(None)


def test_the_discrete_bound_bounds():
    """Of data on two values: their entropy, and what the decoder's tails cost."""
    values = jnp.asarray(VALUES[[64, 192]], jnp.float32)

    def knows(z, logsnr, cond):
        a, s = jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))
        logits = -0.5 * jnp.square((z[..., None] - a * values) / s)
        return (z - a * (jax.nn.softmax(logits) @ values)) / s

    x = jnp.tile(values, 100)[:, None]
    schedule = schedules.LinearBeta(steps=1000)
    bound = jax.jit(
        lambda key: likelihood.discrete_vlb(knows, key, x, schedule=schedule, steps=1000)
    )
    got = bound(jax.random.key(3))
    beta = schedule.betas
    std = float(np.sqrt(beta[0] / (beta[0] + beta[1] * (1 - beta[0])) * beta[1]))  # β̃_1
    tails = -log_mass(-1 / 255 / std, 1 / 255 / std) / np.log(2)
    np.testing.assert_allclose(got.decoder, np.full(200, tails), rtol=1e-3)
    entropy = np.asarray(got.bits_per_dim, np.float64) - tails
    error = 5 * entropy.std() / np.sqrt(len(entropy))
    assert 1.0 - error < entropy.mean() < 1.05 + error
    assert error < 0.2


@pytest.mark.parametrize("schedule", [schedules.Uniform(logsnr_min=-14.0, logsnr_max=14.0)])
def test_the_continuous_bound_is_tight_for_the_exact_denoiser(schedule):
    """Its gap to the exact log p is that of the ends alone, when averaged over the noise."""
    x, labels = jnp.tile(X, (100, 1)), jnp.tile(LABELS, 100)
    bound = jax.jit(
        lambda key: likelihood.continuous_vlb(
            MIXTURE, key, x, labels, schedule=schedule, samples=2000
        )
    )
    got = np.asarray(bound(jax.random.key(0)).nats, np.float64).reshape(100, 6)
    want = -np.asarray(MIXTURE.log_prob(X, jnp.inf, LABELS))
    error = 5 * got.std(0) / np.sqrt(len(got))
    assert np.all(error < 0.15)
    assert np.all(got.mean(0) > want - error)
    assert np.all(got.mean(0) < want + error + 0.01)


def test_no_schedule_changes_the_diffusion_term():
    """Importance weights: another p(λ) on the same range, the same integral."""
    x, labels = jnp.tile(X[:2], (2000, 1)), jnp.tile(LABELS[:2], 2000)
    found = []
    for kind in (schedules.Uniform, schedules.Cosine):
        bound = likelihood.continuous_vlb(
            MIXTURE,
            jax.random.key(1),
            x,
            labels,
            schedule=kind(logsnr_min=-5.0, logsnr_max=5.0),
            samples=20,
        )
        draws = np.asarray(bound.diffusion, np.float64).reshape(-1, 2)
        found.append((draws.mean(0), draws.std(0) / np.sqrt(len(draws))))
    (first, wide), (second, narrow) = found
    assert np.all(np.abs(first - second) < 5 * np.hypot(wide, narrow))
    assert np.all(5 * np.hypot(wide, narrow) < 0.05 * first)


def test_a_worse_denoiser_has_a_worse_bound():
    schedule = schedules.Uniform(logsnr_min=-12.0, logsnr_max=12.0)
    bounds = [
        likelihood.continuous_vlb(d, jax.random.key(0), X, LABELS, schedule=schedule, samples=500)
        for d in (MIXTURE, lambda z, logsnr, cond: 0.9 * MIXTURE(z, logsnr, cond))
    ]
    assert float(bounds[1].nats.mean()) > float(bounds[0].nats.mean()) + 0.01


def test_the_prior_and_the_reconstruction_are_their_definitions():
    schedule = schedules.Uniform(logsnr_min=-4.0, logsnr_max=8.0)
    chosen = RNG.integers(0, 256, (2000, 1))
    x = jnp.asarray(VALUES[chosen], jnp.float32)
    found = [
        likelihood.continuous_vlb(
            gaussian_denoiser, jax.random.key(0), x, schedule=schedule, samples=1, bins=bins
        )
        for bins in (None, 256)
    ]
    a2, s2 = sigmoid(-4.0), sigmoid(4.0)
    want = 0.5 * (s2 + a2 * np.asarray(x, np.float64)[:, 0] ** 2 - 1 - np.log(s2))
    np.testing.assert_allclose(found[0].prior, want, rtol=1e-4)
    spread = np.exp(-4.0)
    entropy = np.log(spread) + 0.5 * np.log(2 * np.pi * np.e)
    np.testing.assert_allclose(found[0].reconstruction, np.full(2000, entropy), rtol=1e-5)

    def surprise(value):
        def at(y):
            logs = -0.5 * ((y[:, None] - VALUES) / spread) ** 2
            own = -0.5 * ((y - value) / spread) ** 2
            return np.log(np.exp(logs - own[:, None]).sum(1))

        return quadrature(at, value, spread)

    expected = np.array([surprise(value) for value in VALUES])
    gap = np.asarray(found[1].reconstruction, np.float64) - expected[chosen[:, 0]]
    assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(len(gap))


@pytest.mark.parametrize("high", [2.0, 12.0])
def test_the_flows_density_is_the_mixtures(high):
    """Exactly that of x plus noise of variance e^-λmax, in float64; and so nearly that of x."""
    schedule = schedules.Uniform(logsnr_min=-30.0, logsnr_max=high)
    with enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), MIXTURE)
        x = jnp.asarray(X, jnp.float64)
        got = likelihood.ode_log_prob(wide, x, LABELS, schedule=schedule, steps=400)
        log_alpha = 0.5 * np.log(sigmoid(high))
        noisy = wide.log_prob(np.exp(log_alpha) * x, high, LABELS) + 2 * log_alpha
        np.testing.assert_allclose(got.log_prob, noisy, atol=2e-5)
        if high > 10:
            clean = wide.log_prob(x, jnp.inf, LABELS)
            np.testing.assert_allclose(got.log_prob, clean, atol=2e-3)
        np.testing.assert_allclose(got.bits_per_dim, -got.log_prob / (2 * np.log(2)))
        back = mixtures.reference(wide, got.z, LABELS, logsnr_from=-30.0, logsnr_to=high)
    np.testing.assert_allclose(back, np.exp(log_alpha) * np.asarray(x), atol=1e-4)


def test_the_method_is_of_order_four():
    schedule = schedules.Uniform(logsnr_min=-8.0, logsnr_max=8.0)
    with enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), MIXTURE)
        x = jnp.asarray(X, jnp.float64)
        fine, *coarse = (
            np.asarray(
                likelihood.ode_log_prob(wide, x, LABELS, schedule=schedule, steps=n).log_prob
            )
            for n in (800, 50, 100)
        )
    errors = [np.abs(c - fine).max() for c in coarse]
    assert 10 < errors[0] / errors[1] < 24


def test_hutchinsons_estimate_is_unbiased():
    schedule = schedules.Uniform(logsnr_min=-12.0, logsnr_max=10.0)
    exact = likelihood.ode_log_prob(MIXTURE, X, LABELS, schedule=schedule, steps=60)
    many = likelihood.ode_log_prob(
        MIXTURE,
        jnp.tile(X, (400, 1)),
        jnp.tile(LABELS, 400),
        key=jax.random.key(0),
        schedule=schedule,
        steps=60,
    )
    draws = np.asarray(many.log_prob, np.float64).reshape(400, 6)
    error = 5 * draws.std(0) / np.sqrt(400)
    assert np.any(error > 1e-3)
    assert np.all(np.abs(draws.mean(0) - exact.log_prob) < error + 1e-4)


def test_the_flow_of_a_guided_denoiser_is_normalised():
    """Guidance's own density is none of the mixture's, but a density: it integrates to one."""
    line = mixtures.gaussian_mixture([[[-0.5]], [[0.5]]], 0.4)
    guided = guidance.classifier_free(line, w=1.0, null=line.null)
    x = jnp.linspace(-6, 6, 801)[:, None]
    found = likelihood.ode_log_prob(
        guided,
        x,
        jnp.ones(801, jnp.int32),
        schedule=schedules.Uniform(logsnr_min=-12.0, logsnr_max=12.0),
        steps=150,
    )
    assert float(jnp.exp(found.log_prob).sum() * 12 / 800) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
def test_an_example_does_not_depend_on_its_batch():
    schedule = schedules.Uniform(logsnr_min=-5.0, logsnr_max=5.0)
    for found in (
        lambda n: (
            likelihood.continuous_vlb(
                MIXTURE, jax.random.key(0), X[:n], LABELS[:n], schedule=schedule, samples=4
            ).nats
        ),
        lambda n: (
            likelihood.discrete_vlb(
                MIXTURE,
                jax.random.key(0),
                jnp.clip(X[:n], -1, 1),
                LABELS[:n],
                schedule=schedule,
                steps=4,
            ).nats
        ),
        lambda n: (
            likelihood.ode_log_prob(
                MIXTURE, X[:n], LABELS[:n], key=jax.random.key(0), schedule=schedule, steps=4
            ).log_prob
        ),
    ):
        np.testing.assert_allclose(found(2), found(6)[:2], rtol=1e-5)


def test_what_has_no_bound_is_refused():
    schedule = schedules.Uniform()
    with pytest.raises(ValueError, match="steps must be a whole number of at least 2"):
        likelihood.discrete_vlb(MIXTURE, jax.random.key(0), X, schedule=schedule, steps=1)
    with pytest.raises(ValueError, match=r"x must lie in \[-1, 1\]"):
        likelihood.discrete_vlb(MIXTURE, jax.random.key(0), 2 + X, schedule=schedule, steps=4)
    with pytest.raises(ValueError, match="samples must be a whole number of at least 1"):
        likelihood.continuous_vlb(MIXTURE, jax.random.key(0), X, schedule=schedule, samples=0)
    for bins in (0, 1):
        with pytest.raises(
            ValueError, match=f"bins must be a whole number of at least 2, got {bins}"
        ):
            likelihood.continuous_vlb(
                MIXTURE, jax.random.key(0), X, schedule=schedule, samples=1, bins=bins
            )
    with pytest.raises(ValueError, match="bins must be a whole number of at least 2, got 1"):
        likelihood.discretized_log_prob(X, mean=X, variance=1.0, bins=1)


BOUNDS = {
    "discrete_vlb": lambda denoiser, schedule: likelihood.discrete_vlb(
        denoiser, jax.random.key(0), 0 * X, LABELS, schedule=schedule, steps=5
    ),
    "continuous_vlb": lambda denoiser, schedule: likelihood.continuous_vlb(
        denoiser, jax.random.key(0), 0 * X, LABELS, schedule=schedule, samples=1
    ),
    "ode_log_prob": lambda denoiser, schedule: likelihood.ode_log_prob(
        denoiser, 0 * X, LABELS, key=jax.random.key(0), schedule=schedule, steps=2
    ),
}


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_a_schedules_name_works_where_the_schedule_does(monkeypatch, bound):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    want, got = bound(MIXTURE, schedules.Cosine()), bound(MIXTURE, "cosine")
    jax.tree.map(np.testing.assert_array_equal, got, want)
    with pytest.raises(TypeError, match=r"schedule must be one of Cosine, .*, got 3"):
        bound(MIXTURE, 3)
    with pytest.raises(TypeError, match=r"denoiser must be a callable .*, got None"):
        bound(None, "cosine")


BOUNDS = {
    "discrete_vlb": lambda key, x, cond: likelihood.discrete_vlb(
        zero, key, x, cond, schedule=schedules.Cosine(), steps=3
    ),
    "continuous_vlb": lambda key, x, cond: likelihood.continuous_vlb(
        zero, key, x, cond, schedule=schedules.Cosine(), samples=3
    ),
    "ode_log_prob": lambda key, x, cond: likelihood.ode_log_prob(
        zero, x, cond, key=key, schedule=schedules.Cosine(), steps=1
    ),
    "invert": lambda key, x, cond: invert(zero, x, cond, schedule=schedules.Cosine(), steps=3),
}


def zero(z, logsnr, cond):
    return jnp.zeros_like(z)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_condition_of_another_batch_is_refused(bound):
    with pytest.raises(ValueError, match="cond has 2 examples, and x has 3"):
        BOUNDS[bound](jax.random.key(0), jnp.zeros((3, 4)), jnp.zeros(2, jnp.int32))


@pytest.mark.parametrize("bound", [name for name in BOUNDS if name != "invert"])
def test_a_seed_is_no_key(monkeypatch, bound):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(TypeError, match="key must be a JAX random key"):
        BOUNDS[bound](0, jnp.zeros((3, 4)), None)


def test_discrete_data_beyond_their_range_are_refused():
    with pytest.raises(ValueError, match="x must lie in"):
        likelihood.continuous_vlb(
            zero,
            jax.random.key(0),
            jnp.full((3, 4), 5.0),
            schedule=schedules.Cosine(),
            samples=3,
            bins=256,
        )
