"""What is particular to one guidance: its knobs, its identities with another, what it refuses."""

import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guidance_methods import LABELS, NETWORK, NULL, OTHERS, Z, eps_of, log_prob, oracle

from cfg_jax import denoiser, guidance, mixtures, prediction, sample, schedules, solvers
from cfg_jax.diffusion import piecewise

KINDS = [*prediction.KINDS.values()]
SPACES = pytest.mark.parametrize("space", KINDS, ids=[kind.name for kind in KINDS])
RNG = np.random.default_rng(1)
MIXTURE = mixtures.gaussian_mixture(
    RNG.normal(0, 0.5, (3, 4, 2)), RNG.uniform(0.05, 0.25, (3, 4)), priors=[0.5, 0.3, 0.2]
)
POINTS = jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32)
CLASSES = jnp.array([0, 1, 2, 1, 2, 0])


def log_posterior(z, logsnr, cond):
    return jnp.take_along_axis(MIXTURE.log_posterior(z, logsnr), cond[:, None], 1)[:, 0]


def same(got, want, z=Z, logsnr=0.5, cond=LABELS, tolerance=1e-5):
    """Compares two denoisers in ε, and in x̂."""
    got, want = (denoiser.read(d, z, logsnr, cond) for d in (got, want))
    for a, b in ((got.x, want.x), (got.eps, want.eps)):
        np.testing.assert_allclose(a, b, atol=tolerance * max(np.abs(b).max(), 1))


@pytest.mark.parametrize("w", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("logsnr", [-4.0, 0.0, 2.0])
def test_the_exact_classifier_guides_as_the_network_itself(w, logsnr):
    """Ho & Salimans 2022, Section 3.2: w around the conditional, w + 1 around the unconditional."""
    free = guidance.classifier_free(MIXTURE, w=w, null=MIXTURE.null)
    around = guidance.classifier(MIXTURE, log_posterior, w=w)
    beyond = guidance.classifier(MIXTURE, log_posterior, w=w + 1, null=MIXTURE.null)
    want = free(POINTS, logsnr, CLASSES)
    for guided in (around, beyond):
        got = guided(POINTS, logsnr, CLASSES).eps
        np.testing.assert_allclose(got, want, atol=1e-5 * max(np.abs(want).max(), 1))


@pytest.mark.parametrize("w", [0.3, -2.0])
def test_classifier_free_is_a_case_of_others(w):
    free = guidance.classifier_free(NETWORK, w=w, null=NULL)
    unconditional = guidance.unconditional(NETWORK, null=NULL)
    same(guidance.composed(NETWORK, conds=[LABELS], ws=[w], null=NULL), free)
    same(guidance.autoguidance(NETWORK, unconditional, w=w), free)
    same(guidance.scheduled(NETWORK, w=lambda logsnr: w, null=NULL), free)
    same(guidance.interval(free), free)
    same(guidance.negative(NETWORK, w=w, cond=jnp.full(3, NULL)), free)


@pytest.mark.parametrize("logsnr", [-20.0, 0.5, 20.0])
def test_knobs_at_rest_are_classifier_free(logsnr):
    free = guidance.classifier_free(NETWORK, w=1.5, null=NULL)
    same(guidance.projected(NETWORK, w=1.5, null=NULL, eta=1.0), free, logsnr=logsnr)
    same(
        guidance.projected(NETWORK, w=1.5, null=NULL, eta=1.0, norm_threshold=1e9),
        free,
        logsnr=logsnr,
    )
    at_rest = guidance.rescaled(NETWORK, w=1.5, null=NULL, phi=0.0)
    np.testing.assert_array_equal(at_rest(Z, logsnr, LABELS).eps, free(Z, logsnr, LABELS))


def test_composition_around_nothing_is_liu_et_als_equation_11():
    o = oracle(0.5)
    around = guidance.composed(NETWORK, conds=list(OTHERS), ws=[1.0, 0.5], null=NULL)
    got = around(Z, 0.5, jnp.full(3, NULL))
    null = o.eps(NULL)
    want = null + (o.eps(OTHERS[0]) - null) + 0.5 * (o.eps(OTHERS[1]) - null)
    np.testing.assert_allclose(got, want, atol=1e-5)


@SPACES
def test_rescaling_matches_the_standard_deviation_in_its_space(space):
    guided = guidance.rescaled(NETWORK, w=3.0, null=NULL, phi=1.0, space=space)
    spread = [
        np.std(prediction.convert(d, Z, logsnr=0.5, source=prediction.EPS, target=space), axis=1)
        for d in (guided(Z, 0.5, LABELS).eps, NETWORK(Z, 0.5, LABELS))
    ]
    np.testing.assert_allclose(*spread, rtol=1e-4)


@SPACES
def test_the_fitted_scale_leaves_guidance_orthogonal_in_its_space(space):
    """p(c) - s p(∅) is orthogonal to p(∅)."""
    guided = guidance.zero_star(NETWORK, w=1.0, null=NULL, space=space)

    def told(eps):
        p = prediction.convert(eps, Z, logsnr=0.5, source=prediction.EPS, target=space)
        return np.asarray(p, np.float64)

    plain, null = told(NETWORK(Z, 0.5, LABELS)), told(NETWORK(Z, 0.5, jnp.full(3, NULL)))
    change = told(guided(Z, 0.5, LABELS).eps) - plain
    sizes = np.linalg.norm(change, axis=1) * np.linalg.norm(null, axis=1)
    np.testing.assert_allclose((change * null).sum(1) / sizes, 0.0, atol=1e-4)


def test_a_constant_prediction_is_not_rescaled():
    """Its standard deviation is rounding, and the ratio of two roundings is anything."""

    def flat(z, logsnr, cond):
        return jnp.broadcast_to(0.1 * cond[:, None], z.shape)

    free = guidance.classifier_free(flat, w=1.5, null=NULL)
    rescaled = guidance.rescaled(flat, w=1.5, null=NULL, phi=1.0, space=prediction.EPS)
    same(rescaled, free, z=jnp.zeros((3, 7)))  # A mean of four would be exact.


def test_the_projected_change_is_orthogonal_and_short():
    guided = guidance.projected(NETWORK, w=1.0, null=NULL, norm_threshold=0.1)
    x = np.asarray(denoiser.read(NETWORK, Z, 0.5, LABELS).x)
    change = guided(Z, 0.5, LABELS).x - x
    np.testing.assert_allclose((change * x).sum(1), 0.0, atol=1e-5)
    assert np.all(np.linalg.norm(change, axis=1) <= 0.1 + 1e-6)


def test_plus_plus_under_ddim_is_the_papers_algorithm():
    """Chung et al.'s Algorithm 2, three steps of it, the last one to x̂."""
    lam, schedule = 0.4, schedules.Cosine(logsnr_min=-3.0, logsnr_max=3.0)
    guided = guidance.plus_plus(NETWORK, w=lam - 1, null=NULL)
    walk = {"shape": (4,), "schedule": schedule, "grid": "UniformU", "steps": 3, "z": Z}
    got = sample(guided, jax.random.key(0), LABELS, solver=solvers.DDIM(), **walk)

    levels, z = schedule.grid(3), oracle(0.0).z
    for level, following in itertools.pairwise(levels):
        now, then = oracle(level)._replace(z=z), oracle(following)
        null = now.eps(NULL)
        x = now.x(null + lam * (now.eps(LABELS) - null))
        z = then.alpha * x + then.sigma * null
    np.testing.assert_allclose(got, x, atol=1e-5 * np.abs(x).max())


def test_plus_plus_under_a_solver_that_reads_x_alone_is_classifier_free():
    walk = {
        "shape": (4,),
        "schedule": schedules.Cosine(logsnr_min=-3.0, logsnr_max=3.0),
        "solver": solvers.Ancestral(),
    }
    free, reads_x = (
        sample(make(NETWORK, w=1.2, null=NULL), jax.random.key(0), LABELS, steps=3, **walk)
        for make in (guidance.classifier_free, guidance.plus_plus)
    )
    np.testing.assert_allclose(free, reads_x, atol=1e-5 * np.abs(free).max())


def counted(batches):
    def counting(z, logsnr, cond):
        batches.append(z.shape[0])
        return eps_of(0.7, z, logsnr, cond)

    return counting


@pytest.mark.parametrize(("logsnr", "batch"), [(-3.0, 3), (-1.0, 6), (1.9, 6), (2.0, 3), (20.0, 3)])
def test_outside_the_interval_one_half_is_evaluated(logsnr, batch):
    batches = []
    guided = guidance.classifier_free(counted(batches), w=1.0, null=NULL)
    limited = denoiser.clipped(guidance.interval(guided, low=-1.0, high=2.0))
    assert piecewise.breaks(limited) == (-1.0, 2.0)
    cut = piecewise.at(limited, logsnr)
    same(cut, limited, logsnr=logsnr)
    batches.clear()
    cut(Z, logsnr, LABELS)
    assert batches == [batch]


@pytest.mark.parametrize("logsnr", [-1.5, 0.5, 5.0])
def test_a_level_that_is_traced_chooses_the_same_side(logsnr):
    guided = guidance.classifier_free(NETWORK, w=1.0, null=NULL)
    limited = guidance.interval(guided, low=-1.0, high=2.0)
    got = jax.jit(lambda lam: limited(Z, lam, LABELS))(logsnr)
    each = jax.vmap(lambda lam: limited(Z, lam, LABELS))(jnp.array([logsnr, 0.0]))
    want = denoiser.read(limited.at(logsnr), Z, logsnr, LABELS)
    np.testing.assert_allclose(got.eps, want.eps, atol=1e-6)
    np.testing.assert_allclose(each.eps[0], want.eps, atol=1e-6)


def test_bounds_without_end_and_within_one_another():
    free = guidance.classifier_free(NETWORK, w=1.0, null=NULL)
    inner = guidance.interval(free, high=2.0)
    assert piecewise.breaks(inner) == (2.0,)
    outer = guidance.interval(guidance.autoguidance(inner, NETWORK, w=1.0), low=-1.0)
    assert piecewise.breaks(outer) == (-1.0, 2.0)
    for logsnr, want in [(-2.0, free), (3.0, NETWORK)]:
        same(piecewise.at(outer, logsnr), want, logsnr=logsnr)
        same(outer, want, logsnr=logsnr)


def test_energy_lowers_its_loss():
    def loss(x, z, logsnr, cond):
        return jnp.sum((x - 1.0) ** 2, -1)

    def remaining(w):
        x = guidance.energy(NETWORK, loss, w=w)(Z, 0.5, LABELS).x
        return loss(x, Z, 0.5, LABELS)

    assert np.all(remaining(0.05) < remaining(0.0))
    assert np.all(remaining(-0.05) > remaining(0.0))


def test_guidance_of_guidance():
    """A loss around a limited, rescaled guidance, all of it clipped: finite, and one pytree."""
    inner = guidance.rescaled(NETWORK, w=1.0, null=NULL, phi=0.7)
    limited = guidance.interval(inner, low=-1.0, high=2.0)
    steered = guidance.energy(
        limited, jax.tree_util.Partial(lambda x, z, lam, c: jnp.sum(x**2, -1)), w=0.1
    )
    whole = denoiser.dynamically_thresholded(steered)
    pair = jax.jit(lambda d, lam: d(Z, lam, LABELS))(whole, 0.5)
    assert np.all(np.isfinite((pair.x, pair.eps)))
    assert piecewise.breaks(whole) == (-1.0, 2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guidance.composed(NETWORK, conds=[], ws=[], null=NULL), "at least one condition"),
        (
            lambda: guidance.composed(NETWORK, conds=[LABELS], ws=[1.0, 2.0], null=NULL),
            "1 conditions and 2 weights",
        ),
        (lambda: guidance.scheduled(NETWORK, w=0.3, null=NULL), "w must be a function"),
        (lambda: guidance.interval(NETWORK, low=0.0), "limits a guidance"),
        (
            lambda: guidance.interval(
                denoiser.clipped(guidance.classifier_free(NETWORK, w=1.0, null=NULL))
            ),
            "got Clipped",
        ),
        (
            lambda: guidance.interval(
                guidance.classifier_free(NETWORK, w=1.0, null=NULL), low=2.0, high=2.0
            ),
            "low must be a plain number less than high",
        ),
        (
            lambda: guidance.interval(
                guidance.classifier_free(NETWORK, w=1.0, null=NULL), low=float("nan")
            ),
            "low must be",
        ),
        (lambda: guidance.rescaled(NETWORK, w=1.0, null=NULL, phi=1.5), "phi must lie in"),
        (
            lambda: guidance.projected(NETWORK, w=1.0, null=NULL, norm_threshold=-1.0),
            "norm_threshold must lie in",
        ),
        (
            lambda: guidance.projected(NETWORK, w=1.0, null=NULL, eta=float("nan")),
            "eta must be finite",
        ),
        (
            lambda: guidance.unconditional(NETWORK, null={"label": 1})(Z, 0.0, LABELS),
            "structure of the condition",
        ),
        (
            lambda: guidance.classifier(NETWORK, lambda *a: log_prob(*a).sum(), w=1.0)(
                Z, 0.0, LABELS
            ),
            "log_prob must return one number an example",
        ),
        (
            lambda: guidance.energy(NETWORK, lambda x, z, lam, c: x, w=1.0)(Z, 0.0, LABELS),
            "loss must return one number an example",
        ),
    ],
)
def test_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guidance.classifier_free(3, w=1.0, null=NULL), "denoiser must be .* got 3"),
        (lambda: guidance.negative(3, w=1.0, cond=LABELS), "denoiser must be"),
        (lambda: guidance.negative(NETWORK, w=1.0, cond="x"), "cond must be a pytree .* got 'x'"),
        (
            lambda: guidance.composed(NETWORK, conds=["x"], ws=[1.0], null=NULL),
            "conds must be a pytree .* got 'x'",
        ),
        (lambda: guidance.composed(3, conds=[LABELS], ws=[1.0], null=NULL), "denoiser must be"),
        (lambda: guidance.plus_plus(3, w=1.0, null=NULL), "denoiser must be"),
        (lambda: guidance.projected(3, w=1.0, null=NULL), "denoiser must be"),
        (lambda: guidance.rescaled(3, w=1.0, null=NULL, phi=0.7), "denoiser must be"),
        (lambda: guidance.scheduled(3, w=abs, null=NULL), "denoiser must be"),
        (lambda: guidance.unconditional(3, null=NULL), "denoiser must be"),
        (lambda: guidance.zero_star(3, w=1.0, null=NULL), "denoiser must be"),
        (lambda: guidance.autoguidance(3, NETWORK, w=1.0), "denoiser must be"),
        (lambda: guidance.autoguidance(NETWORK, None, w=1.0), "weak must be .* got None"),
        (lambda: guidance.classifier(3, log_prob, w=1.0), "denoiser must be"),
        (lambda: guidance.classifier(NETWORK, 3, w=1.0), "log_prob must be .* got 3"),
        (lambda: guidance.ascent(3, w=1.0), "log_prob must be"),
        (lambda: guidance.energy(3, log_prob, w=1.0), "denoiser must be"),
        (lambda: guidance.energy(NETWORK, None, w=1.0), "loss must be .* got None"),
        (
            lambda: guidance.zero_star(NETWORK, w=1.0, null=NULL, space=3),
            "space must be one of eps",
        ),
        (
            lambda: guidance.composed(NETWORK, conds=3, ws=[1.0], null=NULL),
            "conds must be a sequence, got 3",
        ),
        (
            lambda: guidance.composed(NETWORK, conds=[LABELS], ws=jnp.float32(1.0), null=NULL),
            "ws must be a sequence, got",
        ),
        (
            lambda: guidance.composed(NETWORK, conds={"a": LABELS}, ws=[1.0], null=NULL),
            "conds must be a sequence, got",
        ),
    ],
)
def test_what_is_no_such_thing_is_refused_in_one_line(monkeypatch, make, message):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(TypeError, match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("x", "must be a number or an array of numbers, got 'x'"),
        (None, "must be a number or an array of numbers, got None"),
        (jnp.ones(5), r"must be a number, or one an example, \(\d+,\); got Array\("),
    ],
)
def test_a_schedule_of_something_else_is_refused(said, message):
    guided = guidance.scheduled(NETWORK, w=lambda logsnr: said, null=NULL)
    with pytest.raises(ValueError, match=rf"^w\(logsnr\) {message}"):
        guided(Z, 0.0, LABELS)


def cut_out(**changed):
    given = {"text": jnp.ones((1, 1)), "key": jax.random.key(0), "size": 4, "w": 1.0}
    zero = jnp.zeros_like
    return guidance.cutouts(
        lambda z, logsnr, cond: zero(z), lambda x: x.mean((1, 2)), **given | changed
    )


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"key": 0}, TypeError, "key must be a JAX random key"),
        ({"key": None}, TypeError, "key must be a JAX random key"),
        ({"key": jax.random.split(jax.random.key(0))}, TypeError, "key must be a JAX random key"),
        ({"offset": "x"}, ValueError, "offset must be a whole number from 0"),
        ({"offset": -1}, ValueError, "offset must be a whole number from 0"),
        ({"offset": 1.5}, ValueError, "offset must be a whole number from 0"),
        ({"offset": 2**40}, ValueError, "offset must be a whole number from 0"),
    ],
)
def test_cut_outs_of_no_key_or_number_are_refused(monkeypatch, changed, error, message):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(error, match=message):
        cut_out(**changed)


def test_cut_outs_of_nothing_are_refused_and_sizes_may_be_arrays(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    guided = cut_out(decode=lambda x: None)
    with pytest.raises(ValueError, match="cut-outs are of pictures, got x̂ of shape None"):
        guided(jnp.zeros((1, 8, 8, 1)), 0.0, None)
    same = [cut_out(size=size)(jnp.zeros((1, 8, 8, 1)), 0.0, None) for size in (4, jnp.int32(4))]
    jax.tree.map(np.testing.assert_array_equal, *same)


@pytest.mark.parametrize("null", ["x", 0.5])
def test_a_null_that_is_no_label_is_refused(null):
    with pytest.raises(ValueError, match=f"null must be of int32, got {null!r}"):
        guidance.classifier_free(NETWORK, w=1.0, null=null)(Z, 0.0, LABELS)


def test_a_space_may_be_named():
    for make in (
        lambda space: guidance.zero_star(NETWORK, w=1.0, null=NULL, space=space),
        lambda space: guidance.rescaled(NETWORK, w=1.0, null=NULL, phi=0.7, space=space),
    ):
        assert make("flow") == make(prediction.FLOW)
        with pytest.raises(ValueError, match=r"space must be one of eps, .*; got 'flaw'"):
            make("flaw")


def test_a_denoiser_that_names_itself_as_what_it_holds_is_asked():
    class Own:
        denoiser = property(lambda self: self)

        def __call__(self, z, logsnr, cond):
            return NETWORK(z, logsnr, cond)

    def of(denoiser):
        return guidance.classifier_free(denoiser, w=1.0, null=NULL)(Z, 0.0, LABELS)

    np.testing.assert_array_equal(of(Own()), of(NETWORK))
    np.testing.assert_array_equal(of(mock.Mock(side_effect=NETWORK)), of(NETWORK))
