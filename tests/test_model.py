"""A model in memory: its denoiser and sampler against the pieces put together by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny

import cfg_jax
from cfg_jax import beside, guidance, schedules, solvers
from cfg_jax.diffusion import prediction
from cfg_jax.diffusion.denoiser import FromPrediction, from_prediction
from cfg_jax.guidance.methods import ClassifierFree, Composed, Negative
from cfg_jax.networks.applied import Applied
from cfg_jax.parts import Prediction
from cfg_jax.runtime.mesh import device_mesh
from cfg_jax.sampling.clips import Off

KEY = jax.random.key(0)
Z = jax.random.normal(KEY, (2, 8, 8, 1))
LABELS = jnp.array([3, 1, 7])
FEW = {"steps": 3, "solver": solvers.DDIM()}
THERE = {"shape": (8, 8, 1), "schedule": schedules.Cosine()}


@pytest.fixture(scope="module")
def run(trained):
    return cfg_jax.load(str(trained))


@pytest.fixture(scope="module")
def classifier(noisy):
    return cfg_jax.load(noisy)


def of(label):
    return {"label": jnp.asarray(label)}


def free(denoiser, w, null=10):
    return guidance.classifier_free(denoiser, w=w, null={"label": null})


def pieces(guided, label=LABELS, **options):
    """Samples of the same denoiser, clipped, without a model."""
    clipped = cfg_jax.denoiser.clipped(guided)
    return cfg_jax.sample(clipped, KEY, of(label), **(THERE | FEW | options))


@pytest.fixture(scope="module")
def plain(run):
    """Three digits at w = 0.7."""
    return run.sample(KEY, LABELS, w=0.7, **FEW)


def test_sample_is_the_pieces_put_together(run, plain):
    network, params = run.network, run.params

    @jax.tree_util.Partial
    def eps(z, logsnr, cond):
        return network.apply(params, z, jnp.broadcast_to(logsnr, z.shape[:1]), cond)

    np.testing.assert_allclose(plain, pieces(free(eps, 0.7)), atol=1e-5)
    assert np.abs(plain).max() <= 1.0


def test_a_recipe_that_names_no_guidance_means_the_classifier_free_one(run):
    """The very same program: nothing around it, no bit of an image changed."""
    want = cfg_jax.denoiser.clipped(free(run.denoiser, 0.7))
    assert jax.tree.structure(run.guided(0.7)) == jax.tree.structure(want)
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), run.guided(0.7), want)
    assert all(jax.tree.leaves(same))


def test_what_is_not_said_is_the_recipes_and_else_the_samplers(run):
    """Two steps at w = 0.5, of the solver and grid that `cfg_jax.sample` has by default."""
    got = run.sample(KEY, [4, 4])
    clipped = cfg_jax.denoiser.clipped(free(run.denoiser, tiny().sample.w))
    want = cfg_jax.sample(clipped, KEY, of([4, 4]), steps=tiny().sample.steps, **THERE)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_entries_are_given_by_name_or_where_there_is_one_without(run, plain):
    for arguments in ({"label": LABELS}, {"cond": {"label": [3, 1, 7]}}, {"cond": list("317")}):
        np.testing.assert_array_equal(run.sample(KEY, w=0.7, **arguments, **FEW), plain)
    np.testing.assert_array_equal(run.condition([3, 1])["label"], [3, 1])
    np.testing.assert_array_equal(run.condition(label=["3", "1"])["label"], [3, 1])


def test_examples_keep_their_noise_in_any_batch(run, plain):
    last = run.sample(KEY, LABELS[2:], w=0.7, offset=2, **FEW)
    np.testing.assert_allclose(last, plain[2:], atol=1e-5)


def test_a_mesh_draws_the_same(run, plain):
    everywhere = device_mesh(devices=jax.local_devices())
    np.testing.assert_allclose(
        run.sample(KEY, LABELS, w=0.7, mesh=everywhere, **FEW), plain, atol=1e-5
    )


def test_each_example_may_have_a_strength_of_its_own(run, plain):
    for ws in ([0.7, 0.0, 2.0], (0.7, 0.0, 2.0), np.array([0.7, 0.0, 2.0]), jnp.array([0.7, 0, 2])):
        got = run.sample(KEY, LABELS, w=ws, **FEW)
        np.testing.assert_allclose(got[0], plain[0], atol=1e-5)
    want = pieces(free(run.denoiser, np.array([0.7, 0.0, 2.0])))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_noise_to_start_from(run):
    z = 0.5 * Z
    want = pieces(free(run.denoiser, 0.7), label=[3, 1], z=z)
    np.testing.assert_allclose(run.sample(KEY, [3, 1], w=0.7, z=z, **FEW), want, atol=1e-5)


def test_a_negative_condition_of_all_or_of_each(run):
    for negative, null in (([4], 4), ([4, 5, 6], np.array([4, 5, 6]))):
        got = run.sample(KEY, LABELS, w=0.7, negative={"label": negative}, **FEW)
        if np.ndim(null):
            made = guidance.negative(run.denoiser, w=0.7, cond=of(null))
        else:
            made = free(run.denoiser, 0.7, null=null)
        np.testing.assert_allclose(got, pieces(made), atol=1e-5)
    with pytest.raises(ValueError, match=r"label must lie in .*; got 99"):
        run.sample(KEY, LABELS, negative={"label": [99]}, **FEW)
    with pytest.raises(ValueError, match="the model takes label; got text"):
        run.sample(KEY, LABELS, negative={"text": ["x"]}, **FEW)
    with pytest.raises(ValueError, match=r"batch has 3 examples, .* negative condition, is for 2"):
        run.sample(KEY, LABELS, negative={"label": [1, 2]}, **FEW)


def test_any_guidance_may_take_the_place_of_the_models(run, plain):
    def guide(denoiser, null):
        return guidance.classifier_free(denoiser, w=0.7, null=null)

    np.testing.assert_array_equal(run.sample(KEY, LABELS, w=9.0, guide=guide, **FEW), plain)


def test_every_step_is_told(run, plain):
    told = []
    got = run.sample(
        KEY, LABELS, w=0.7, on_step=lambda *step: told.append(step), steps=3, solver="ddim"
    )
    jax.effects_barrier()
    np.testing.assert_allclose(got, plain, atol=1e-5)
    told.sort(key=lambda step: float(step[0]))
    levels = cfg_jax.grids.Secant()(schedules.Cosine(), 3)
    np.testing.assert_allclose([float(level) for level, _ in told], levels[1:], rtol=1e-5)
    np.testing.assert_allclose(told[-1][1], plain, atol=1e-5)
    assert all(z.shape == (3, 8, 8, 1) for _, z in told)


def test_z_is_returned_where_it_is_asked_for(run, plain):
    np.testing.assert_array_equal(run.sample(KEY, LABELS, w=0.7, decode=False, **FEW), plain)


def test_other_sizes(run):
    got = run.sample(KEY, LABELS, w=0.7, size=(4, 12), **FEW)
    want = pieces(free(run.denoiser, 0.7), shape=(4, 12, 1))
    np.testing.assert_allclose(got, want, atol=1e-5)
    with pytest.raises(ValueError, match=r"size must have 2 sides, got \(4,\)"):
        run.sample(KEY, LABELS, size=(4,))


def test_solvers_and_grids_by_name_and_levels_as_an_array(run, plain):
    np.testing.assert_array_equal(run.sample(KEY, LABELS, w=0.7, steps=3, solver="ddim"), plain)
    karras = run.sample(KEY, LABELS, w=0.7, grid="karras", **FEW)
    want = pieces(free(run.denoiser, 0.7), grid=cfg_jax.grids.Karras())
    np.testing.assert_allclose(karras, want, atol=1e-5)
    levels = jnp.asarray(cfg_jax.grids.Karras()(schedules.Cosine(), 3))
    got = run.sample(KEY, LABELS, w=0.7, solver="ddim", grid=levels)
    np.testing.assert_allclose(got, karras, atol=1e-4)


def test_the_kinds_of_whole_numbers(run, plain):
    for steps in (np.int64(3), jnp.int32(3)):
        got = run.sample(KEY, LABELS, w=0.7, steps=steps, solver=solvers.DDIM())
        np.testing.assert_array_equal(got, plain)
    np.testing.assert_array_equal(run.sample(KEY, LABELS, w=np.float64(0.7), **FEW), plain)


def test_labels_that_the_recipe_names_are_those_of_every_example(run):
    """Through the sampler, on a mesh, with a strength for each example."""
    ws = np.array([0.5, 1.0, 2.0])
    everywhere = device_mesh(devices=jax.local_devices())
    every = {"label": jnp.full(3, 2)}, {"label": jnp.full(3, 5)}
    for method, made in (
        (
            Composed(conds=({"label": 2}, 5), ws=(1.0, -0.5)),
            guidance.composed(run.denoiser, conds=list(every), ws=[ws, -0.5 * ws], null=run.null),
        ),
        (
            Negative(cond="4"),
            guidance.negative(run.denoiser, w=ws, cond={"label": jnp.full(3, 4)}),
        ),
    ):
        sampling = run.sampling._replace(guidance=method, clip=Off(), solver=solvers.DDIM())
        changed = dataclasses.replace(run, sampling=sampling)
        got = changed.sample(KEY, LABELS, w=ws, steps=2, mesh=everywhere)
        want = cfg_jax.sample(made, KEY, of(LABELS), **THERE, solver=solvers.DDIM(), steps=2)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


def a_network(z, logsnr, cond):
    """Something of z, its level and its condition."""
    return 0.3 * z + 0.1 * logsnr[:, None, None, None] + 0.01 * cond["label"][:, None, None, None]


class Says:
    """A network of one's own, which Flax knows nothing of."""

    takes = ("label",)

    def __init__(self, v=None):
        self.v = v

    def apply(self, params, z, logsnr, cond):
        assert set(cond) == {"label"}
        value = params * a_network(z, logsnr, cond)
        return value if self.v is None else Prediction(value, jnp.full_like(z, self.v))


@pytest.mark.parametrize("v", [None, 0.3])
@pytest.mark.parametrize("kind", ["eps", "x", "v", "flow", "edm"])
def test_a_denoiser_asks_its_network_once_whatever_it_predicts(kind, v):
    """In float64 by the two equations z = α x + σ ε and p = a x + b ε."""
    asked = Applied(Says(v), jnp.float32(0.9))
    made = from_prediction(asked, prediction.KINDS[kind])
    cond = {"label": jnp.array([3, 1]), "other": jnp.zeros(2)}
    found = cfg_jax.denoiser.read(made, Z, jnp.float32(0.7), cond)
    z = np.asarray(Z, np.float64)
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-0.7))), np.sqrt(1 / (1 + np.exp(0.7)))
    root = np.sqrt(sigma**2 + 0.25 * alpha**2)
    scale = {"flow": 1 / (alpha + sigma), "edm": 1 / root}.get(kind, 1.0)
    level, label = np.full(2, 0.7), np.array([3.0, 1.0])
    said = 0.9 * a_network(scale * z, level, {"label": label})
    a, b = {
        "eps": (0.0, 1.0),
        "x": (1.0, 0.0),
        "v": (-sigma, alpha),
        "flow": (-1.0, 1.0),
        "edm": (sigma / (0.5 * root), -alpha * 0.5 / root),
    }[kind]
    want = np.linalg.solve([[alpha, sigma], [a, b]], np.stack([z.ravel(), said.ravel()]))
    np.testing.assert_allclose(np.ravel(found.x), want[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.ravel(found.eps), want[1], rtol=1e-4, atol=1e-5)
    assert found.v is None if v is None else np.all(found.v == jnp.float32(v))


def test_a_model_is_a_pytree_of_its_parameters(run):
    leaves = jax.tree.leaves(run)
    assert len(leaves) == len(jax.tree.leaves(run.params))
    zeros = jax.tree.map(jnp.zeros_like, run)
    assert zeros.network == run.network
    eps = jax.jit(lambda model: model.denoiser(Z, 0.3, of([3, 1])))(zeros)
    np.testing.assert_array_equal(eps, np.zeros_like(Z))


# Classifiers.


@pytest.mark.parametrize("w", [None, -1.0, 0.7])
@pytest.mark.slow
def test_a_classifier_guides_what_w_makes(run, classifier, w):
    log_prob = classifier.log_prob
    base = run.denoiser if w is None else guidance.unconditional(run.denoiser, null=run.null)
    if w == 0.7:
        base = free(run.denoiser, 0.7)
    want = pieces(guidance.classifier(base, log_prob, w=2.0))
    got = run.sample(KEY, LABELS, w=w, classifier=classifier, classifier_scale=2.0, **FEW)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(got - run.sample(KEY, LABELS, w=w or 0.0, **FEW)).max() > 1e-3
    if w == -1.0:  # an array is no plain number: both halves, and the same images
        both = run.sample(
            KEY, LABELS, w=jnp.asarray(w), classifier=log_prob, classifier_scale=2.0, **FEW
        )
        np.testing.assert_allclose(both, got, atol=1e-4)


@pytest.mark.parametrize(("w", "halves"), [(0.0, 1), (-1.0, 1), (0.3, 2)])
@pytest.mark.slow
def test_beside_a_classifier_no_half_is_evaluated_for_nothing(run, classifier, w, halves):
    sizes = []

    def watching(z, logsnr, cond):
        sizes.append(len(z))
        return z

    def is_network(node):
        return isinstance(node, FromPrediction)

    held = jax.tree.map(
        lambda node: jax.tree_util.Partial(watching) if is_network(node) else node,
        run.guided(w, classifier=classifier),
        is_leaf=is_network,
    )
    held(jnp.zeros((3, 8, 8, 1)), 0.0, of(LABELS))
    assert sizes == [3 * halves]


def test_the_classifier_may_shift_the_mean_of_ancestral_instead(run, classifier):
    shifted = solvers.Ancestral(v=0.3, shift=guidance.ascent(classifier.log_prob, w=2.0))
    want = run.sample(KEY, LABELS, w=0.0, steps=3, solver=shifted)
    got = run.sample(
        KEY,
        LABELS,
        classifier=classifier,
        classifier_scale=2.0,
        classifier_form="mean",
        steps=3,
        solver=solvers.Ancestral(v=0.3),
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_within_bounds_the_classifier_is_limited_too(run, classifier):
    never = run.sampling._replace(
        guidance=ClassifierFree(low=25.0)
    )  # no λ of the schedule is above
    limited = dataclasses.replace(run, sampling=never)
    got = limited.sample(KEY, LABELS, w=0.7, classifier=classifier, **FEW)
    np.testing.assert_allclose(got, run.sample(KEY, LABELS, w=0.0, **FEW), atol=1e-5)
    with pytest.raises(ValueError, match="do not limit classifier_form mean"):
        limited.sample(
            KEY, LABELS, classifier=classifier, classifier_form="mean", steps=3, solver="ancestral"
        )


@pytest.mark.slow
def test_a_classifier_guides_an_unconditional_network(run, classifier):
    network = dataclasses.replace(run.network, inlets=())
    params = network.init(KEY, Z, jnp.zeros(2), {})
    alone = dataclasses.replace(
        run,
        network=network,
        params=params,
        conditioners=(),
        facts=run.facts._replace(class_names=()),
    )
    got = alone.sample(KEY, LABELS, classifier=classifier, classifier_scale=3.0, **FEW)
    by_label = alone.sample(
        KEY, classifier=classifier.log_prob, label=LABELS, classifier_scale=3.0, **FEW
    )
    np.testing.assert_allclose(by_label, got, atol=1e-5)

    @jax.tree_util.Partial
    def eps(z, logsnr, cond):
        return network.apply(params, z, jnp.broadcast_to(logsnr, z.shape[:1]), {})

    want = pieces(guidance.classifier(eps, classifier.log_prob, w=3.0))
    np.testing.assert_allclose(got, want, atol=1e-5)
    with pytest.raises(ValueError, match="w must be 0, got 1"):
        alone.sample(KEY, LABELS, w=1, classifier=classifier)
    for label in (10, 11):
        with pytest.raises(ValueError, match=rf"label must lie in \[0, 9\].*; got {label}"):
            alone.sample(KEY, [label], classifier=classifier)
    with pytest.raises(ValueError, match="the model needs label=…, one an example"):
        alone.sample(KEY, classifier=classifier)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": [11]}, r"label must lie in \[0, 9\].*; got 11"),
        ({"label": [3, 10]}, r"label must lie in \[0, 9\] beside a classifier; got 10"),
        ({"classifier_form": "both"}, "classifier_form must be one of eps, mean; got 'both'"),
        ({"classifier_form": "mean", "solver": solvers.DDIM()}, "no other solver's"),
        ({"classifier_form": "mean"}, "no other solver's"),
        ({"classifier_scale": float("nan")}, "must be finite"),
        ({"label": None, "batch": 2}, "the model needs label=…, one an example"),
    ],
)
def test_what_a_classifier_cannot_guide_is_refused(run, classifier, options, message):
    with pytest.raises(ValueError, match=message):
        run.sample(KEY, **({"label": [3], "classifier": classifier} | options))


@pytest.mark.parametrize(
    "options", [{"classifier_scale": 5.0}, {"classifier_scale": 1.0}, {"classifier_form": "mean"}]
)
def test_what_is_a_classifiers_needs_one(run, options):
    for asked in (lambda: run.sample(KEY, LABELS, **options), lambda: run.guided(**options)):
        with pytest.raises(ValueError, match=f"{next(iter(options))} needs a classifier beside it"):
            asked()
    with pytest.raises(ValueError, match="classifier_form must be one of eps, mean; got 'both'"):
        run.guided(classifier_form="both")


def test_a_classifier_of_other_images_or_classes_is_refused(run, classifier):
    small = dataclasses.replace(classifier, facts=classifier.facts._replace(shape=(4, 4, 1)))
    with pytest.raises(ValueError, match=r"is of z of \(4, 4, 1\)"):
        beside.check(run, small)
    ((name, label),) = classifier.conditioners
    fewer = dataclasses.replace(label, num_classes=3, class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="the classifier has 3 classes, not 10"):
        beside.check(run, dataclasses.replace(classifier, conditioners=((name, fewer),)))
    with pytest.raises(ValueError, match="a classifier of kind cannot guide a model of label"):
        beside.check(run, dataclasses.replace(classifier, conditioners=(("kind", label),)))
    beside.check(run, classifier)


# Natural mistakes: one sentence each that says what is wanted.


@pytest.mark.parametrize(
    ("arguments", "error", "line"),
    [
        (
            {"cond": 3},
            ValueError,
            r"label must be \(batch,\) labels, one an example, got shape \(\)",
        ),
        ({"cond": ["cat"]}, ValueError, "there is no class 'cat'; there are 0, 1, 2"),
        (
            {"cond": jnp.eye(10)},
            ValueError,
            r"label must be \(batch,\) labels, .* shape \(10, 10\)",
        ),
        (
            {"cond": []},
            ValueError,
            r"label must be \(batch,\) labels, one an example, got shape \(0,",
        ),
        ({"cond": [3.7]}, ValueError, r"label must be integers in \[0, 9\], .*; got float64"),
        ({"cond": [11]}, ValueError, r"label must lie in \[0, 9\], or be 10 for none; got 11"),
        ({"cond": [-1]}, ValueError, "label must lie in .*; got -1"),
        ({"cond": None}, ValueError, "the model needs label=…, one an example"),
        ({"labels": [3]}, ValueError, "the model takes label; got labels"),
        ({"w": "4"}, (ValueError, TypeError), "w must be a number .*'4'"),
        ({"w": float("nan")}, ValueError, "w must be finite"),
        ({"w": [1.0, 2.0]}, ValueError, "the batch has 3 examples, .* such as w .* for 2"),
        ({"solver": "ddjm"}, ValueError, "solver must be one of .* got 'ddjm'; did you mean DDIM"),
        ({"solver": solvers.DDIM}, TypeError, "solver must be one of .* got the class DDIM"),
        ({"grid": "caras"}, ValueError, "grid must be one of .* got 'caras'; did you mean Karras"),
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, ValueError, "steps must be a whole number of at least 1, got 2.5"),
        ({"batch": 2}, ValueError, "disagree on the number of examples: .*'cond': 3, 'batch': 2"),
        ({"offset": -1}, ValueError, "offset must be a whole number from 0 to 2147483645, got -1"),
        (
            {"z": jnp.zeros((3, 4, 4, 1))},
            ValueError,
            r"z must have shape \(3, 8, 8, 1\), of floats",
        ),
        ({"key": 0}, TypeError, "key must be a JAX random key, such as jax.random.key.0., got 0"),
        ({"offset": 2**40}, ValueError, "offset must be a whole number from 0 to 2147483645"),
        ({"cond": [[1], [2, 3]]}, ValueError, r"label must be an array, got \[\[1\], \[2, 3\]\]"),
        ({"w": [[1.0], [2.0, 3.0]]}, ValueError, r"w must be numbers, got \[\[1.0\]"),
        ({"mesh": 3}, TypeError, "mesh must be a mesh of devices, such as .*, got 3"),
        ({"size": 8}, TypeError, r"size must be one example's, such as \(8, 8\), got 8"),
        ({"size": (8, 8.5)}, ValueError, "size's entries must be a whole number"),
        ({"size": (10**6, 10**6)}, ValueError, "size must be of at most 2³¹ numbers"),
        ({"cond": {"label": [0]}, "label": [0]}, ValueError, "label is given twice"),
        ({"negative": 3}, TypeError, "negative must be a dictionary of a condition's entries"),
        (
            {"guide": 3},
            TypeError,
            r"guide must be a callable \(denoiser, null\) -> denoiser, got 3",
        ),
        ({"guide": lambda d, null: None}, TypeError, "what guide returns must be a callable"),
        ({"classifier": 3}, TypeError, "classifier must be a callable .*, got 3"),
        ({"decode": "no"}, ValueError, "decode must be True or False, got 'no'"),
        ({"z": "x"}, ValueError, "z must be an array of numbers, got 'x'"),
        ({"cond": [["0", "1"], ["2", "3"]]}, ValueError, r"label must be \(batch,\) .* \(2, 2\)"),
        ({"on_step": 3}, TypeError, r"on_step must be a callable \(logsnr, z\) -> None, got 3"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(run, monkeypatch, arguments, error, line):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    given = {"key": KEY, "cond": [0, 1, 2], "steps": 3} | arguments
    if "labels" in arguments:
        del given["cond"]
    with pytest.raises(error, match=line) as caught:
        run.sample(**given)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cond", [LABELS, None, {}, {"kind": LABELS}])
def test_a_denoiser_whose_condition_is_no_dictionary_of_its_entries_says_so(run, cond):
    with pytest.raises(ValueError, match="cond must be a dictionary of entries by name, label"):
        run.denoiser(jnp.zeros((3, 8, 8, 1)), 0.0, cond)


def test_arrays_that_do_not_fit_the_network_are_refused(run, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    cond = {"label": jnp.asarray(LABELS)}
    with pytest.raises(ValueError, match=r"parameters are not for z of shape \(3, 8, 8, 3\)"):
        run.denoiser(jnp.zeros((3, 8, 8, 3)), 0.0, cond)
    with pytest.raises(ValueError, match=r"logsnr must be a scalar or of shape \(3,\), .* \(2,\)"):
        run.denoiser(jnp.zeros((3, 8, 8, 1)), jnp.zeros(2), cond)
    with pytest.raises(ValueError, match="z must be an array of numbers, got 'x'"):
        run.decode("x")
    with pytest.raises(ValueError, match="x must be an array of numbers, got None"):
        run.encode(None)


def test_samples_that_are_not_finite_are_refused(run):
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, run)
    with pytest.raises(
        ValueError, match="samples are not finite: w may be too large, or parameters"
    ):
        broken.sample(KEY, LABELS, w=0.7, **FEW)
