"""Each solver against formulas in float64, its order of convergence, its limits, its law."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from cfg_jax import guidance, mixtures, prediction, sample, schedules, solvers
from cfg_jax.diffusion.precision import enable_x64
from cfg_jax.sampling.exponential import moments

RNG = np.random.default_rng(0)
Z, NOISE = (RNG.normal(size=(4, 3)) for _ in range(2))
LOW, HIGH = -1.5, 0.7
LEVELS = (-3.0, -1.5, -0.2, 0.7, 2.9)
SOLVERS = [
    solvers.Ancestral(v=0.3),
    solvers.DDIM(eta=0.5),
    solvers.Euler(gamma=0.1),
    solvers.Heun(gamma=0.1),
    solvers.DPMSolverPP(order=2),
    solvers.DPMSolverPP(order=3, eta=1.0),
    solvers.UniPC(order=2),
    solvers.UniPC(order=3),
]


def eps(z, logsnr, cond, xp=jnp):
    """Some smooth function, the same in JAX and NumPy."""
    return xp.sin(1.3 * z + 0.2 * logsnr)


def alpha_sigma(logsnr):
    return np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))


def x_hat(z, logsnr):
    alpha, sigma = alpha_sigma(logsnr)
    return (z - sigma * eps(z, logsnr, None, np)) / alpha


def walk(solver, levels=(LOW, HIGH), denoiser=eps):
    """All steps of the library, in float32."""
    z = jnp.asarray(Z, jnp.float32)
    state = solver.init(z)
    noise = jnp.asarray(NOISE, jnp.float32)
    for low, high in itertools.pairwise(levels):
        z, state = solver.step(
            denoiser, z, state, None, lambda: noise, logsnr=jnp.float32(low), logsnr_next=high
        )
    return z


def assert_is(got, want):
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("v", [0.0, 0.3, 1.0])
def test_ancestral_is_algorithm_2(v):
    (alpha, sigma), (alpha2, sigma2) = alpha_sigma(LOW), alpha_sigma(HIGH)
    ratio = np.exp(LOW - HIGH)
    mean = ratio * alpha2 / alpha * Z + (1 - ratio) * alpha2 * x_hat(Z, LOW)
    variance = ((1 - ratio) * sigma2**2) ** (1 - v) * ((1 - ratio) * sigma**2) ** v
    assert_is(walk(solvers.Ancestral(v=v)), mean + np.sqrt(variance) * NOISE)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_equation_12(eta):
    (alpha, sigma), (alpha2, sigma2) = alpha_sigma(LOW), alpha_sigma(HIGH)
    # In the paper's ᾱ: s² = η² (1 - ᾱ')/(1 - ᾱ) (1 - ᾱ/ᾱ').
    s2 = eta**2 * sigma2**2 / sigma**2 * (1 - alpha**2 / alpha2**2)
    direction = np.sqrt(sigma2**2 - s2) * eps(Z, LOW, None, np)
    assert_is(walk(solvers.DDIM(eta=eta)), alpha2 * x_hat(Z, LOW) + direction + np.sqrt(s2) * NOISE)


def test_stochastic_ddim_is_ancestral_sampling_of_the_least_variance():
    assert_is(walk(solvers.DDIM(eta=1.0)), walk(solvers.Ancestral(v=0.0)))


def karras_algorithm_2(gamma, s_noise, levels, heun, s_max=np.inf):
    """Lines 3 to 11, in y = z/α and s = σ/α."""

    def slope(y, s):
        return eps(y / np.sqrt(1 + s * s), -2 * np.log(s), None, np)

    s = np.exp(-np.asarray(levels) / 2)
    y = Z / alpha_sigma(levels[0])[0]
    for t in range(len(s) - 1):
        raised = s[t] * (1 + (gamma if s[t] <= s_max else 0))
        y = y + np.sqrt(raised**2 - s[t] ** 2) * s_noise * NOISE
        d = slope(y, raised)
        ahead = y + (s[t + 1] - raised) * d
        if heun and s[t + 1] > 0:
            ahead = y + (s[t + 1] - raised) * (d + slope(ahead, s[t + 1])) / 2
        y = ahead
    return y / np.sqrt(1 + s[-1] ** 2)


@pytest.mark.parametrize(("kind", "heun"), [(solvers.Euler, False), (solvers.Heun, True)])
@pytest.mark.parametrize("levels", [LEVELS, (*LEVELS, np.inf)])
def test_euler_and_heun_are_algorithm_2_of_karras(kind, heun, levels):
    for gamma, s_noise, s_max in [(0.0, 1.0, np.inf), (0.3, 1.01, np.inf), (0.3, 1.0, 1.5)]:
        solver = kind(gamma=gamma, noise_scale=s_noise, s_max=s_max)
        assert_is(walk(solver, levels), karras_algorithm_2(gamma, s_noise, levels, heun, s_max))


def dpm_solver_pp_2m(levels):
    """Lu et al. 2022b, Algorithm 2, in their λ: half the log signal-to-noise ratio."""
    lam = np.asarray(levels) / 2
    alpha, sigma = alpha_sigma(np.asarray(levels))
    buffer = [x_hat(Z, levels[0])]
    h = np.diff(lam)
    z = sigma[1] / sigma[0] * Z - alpha[1] * np.expm1(-h[0]) * buffer[0]
    for i in range(2, len(lam)):
        buffer.append(x_hat(z, levels[i - 1]))
        r = h[i - 2] / h[i - 1]
        d = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        z = sigma[i] / sigma[i - 1] * z - alpha[i] * np.expm1(-h[i - 1]) * d
    return z


def exponential_adams(levels, order):
    """Their Proposition 4.1 with x̂ a polynomial, by quadrature; lower degrees at the start."""
    lam = np.asarray(levels) / 2
    alpha, sigma = alpha_sigma(np.asarray(levels))
    z, found = Z, []
    for i in range(len(lam) - 1):
        found.append(x_hat(z, levels[i]))
        count = min(order, i + 1)
        nodes = lam[i + 1 - count : i + 1]
        total = 0.0
        for node, value in zip(nodes, found[-count:], strict=True):
            others = nodes[nodes != node]
            weight, _ = integrate.quad(
                lambda at, i=i, node=node, others=others: (
                    np.exp(at - lam[i + 1]) * np.prod((at - others) / (node - others))
                ),
                lam[i],
                lam[i + 1],
            )
            total = total + weight * value
        z = sigma[i + 1] / sigma[i] * z + alpha[i + 1] * total
    return z


def test_dpm_solver_pp_of_order_1_is_ddim():
    assert_is(walk(solvers.DPMSolverPP(order=1), LEVELS), walk(solvers.DDIM(), LEVELS))


def test_dpm_solver_pp_of_order_2_is_algorithm_2():
    assert_is(walk(solvers.DPMSolverPP(order=2), LEVELS), dpm_solver_pp_2m(LEVELS))


def test_dpm_solver_pp_of_order_3_integrates_the_parabola():
    assert_is(walk(solvers.DPMSolverPP(order=3), LEVELS), exponential_adams(LEVELS, 3))


@pytest.mark.parametrize("eta", [0.6, 1.0])
def test_the_stochastic_form_of_order_1(eta):
    """κ ∫ e^(-κ(h-u)) du = 1 - e^(-κh); with η = 1, Lu et al.'s SDE-DPM-Solver++(1)."""
    (_, sigma), (alpha2, sigma2) = alpha_sigma(LOW), alpha_sigma(HIGH)
    h = (HIGH - LOW) / 2
    want = (
        sigma2 / sigma * np.exp(-(eta**2) * h) * Z
        + alpha2 * -np.expm1(-(1 + eta**2) * h) * x_hat(Z, LOW)
        + sigma2 * np.sqrt(-np.expm1(-2 * eta**2 * h)) * NOISE
    )
    for order in (1, 2, 3):
        assert_is(walk(solvers.DPMSolverPP(order=order, eta=eta)), want)


def test_the_stochastic_form_of_order_2():
    """SDE-DPM-Solver++(2M): D as in Algorithm 2, 1 - e^(-2h) in place of 1 - e^(-h)."""
    levels = LEVELS[:3]
    (alpha, sigma), h = alpha_sigma(np.asarray(levels)), np.diff(levels) / 2
    z, x = [Z], []
    for i in range(2):
        x.append(x_hat(z[i], levels[i]))
        d = x[0] if i == 0 else x[1] + h[1] / (2 * h[0]) * (x[1] - x[0])
        fresh = -np.expm1(-2 * h[i])
        kept = sigma[i + 1] / sigma[i] * np.exp(-h[i])
        z.append(kept * z[i] + alpha[i + 1] * fresh * d + sigma[i + 1] * np.sqrt(fresh) * NOISE)
    assert_is(walk(solvers.DPMSolverPP(order=2, eta=1.0), levels), z[2])


def unipc_update(z, found, lam, target, x_target=None):
    """Zhao et al. 2023, Equations 3 and 8 with data prediction: R_p(h) a = φ_p(h) / B(h)."""
    h = target - lam[-1]
    alpha2, sigma2 = alpha_sigma(2 * target)
    values = [(lam[j], found[j]) for j in range(len(lam) - 1)]
    if x_target is not None:
        values.append((target, x_target))
    r = np.array([(at - lam[-1]) / h for at, _ in values])
    p = len(r)
    # φ_1(-h) h = 1 - e^(-h), φ_{k+1}(-h) = (1/k! - φ_k(-h)) / h.
    phi = [-np.expm1(-h) / h]
    for k in range(1, p + 1):
        phi.append((1 / math.factorial(k) - phi[-1]) / h)
    b_h = np.expm1(h)
    right = np.array([math.factorial(k) * phi[k] * h / b_h for k in range(1, p + 1)])
    a = np.linalg.solve(np.stack([r**k for k in range(p)]), right) if p else []
    differences = [(value - found[-1]) / rj for rj, (_, value) in zip(r, values, strict=True)]
    total = sum((ai * b_h * d for ai, d in zip(a, differences, strict=True)), 0.0)
    _, sigma = alpha_sigma(2 * lam[-1])
    return sigma2 / sigma * z + alpha2 * (-np.expm1(-h) * found[-1] + total)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_without_its_corrector_integrates_the_polynomial(order):
    solver = solvers.UniPC(order=order, corrector=False)
    assert_is(walk(solver, LEVELS), exponential_adams(LEVELS, order))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_is_algorithms_1_and_2(order):
    levels = LEVELS
    lam = np.asarray(levels) / 2
    corrected, predicted, found = None, Z, []
    for i in range(len(lam) - 1):
        x = x_hat(predicted, levels[i])
        if i:
            p = min(order, i)
            corrected = unipc_update(corrected, found[-p:], lam[i - p : i], lam[i], x)
        else:
            corrected = predicted
        found.append(x)
        p = min(order, i + 1)
        predicted = unipc_update(corrected, found[-p:], lam[i + 1 - p : i + 1], lam[i + 1])
    assert_is(walk(solvers.UniPC(order=order), levels), predicted)


def test_moments_are_quadratures():
    for h in (1e-5, 0.01, 0.3, 0.999, 1.001, 4.0, 19.0):
        want = [
            integrate.quad(lambda u, h=h, k=k: np.exp(u - h) * u**k, 0, h, epsabs=0)[0]
            for k in range(4)
        ]
        np.testing.assert_allclose(moments(jnp.float32(h), 4), want, rtol=3e-6)


EXACT = mixtures.gaussian_mixture(
    np.random.default_rng(0).normal(0, 0.5, (2, 2, 3)), [[0.3, 0.6], [0.5, 0.4]]
)
GUIDED = guidance.classifier_free(EXACT, w=1.0, null=EXACT.null)
CLASSES, START, END = jnp.array([0, 1, 0, 1]), -12.0, 3.0


@functools.cache
def flow():
    return mixtures.reference(GUIDED, Z, CLASSES, logsnr_from=START, logsnr_to=END, tolerance=1e-12)


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (solvers.Euler(), 1),
        (solvers.DDIM(), 1),
        (solvers.Heun(), 2),
        (solvers.DPMSolverPP(order=2), 2),
        (solvers.DPMSolverPP(order=3), 3),
        (solvers.UniPC(order=2, corrector=False), 2),
        (solvers.UniPC(order=1), 2),
        (solvers.UniPC(order=2), 3),
        (solvers.UniPC(order=3), 4),
    ],
    ids=str,
)
@pytest.mark.slow
def test_the_order_of_convergence(solver, order):
    """To the exact guided flow, in float64; the corrector adds one to the order."""

    def error(steps):
        levels = jnp.linspace(START, END, steps + 1)

        def body(carry, step):
            low, high = step
            return solver.step(
                GUIDED, *carry, CLASSES, lambda: jnp.zeros_like(z), logsnr=low, logsnr_next=high
            ), None

        z = jnp.asarray(Z)
        (got, _), _ = jax.lax.scan(body, (z, solver.init(z)), (levels[:-1], levels[1:]))
        return np.abs(np.asarray(got) - flow()).max()

    with enable_x64(True):
        coarse, fine = error(240), error(480)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(
    ("solver", "steps"),
    [
        (solvers.Ancestral(v=0.0), 300),
        (solvers.Ancestral(v=0.3), 300),
        (solvers.Ancestral(v=1.0), 600),
        (solvers.DDIM(eta=0.5), 300),
        (solvers.Euler(gamma=0.02, s_max=100.0), 300),
        (solvers.Heun(gamma=0.1, s_max=100.0), 60),
        (solvers.DPMSolverPP(order=2, eta=1.0), 60),
        (solvers.DPMSolverPP(order=3, eta=0.5), 60),
        (solvers.UniPC(order=2), 30),
    ],
    ids=str,
)
@pytest.mark.slow
def test_samples_follow_the_data(solver, steps):
    """Two-sample tests of every coordinate and of the norm, against exact draws."""
    data = mixtures.gaussian_mixture([[[-0.6, 0.2], [0.7, 0.5]]], [[0.2, 0.35]])
    labels = jnp.zeros(2000, jnp.int32)
    got = np.asarray(
        sample(
            data,
            jax.random.key(1),
            labels,
            shape=(2,),
            schedule=schedules.Cosine(),
            solver=solver,
            steps=steps,
        )
    )
    drawn = np.asarray(data.sample(jax.random.key(2), labels))
    for mine, true in [*zip(got.T, drawn.T, strict=True), [(a**2).sum(1) for a in (got, drawn)]]:
        assert stats.ks_2samp(mine, true).pvalue > 1e-3


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_the_last_step_returns_the_estimate_of_x(solver):
    """Whatever was estimated before, to the last bit."""
    final = jnp.asarray(NOISE, jnp.float32)

    def denoiser(z, logsnr, cond):
        return prediction.Estimate(x=jnp.where(logsnr > 2.0, final, -3.0 * final), eps=z)

    for last in (5.0, 20.0):
        np.testing.assert_array_equal(walk(solver, (-20.0, 0.0, last, np.inf), denoiser), final)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_steps_over_the_whole_range_are_finite(solver):
    """Far apart, close together and neither."""
    for levels in [
        (-20.0, 20.0, np.inf),
        (-20.0, -19.99, 19.99, 20.0, np.inf),
        (-20.0, 0.0, 1e-3, 2e-3, 20.0, np.inf),
        (19.0, 19.5, 20.0),
    ]:
        assert np.all(np.isfinite(walk(solver, levels)))


def test_the_knobs_are_leaves_and_the_order_is_not():
    assert jax.tree.leaves(solvers.Ancestral(v=0.3)) == [0.3]
    assert jax.tree.leaves(solvers.DDIM(eta=0.3)) == [0.3]
    assert jax.tree.leaves(solvers.DPMSolverPP(order=3, eta=0.3)) == [0.3]
    assert jax.tree.leaves(solvers.UniPC(order=3)) == []
    for kind in (solvers.Euler, solvers.Heun):
        knobs = kind(gamma=0.1, noise_scale=1.01, s_min=0.05, s_max=50.0)
        assert jax.tree.leaves(knobs) == [0.1, 1.01, 0.05, 50.0]


@pytest.mark.parametrize(
    "solver",
    [
        solvers.Ancestral(),
        solvers.DDIM(),
        solvers.Euler(),
        solvers.Heun(),
        solvers.DPMSolverPP(),
        solvers.UniPC(),
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 7])
def test_calls_are_what_is_called(solver, steps):
    """Counted in the running program: every call, on the host; steps none of which is too long."""
    called = []

    def counting(z, logsnr, cond):
        jax.debug.callback(lambda: called.append(1))
        return EXACT(z, logsnr, cond)

    sample(
        counting,
        jax.random.key(0),
        shape=(3,),
        batch=2,
        schedule=schedules.Cosine(),
        solver=solver,
        grid=lambda schedule, steps: np.append(np.linspace(-3.0, 3.0, steps), np.inf),
        steps=steps,
    )
    jax.effects_barrier()
    assert len(called) == solver.calls(steps)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_knobs_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match=r"v must lie in \[0, 1\]"):
        solvers.Ancestral(v=value)
    for kind in (solvers.DDIM, solvers.DPMSolverPP):
        with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
            kind(eta=value)
    for kind in (solvers.Euler, solvers.Heun):
        with pytest.raises(ValueError, match=r"gamma must lie in \[0, 0.414214\]"):
            kind(gamma=value)


@pytest.mark.parametrize("order", [0, 4, True])
def test_orders_that_are_not_are_refused(order):
    for kind in (solvers.DPMSolverPP, solvers.UniPC):
        with pytest.raises(ValueError, match="order must be a whole number from 1 to 3"):
            kind(order=order)
