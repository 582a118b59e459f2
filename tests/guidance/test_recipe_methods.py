"""The guidance that a recipe names, against the same made in Python; mistakes are refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from guidance_methods import LABELS, NETWORK, NULL, WEAK, Z

from cfg_jax import guidance, prediction
from cfg_jax.diffusion import condition
from cfg_jax.diffusion.denoiser import clipped, dynamically_thresholded, read
from cfg_jax.guidance import methods
from cfg_jax.guidance.base import strength
from cfg_jax.sampling import clips, solvers

W = 1.5


def same(made, wanted, logsnr=0.3, cond=LABELS):
    got, want = (read(d, Z, jnp.float32(logsnr), cond) for d in (made, wanted))
    for a, b in ((got.x, want.x), (got.eps, want.eps)):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


PYTHON = [
    (methods.ClassifierFree(), lambda: guidance.classifier_free(NETWORK, w=W, null=NULL)),
    (
        methods.Negative(cond=3),
        lambda: guidance.negative(NETWORK, w=W, cond=jnp.array([3, 3, 3])),
    ),
    (
        methods.Composed(conds=(3, 5), ws=(1.0, -0.5)),
        lambda: guidance.composed(
            NETWORK, conds=[jnp.full(3, 3), jnp.full(3, 5)], ws=[W, -0.5 * W], null=NULL
        ),
    ),
    (
        methods.Composed(conds=(3,)),
        lambda: guidance.composed(NETWORK, conds=[jnp.full(3, 3)], ws=[W], null=NULL),
    ),
    (
        methods.Autoguidance(weak="elsewhere"),
        lambda: guidance.autoguidance(NETWORK, WEAK, w=W),
    ),
    (methods.Rescaled(phi=0.6), lambda: guidance.rescaled(NETWORK, w=W, null=NULL, phi=0.6)),
    (
        methods.Rescaled(phi=0.6, space="x"),
        lambda: guidance.rescaled(NETWORK, w=W, null=NULL, phi=0.6, space=prediction.X),
    ),
    (
        methods.Projected(eta=0.3, norm_threshold=0.5),
        lambda: guidance.projected(NETWORK, w=W, null=NULL, eta=0.3, norm_threshold=0.5),
    ),
    (methods.Projected(), lambda: guidance.projected(NETWORK, w=W, null=NULL)),
    (methods.PlusPlus(), lambda: guidance.plus_plus(NETWORK, w=W, null=NULL)),
    (
        methods.ZeroStar(space="EPS"),
        lambda: guidance.zero_star(NETWORK, w=W, null=NULL, space=prediction.EPS),
    ),
    (methods.ZeroStar(), lambda: guidance.zero_star(NETWORK, w=W, null=NULL)),
]
every_method = pytest.mark.parametrize(
    ("method", "python"), PYTHON, ids=[str(m) for m, _ in PYTHON]
)


@every_method
def test_a_named_guidance_is_the_one_made_in_python(method, python):
    same(method(NETWORK, w=jnp.float32(W), null=NULL, weak=WEAK), python())


def test_every_method_is_named_above():
    assert {type(method) for method, _ in PYTHON} == set(methods.METHODS.values())


@every_method
def test_each_example_may_have_a_strength_of_its_own(method, python):
    ws = np.array([0.0, 1.0, 3.0])
    every = read(method(NETWORK, w=ws, null=NULL, weak=WEAK), Z, 0.3, LABELS)
    for i, w in enumerate(ws):
        one = read(method(NETWORK, w=w, null=NULL, weak=WEAK), Z, 0.3, LABELS)
        np.testing.assert_allclose(every.eps[i], one.eps[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [methods.ClassifierFree, methods.Rescaled])
def test_an_interval_goes_around_any_of_them(kind):
    inside = kind(low=-1.0, high=2.0)(NETWORK, w=W, null=NULL)
    assert inside.breaks() == (-1.0, 2.0)
    same(inside, kind()(NETWORK, w=W, null=NULL), logsnr=0.0)
    same(inside, NETWORK, logsnr=3.0)


COND = {"label": LABELS, "shade": jnp.array([0.1, 0.2, 0.3])}
PARTS = {"label": NULL, "shade": condition.KEPT}


def of_parts(z, logsnr, cond):
    return NETWORK(z, logsnr, cond["label"]) * cond["shade"][:, None]


def test_of_a_dictionary_it_replaces_what_is_hidden_and_keeps_the_rest():
    for cond in (3, {"label": 3}):
        made = methods.Negative(cond=cond)(of_parts, w=W, null=PARTS)
        away = {**COND, "label": jnp.full(3, 3)}
        same(made, guidance.negative(of_parts, w=W, cond=away), cond=COND)
    typed = methods.Composed(conds=({"label": "three"},))
    made = typed(of_parts, w=W, null=PARTS, condition=lambda entries: {"label": len(entries) + 2})
    want = guidance.composed(of_parts, conds=[away], ws=[W], null=PARTS)
    same(made, want, cond=COND)


def test_what_a_condition_does_not_tell_is_refused():
    both = {"label": NULL, "shade": 0.0}
    with pytest.raises(ValueError, match=r"3 must name the entry .* hides label, shade"):
        methods.Negative(cond=3)(of_parts, w=W, null=both)
    with pytest.raises(ValueError, match=r"takes no entry 'text'; it takes label, shade"):
        methods.Negative(cond={"text": "x"})(of_parts, w=W, null=both)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("Rescaled", {"phi": 1.5}, r"phi must lie in \[0, 1\], got 1.5"),
        ("Rescaled", {"phi": float("nan")}, r"phi must lie in \[0, 1\], got nan"),
        ("ZeroStar", {"space": "q"}, "space must be one of eps, x, v, score, flow, edm; got 'q'"),
        (
            "Projected",
            {"norm_threshold": -1.0},
            "norm_threshold must be a finite number of at least 0, got -1",
        ),
        ("Projected", {"eta": float("inf")}, "eta must be a finite number"),
        ("Negative", {"cond": None}, "cond must be given"),
        ("Composed", {"conds": (3, 4), "ws": (1.0,)}, "one weight for each; got 2 and 1"),
        ("Composed", {"conds": ()}, "at least one condition"),
        ("Composed", {"conds": (3,), "ws": (float("nan"),)}, "ws must be a finite number"),
        ("ClassifierFree", {"low": 2.0, "high": 2.0}, "low must be less than high"),
        ("ClassifierFree", {"low": float("nan")}, "low must be a finite number"),
        ("Autoguidance", {"weak": ""}, "weak must be WORKDIR"),
    ],
)
def test_mistakes_are_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message) as refusal:
        methods.METHODS[kind](**fields)
    assert "\n" not in str(refusal.value)


def test_autoguidance_needs_a_weaker_network():
    with pytest.raises(ValueError, match="with a weaker one beside it"):
        methods.Autoguidance(weak=":100")(NETWORK, w=W, null=NULL)


@pytest.mark.parametrize("null", [None, {}, {"shade": condition.KEPT}])
def test_a_network_that_nothing_is_hidden_from_is_not_guided(null):
    assert methods.ClassifierFree()(NETWORK, w=W, null=null) is NETWORK
    for method, told in (
        (methods.ZeroStar(), "zero_star"),
        (methods.Negative(cond=3), "negative, cond=3"),
        (methods.ClassifierFree(low=0.0), "classifier_free, low=0.0"),
    ):
        with pytest.raises(ValueError, match=f"unconditional network cannot be guided by {told}"):
            method(NETWORK, w=W, null=null)
    made = methods.Autoguidance(weak=":1")(NETWORK, w=W, null=null, weak=WEAK)
    same(made, guidance.autoguidance(NETWORK, WEAK, w=W))


def test_a_description_names_what_was_given():
    assert str(methods.ClassifierFree()) == "classifier_free"
    assert str(methods.Rescaled(phi=0.7, low=-2.0)) == "rescaled, phi=0.7, low=-2.0"
    assert str(methods.PlusPlus(high=3.0)) == "plus_plus, high=3.0"


def test_only_solvers_that_read_eps_are_for_plus_plus():
    assert {k for k, v in methods.METHODS.items() if v.needs_eps} == {"PlusPlus"}
    reading = {name for name, kind in solvers.SOLVERS.items() if kind.reads_eps}
    assert reading == {"DDIM", "Euler", "Heun"}


@pytest.mark.parametrize(
    ("clip", "wanted"),
    [
        (clips.Off(), lambda d: d),
        (clips.Static(), clipped),
        (clips.Dynamic(percentile=0.8), lambda d: dynamically_thresholded(d, 0.8)),
    ],
)
def test_data_are_kept_within_their_bound(clip, wanted):
    plain = guidance.classifier_free(NETWORK, w=W, null=NULL)
    level = -3.0  # where x̂ leaves [-1, 1]
    assert np.abs(read(plain, Z, jnp.float32(level), LABELS).x).max() > 2
    same(clip(plain, 1.0), wanted(plain), logsnr=level)
    assert clip(plain, None) is plain


@pytest.mark.parametrize("percentile", [-0.1, 1.5, float("nan")])
def test_a_percentile_that_is_none_is_refused(percentile):
    with pytest.raises(ValueError, match="percentile must"):
        clips.Dynamic(percentile=percentile)


@pytest.mark.parametrize("wrap", [lambda d: d, clipped])
def test_guidance_around_a_network_that_sees_no_condition_is_refused(wrap):
    blind = wrap(guidance.unconditional(NETWORK, null=NULL))
    for guided in (
        guidance.classifier_free(blind, w=1.0, null=NULL),
        guidance.composed(blind, conds=[LABELS], ws=[1.0], null=NULL),
        guidance.rescaled(blind, w=1.0, null=NULL, phi=0.7),
    ):
        with pytest.raises(ValueError, match="would guide nothing"):
            guided(Z, 0.5, LABELS)


@pytest.mark.parametrize(
    ("w", "message"),
    [("4", "w must be a number"), (None, "w must be a number"), ([1.0, "x"], "w must be a number")],
)
def test_a_strength_that_is_no_number_is_refused(w, message):
    with pytest.raises(ValueError, match=message):
        strength("w", w)


def test_a_whole_number_that_int32_does_not_hold_is_a_strength():
    assert strength("w", 10**12) == np.float32(1e12)


def test_a_list_of_strengths_is_one_an_example():
    np.testing.assert_array_equal(strength("w", [1.0, 2.0, 3.0]).values, [1.0, 2.0, 3.0])
