"""The training loss: its draws, and its value against numpy and a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cfg_jax import objective, schedules

SCHEDULE = schedules.Cosine()
COUNT = 4096


@pytest.fixture(scope="module")
def drawn():
    x, labels = jnp.zeros((COUNT, 2)), jnp.arange(COUNT) % 10
    draw = jax.jit(objective.draw, static_argnames=("schedule", "p_uncond", "stratified"))
    return draw(
        jax.random.key(1), x, labels, schedule=SCHEDULE, null=10, p_uncond=0.2, stratified=False
    )


def test_levels_and_noise_have_their_distributions(drawn):
    cdf = np.asarray(SCHEDULE.cdf(drawn.logsnr))
    assert stats.kstest(cdf, "uniform").pvalue > 1e-3
    assert stats.kstest(np.asarray(drawn.eps).ravel(), "norm").pvalue > 1e-3
    together = np.stack([cdf, *np.asarray(drawn.eps).T, np.asarray(drawn.cond) == 10])
    correlation = np.corrcoef(together) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(COUNT)


def test_nulls_come_with_their_probability_and_the_rest_keep_their_labels(drawn):
    dropped = np.asarray(drawn.cond) == 10
    assert stats.binomtest(int(dropped.sum()), COUNT, 0.2).pvalue > 1e-3
    np.testing.assert_array_equal(drawn.cond[~dropped], (np.arange(COUNT) % 10)[~dropped])


@pytest.mark.parametrize(("p_uncond", "nulls"), [(0.0, 0), (1.0, 64)])
def test_the_ends_of_p_uncond_are_certain(p_uncond, nulls):
    drawn = objective.draw(
        jax.random.key(0),
        jnp.zeros((64, 1)),
        jnp.zeros(64, jnp.int32),
        schedule=SCHEDULE,
        null=3,
        p_uncond=p_uncond,
    )
    assert int((drawn.cond == 3).sum()) == nulls


def test_stratified_levels_fill_every_stratum_in_order():
    drawn = objective.draw(jax.random.key(0), jnp.zeros((32, 1)), None, schedule=SCHEDULE)
    u = np.asarray(SCHEDULE.u(drawn.logsnr))
    np.testing.assert_array_equal(np.floor(u * 32), np.arange(32))
    assert drawn.cond is None


def test_an_examples_draws_do_not_depend_on_the_batch():
    few, many = (
        objective.draw(
            jax.random.key(5), jnp.zeros((n, 3)), None, schedule=SCHEDULE, stratified=False
        )
        for n in (3, 9)
    )
    np.testing.assert_array_equal(few.eps, many.eps[:3])
    np.testing.assert_array_equal(few.logsnr, many.logsnr[:3])


def test_squared_error_is_the_formula():
    rng = np.random.default_rng(0)
    x, eps = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
    lam = np.linspace(-5, 5, 5).astype(np.float32)
    labels = jnp.arange(5)

    def denoiser(z, logsnr, cond):
        return 0.5 * z + logsnr[:, None, None] + cond[:, None, None]

    got = objective.squared_error(
        denoiser, jnp.asarray(x), objective.Draw(jnp.asarray(lam), jnp.asarray(eps), labels)
    )
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(s * lam)))[:, None, None] for s in (-1, 1))
    answer = 0.5 * (alpha * x + sigma * eps) + (lam + np.arange(5))[:, None, None]
    np.testing.assert_allclose(got, np.mean((answer - eps) ** 2, axis=(1, 2)), rtol=1e-5)


def test_the_exact_posterior_has_the_least_cross_entropy():
    """-log of Bayes' rule over two classes N(±μ, 0) in float64; other logits lose more."""
    mean, labels = np.array([[0.4, -0.2], [-0.4, 0.2]]), np.arange(4_000) % 2
    drawn = objective.draw(
        jax.random.key(3),
        jnp.zeros((4_000, 2)),
        jnp.asarray(labels),
        schedule=SCHEDULE,
        null=2,
        p_uncond=0.0,
    )

    def classifier(temper, z, logsnr):
        alpha, sigma2 = jnp.sqrt(jax.nn.sigmoid(logsnr)), jax.nn.sigmoid(-logsnr)
        return temper * (alpha / sigma2)[:, None] * (z @ jnp.asarray(mean.T, jnp.float32))

    x = jnp.asarray(mean[labels], jnp.float32)
    losses = {
        temper: objective.cross_entropy(jax.tree_util.Partial(classifier, temper), x, drawn)
        for temper in (0.7, 1.0, 1.4)
    }
    lam, eps = np.asarray(drawn.logsnr, np.float64)[:, None], np.asarray(drawn.eps, np.float64)
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-lam))), np.sqrt(1 / (1 + np.exp(lam)))
    z = alpha * mean[labels] + sigma * eps
    away = [((z - alpha * m) ** 2).sum(1) / (2 * sigma[:, 0] ** 2) for m in mean]
    own, other = np.where(labels == 0, away, away[::-1])
    np.testing.assert_allclose(losses[1.0], np.logaddexp(0, own - other), rtol=1e-3, atol=1e-5)
    assert losses[1.0].mean() < min(losses[0.7].mean(), losses[1.4].mean())


def test_the_best_denoiser_of_gaussian_data_has_the_closed_forms_loss():
    """For x ~ N(0, s²), E||ε̂* - ε||² = α² s² / (α² s² + σ²): the least loss there is."""
    s = 0.5
    x = s * jax.random.normal(jax.random.key(9), (200_000, 1))

    def best(z, logsnr, cond):
        alpha2, sigma2 = jax.nn.sigmoid(logsnr)[:, None], jax.nn.sigmoid(-logsnr)[:, None]
        return jnp.sqrt(sigma2) * z / (alpha2 * s**2 + sigma2)

    drawn = objective.draw(jax.random.key(2), x, None, schedule=SCHEDULE)
    got = float(objective.squared_error(best, x, drawn).mean())
    alpha2 = np.asarray(jax.nn.sigmoid(drawn.logsnr), np.float64)
    want = np.mean(alpha2 * s**2 / (alpha2 * s**2 + 1 - alpha2))
    assert got == pytest.approx(want, rel=0.01)


def test_the_loss_of_a_bfloat16_network_is_float32():
    drawn = objective.draw(jax.random.key(0), jnp.zeros((4, 2)), None, schedule=SCHEDULE)
    losses = objective.squared_error(lambda z, *_: z.astype(jnp.bfloat16), jnp.zeros((4, 2)), drawn)
    assert losses.dtype == jnp.float32


@pytest.mark.parametrize("p_uncond", [-0.1, 1.5])
def test_a_p_uncond_that_is_no_probability_is_refused(p_uncond):
    with pytest.raises(ValueError, match="p_uncond must lie in"):
        objective.draw(
            jax.random.key(0),
            jnp.zeros((2, 1)),
            jnp.zeros(2, jnp.int32),
            schedule=SCHEDULE,
            null=1,
            p_uncond=p_uncond,
        )


def test_a_null_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="null must have the structure of the condition"):
        objective.draw(
            jax.random.key(0),
            jnp.zeros((2, 1)),
            {"label": jnp.zeros(2, jnp.int32)},
            schedule=SCHEDULE,
            null=1,
        )


def test_parts_of_a_condition_are_hidden_each_with_its_own_probability():
    cond = {"told": {"label": jnp.arange(COUNT), "vector": jnp.ones((COUNT, 2))}, "small": Z}
    null = {"told": {"label": -1, "vector": 0.0}, "small": jnp.full(3, 9.0)}
    cond = objective.draw(
        jax.random.key(2),
        jnp.zeros((COUNT, 1)),
        cond,
        schedule=SCHEDULE,
        null=null,
        p_uncond={"told": 0.3, "small": 0.1},
    ).cond
    label = np.asarray(cond["told"]["label"]) == -1
    small = np.all(np.asarray(cond["small"]) == 9.0, axis=1)
    np.testing.assert_array_equal(label, np.all(np.asarray(cond["told"]["vector"]) == 0.0, axis=1))
    np.testing.assert_array_equal(np.asarray(cond["small"])[~small], Z[~small])
    for hidden, p in ((label, 0.3), (small, 0.1), (label & small, 0.03)):
        assert stats.binomtest(int(hidden.sum()), COUNT, p).pvalue > 1e-3


Z = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)


def at_level(x, logsnr, key=7):
    """Draws that all have one λ."""
    drawn = objective.draw(jax.random.key(key), x, None, schedule=SCHEDULE)
    return drawn._replace(logsnr=jnp.full(len(x), logsnr))


@pytest.mark.parametrize("logsnr", [-4.0, 0.5, 5.0])
def test_the_bound_is_least_at_the_true_reverse_variance(logsnr):
    """For x ~ N(0, s²) the reverse process is Gaussian, of variance σ̃² + c² Var(x|z)."""
    s, steps = 0.6, 8
    x = s * jax.random.normal(jax.random.key(3), (100_000, 1))
    u = float(SCHEDULE.u(logsnr))
    cleaner = float(SCHEDULE.logsnr(u - min(1 / steps, u / 2)))
    alpha2, next2 = (1 / (1 + np.exp(-lam)) for lam in (logsnr, cleaner))
    fresh = -np.expm1(logsnr - cleaner)
    least, most = fresh * (1 - next2), fresh * (1 - alpha2)
    variance = least + fresh**2 * next2 / (1 / s**2 + np.exp(logsnr))
    best = np.log(variance / least) / np.log(most / least)

    def network(v):
        def both(z, lam, cond):
            eps = z * jnp.sqrt(1 - alpha2) / (alpha2 * s**2 + 1 - alpha2)
            return eps, jnp.full_like(z, v)

        return both

    def loss(v):
        return objective.hybrid(
            network(v), x, at_level(x, logsnr), schedule=SCHEDULE, steps=steps, weight=1.0
        ).mean()

    slope = jax.grad(loss)
    curvature = float(slope(best + 0.1) - slope(best - 0.1)) / 0.2
    assert curvature > 0
    assert abs(float(slope(best))) < 0.02 * curvature


def test_the_bound_is_the_discrete_one_and_teaches_the_variance_alone():
    """weight · steps · KL in bits/dim, as `discrete_vlb` has it, with the same noise."""
    x, steps, logsnr = jnp.asarray(Z[:5]), 16, SCHEDULE.logsnr(0.5)
    drawn = at_level(x, logsnr)

    def loss(scale, v, weight):
        def both(z, lam, cond):
            return scale * z, jnp.full_like(z, v)

        return objective.hybrid(both, x, drawn, schedule=SCHEDULE, steps=steps, weight=weight)

    simple = objective.squared_error(lambda z, *_: 0.3 * z, x, drawn)
    np.testing.assert_allclose(loss(0.3, 0.4, 0.0), simple, rtol=1e-6)

    lam, cleaner = (np.float64(SCHEDULE.logsnr(u)) for u in (0.5, 0.5 - 1 / steps))
    alpha, sigma, up = np.sqrt(
        [1 / (1 + np.exp(-lam)), 1 / (1 + np.exp(lam)), 1 / (1 + np.exp(-cleaner))]
    )
    x64, eps = np.asarray(x, np.float64), np.asarray(drawn.eps, np.float64)
    z = alpha * x64 + sigma * eps
    fresh = -np.expm1(lam - cleaner)
    least, most = fresh * (1 - up**2), fresh * sigma**2
    ours = least**0.6 * most**0.4
    shift = fresh * up * (x64 - (z - sigma * 0.3 * z) / alpha)
    kl = 0.5 * (least / ours - 1 + np.log(ours / least) + shift**2 / ours)
    want = simple + 0.01 * steps * kl.mean(1) / np.log(2)
    np.testing.assert_allclose(loss(0.3, 0.4, 0.01), want, rtol=1e-4)

    by_eps = jax.grad(lambda scale: loss(scale, 0.4, 0.01).mean())
    plain = jax.grad(lambda scale: loss(scale, 0.4, 0.0).mean())
    assert float(by_eps(0.3)) == pytest.approx(float(plain(0.3)), rel=1e-6)


def test_the_bound_is_finite_at_the_cleanest_levels():
    x = jnp.zeros((3, 2))

    def both(z, lam, cond):
        return z, jnp.full_like(z, 0.5)

    for u in (0.0, 1e-6, 1e-4):
        drawn = at_level(x, SCHEDULE.logsnr(max(u, 1e-7)))
        assert np.all(np.isfinite(objective.hybrid(both, x, drawn, schedule=SCHEDULE, steps=1000)))
