"""The guidance that a recipe names, against the same made in Python; mistakes are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax import guidance, prediction
from cfg_jax.diffusion.denoiser import clipped, dynamically_thresholded, read
from cfg_jax.training import config as recipe
from cfg_jax.training import guided as guiding
from cfg_jax.training.guided import guided

NULL, W = 10, 1.5
Z = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
LABELS = jnp.array([0, 4, 7])


def eps_of(rate, z, logsnr, cond):
    level = jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1])[:, None]
    return jnp.tanh(rate * z + 0.05 * level + 0.2 * cond[:, None])


NETWORK, WEAK = (jax.tree_util.Partial(eps_of, rate) for rate in (0.7, 0.3))


def config(name, **knobs):
    made = recipe.default()
    made.guidance.name = name
    for knob, value in knobs.items():
        made[("sample" if knob in ("clip", "percentile") else "guidance")][knob] = value
    return made


def same(made, wanted, logsnr=0.3):
    got, want = (read(d, Z, jnp.float32(logsnr), LABELS) for d in (made, wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), got, want)


PYTHON = {
    ("classifier_free", ()): lambda: guidance.classifier_free(NETWORK, w=W, null=NULL),
    ("negative", (("cond", 3),)): lambda: guidance.negative(
        NETWORK, w=W, cond=jnp.array([3, 3, 3])
    ),
    ("composed", (("conds", (3, 5)), ("ws", (1.0, -0.5)))): lambda: guidance.composed(
        NETWORK, conds=[jnp.full(3, 3), jnp.full(3, 5)], ws=[W, -0.5 * W], null=NULL
    ),
    ("composed", (("conds", (3,)),)): lambda: guidance.composed(
        NETWORK, conds=[jnp.full(3, 3)], ws=[W], null=NULL
    ),
    ("autoguidance", (("weak", "elsewhere"),)): lambda: guidance.autoguidance(NETWORK, WEAK, w=W),
    ("rescaled", (("phi", 0.6),)): lambda: guidance.rescaled(NETWORK, w=W, null=NULL, phi=0.6),
    ("rescaled", (("phi", 0.6), ("space", "x"))): lambda: guidance.rescaled(
        NETWORK, w=W, null=NULL, phi=0.6, space=prediction.X
    ),
    ("projected", (("eta", 0.3), ("norm_threshold", 0.5))): lambda: guidance.projected(
        NETWORK, w=W, null=NULL, eta=0.3, norm_threshold=0.5
    ),
    ("projected", ()): lambda: guidance.projected(NETWORK, w=W, null=NULL),
    ("plus_plus", ()): lambda: guidance.plus_plus(NETWORK, w=W, null=NULL),
    ("zero_star", (("space", "eps"),)): lambda: guidance.zero_star(
        NETWORK, w=W, null=NULL, space=prediction.EPS
    ),
    ("zero_star", ()): lambda: guidance.zero_star(NETWORK, w=W, null=NULL),
}


@pytest.mark.parametrize(("name", "knobs"), PYTHON)
def test_a_named_guidance_is_the_one_made_in_python(name, knobs):
    made = guided(
        config(name, clip="none", **dict(knobs)), NETWORK, w=jnp.float32(W), null=NULL, weak=WEAK
    )
    same(made, PYTHON[name, knobs]())


def test_every_method_is_named_above():
    assert {name for name, _ in PYTHON} == set(guiding.METHODS)


def test_an_interval_goes_around_any_of_them():
    for name in ("classifier_free", "rescaled"):
        knobs = {"phi": 0.6} if name == "rescaled" else {}
        made = config(name, low=-1.0, high=2.0, clip="none", **knobs)
        plain = config(name, clip="none", **knobs)
        inside = guided(made, NETWORK, w=W, null=NULL)
        assert inside.breaks() == (-1.0, 2.0)
        same(inside, guided(plain, NETWORK, w=W, null=NULL), logsnr=0.0)
        same(inside, NETWORK, logsnr=3.0)


def test_data_are_kept_in_range_as_the_recipe_says():
    plain = guidance.classifier_free(NETWORK, w=W, null=NULL)
    level = -3.0  # where x̂ leaves [-1, 1]
    assert np.abs(read(plain, Z, jnp.float32(level), LABELS).x).max() > 2
    for clip, wanted in (
        ("none", plain),
        ("static", clipped(plain)),
        ("dynamic", dynamically_thresholded(plain, 0.8)),
    ):
        made = config("classifier_free", clip=clip, percentile=0.8)
        same(guided(made, NETWORK, w=W, null=NULL), wanted, logsnr=level)


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("nope", {}, "guidance.name must be one of classifier_free, negative"),
        ("rescaled", {}, "rescaled needs guidance.phi"),
        ("projected", {"phi": 0.3}, "guidance.phi belongs to rescaled; guidance.name is projected"),
        ("zero_star", {"space": "q"}, "guidance.space must be one of eps, x, v"),
        ("rescaled", {"phi": 1.5}, r"phi must lie in \[0, 1\], got 1.5"),
        ("projected", {"norm_threshold": -1.0}, "norm_threshold must lie in"),
        ("projected", {"eta": float("inf")}, "eta must be finite"),
        ("negative", {}, "negative needs guidance.cond"),
        (
            "negative",
            {"cond": 11},
            r"guidance.cond must lie in \[0, 9\], or be 10 for none; got 11",
        ),
        ("composed", {"conds": (3, -1)}, "guidance.conds must lie .* got -1"),
        ("composed", {"conds": (3, 4), "ws": (1.0,)}, "one weight for each; got 2 and 1"),
        ("composed", {"conds": ()}, "a label at least"),
        ("classifier_free", {"low": 2.0, "high": 2.0}, "low must be a plain number less than high"),
        ("classifier_free", {"low": float("nan")}, "low must be a plain number less than high"),
        ("classifier_free", {"clip": "hard"}, "sample.clip must be one of static, dynamic, none"),
        ("classifier_free", {"percentile": 1.5}, r"sample.percentile must lie in \[0, 1\]"),
        ("autoguidance", {"weak": "runs/other"}, "with a weaker one beside it"),
    ],
)
def test_mistakes_are_refused(name, knobs, message):
    with pytest.raises(ValueError, match=message):
        guided(config(name, **knobs), NETWORK, w=W, null=NULL)


def test_an_unconditional_network_is_not_guided():
    def unconditional(z, logsnr, cond):
        return 0.5 * z

    same(guided(config("classifier_free"), unconditional, w=W, null=None), clipped(unconditional))
    for name, knobs, told in (
        ("zero_star", {}, "zero_star"),
        ("negative", {"cond": 3}, "negative, cond=3"),
        ("classifier_free", {"low": 0.0}, "classifier_free, low=0.0"),
    ):
        with pytest.raises(ValueError, match=f"unconditional network cannot be guided by {told}"):
            guided(config(name, **knobs), unconditional, w=W, null=None)


def test_autoguidance_needs_no_labels():
    def good(z, logsnr, cond):
        return 0.5 * z

    def bad(z, logsnr, cond):
        return 0.25 * z

    made = config("autoguidance", weak="elsewhere", clip="none")
    same(guided(made, good, w=W, null=None, weak=bad), guidance.autoguidance(good, bad, w=W))


def test_each_example_may_have_a_strength_of_its_own():
    ws = np.array([0.0, 1.0, 3.0])
    for name, knobs in PYTHON:
        made = config(name, clip="none", **dict(knobs))
        every = read(guided(made, NETWORK, w=ws, null=NULL, weak=WEAK), Z, 0.3, LABELS)
        for i, w in enumerate(ws):
            one = read(guided(made, NETWORK, w=w, null=NULL, weak=WEAK), Z, 0.3, LABELS)
            np.testing.assert_allclose(every.eps[i], one.eps[i], rtol=1e-5, atol=1e-6)


def test_a_description_names_what_was_set():
    assert guiding.describe(config("classifier_free")) == "classifier_free"
    made = config("rescaled", phi=0.7, low=-2.0)
    assert guiding.describe(made) == "rescaled, phi=0.7, low=-2.0"


def test_how_a_run_is_guided_may_change_and_is_read_back():
    made = config("composed", conds=(3, 5), ws=(1.0, 0.5), low=-1.0)
    again = recipe.unflatten(recipe.flatten(made))
    assert recipe.flatten(again) == recipe.flatten(made)
    assert again.guidance.conds == (3, 5)
    assert recipe.differences(recipe.default(), made) == []
