"""A loaded run: its denoiser and sampler against the pieces put together by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny

import cfg_jax
from cfg_jax import guidance, schedules, solvers
from cfg_jax.runtime.mesh import device_mesh
from cfg_jax.training import config as recipe
from cfg_jax.training.loop import train

KEY = jax.random.key(0)
Z = jax.random.normal(KEY, (2, 8, 8, 1))


@pytest.fixture(scope="module")
def run(trained):
    return cfg_jax.load(str(trained))


def test_it_knows_its_recipe_and_data(run):
    assert run.config == tiny()
    assert (run.shape, run.null, run.step) == ((8, 8, 1), 10, 6)
    assert run.class_names == tuple("0123456789")
    assert run.schedule == schedules.Cosine()


def test_sample_is_the_pieces_put_together(run):
    labels = jnp.array([3, 1])
    network = recipe.network(tiny(), 10)
    eps = jax.tree_util.Partial(network.apply, run.params)
    guided = cfg_jax.denoiser.clipped(guidance.classifier_free(eps, w=0.7, null=10))
    want = cfg_jax.sample(
        guided,
        KEY,
        labels,
        shape=(8, 8, 1),
        schedule=schedules.Cosine(),
        steps=3,
        solver=solvers.DDIM(),
    )
    got = run.sample(KEY, labels, w=0.7, steps=3, solver=solvers.DDIM())
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(got).max() <= 1.0


def test_a_recipe_that_names_no_guidance_means_the_classifier_free_one(run):
    """The very same program: nothing around it, no bit of an image changed."""
    want = cfg_jax.denoiser.clipped(guidance.classifier_free(run.denoiser, w=0.7, null=10))
    assert jax.tree.structure(run.guided(0.7)) == jax.tree.structure(want)
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), run.guided(0.7), want)
    assert all(jax.tree.leaves(same))


def test_what_is_not_said_is_the_recipes(run):
    sampling = tiny().sample
    got = run.sample(KEY, [4, 4])
    want = run.sample(
        KEY, [4, 4], w=sampling.w, steps=sampling.steps, solver=solvers.Ancestral(v=sampling.v)
    )
    np.testing.assert_array_equal(got, want)


def test_an_earlier_checkpoint_can_be_asked_for(trained, run):
    earlier = cfg_jax.load(trained, step=3)
    assert earlier.step == 3
    first, last = (jax.tree.leaves(r.params)[0] for r in (earlier, run))
    assert np.abs(first - last).max() > 0


@pytest.mark.parametrize("labels", [[11], [-1], [0, 99]])
def test_labels_out_of_range_are_refused(run, labels):
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, 9\].*got {labels[-1]}"):
        run.sample(KEY, labels)


def test_runs_that_are_not_there_are_refused(tmp_path, trained):
    with pytest.raises(ValueError, match="there is no work directory"):
        cfg_jax.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no run"):
        cfg_jax.load(tmp_path)
    with pytest.raises(ValueError, match="no checkpoint of step 5"):
        cfg_jax.load(trained, step=5)
    (tmp_path / "config.json").write_text((trained / "config.json").read_text())
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        cfg_jax.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json cannot be read"):
        cfg_jax.load(tmp_path)


def test_the_default_solver_can_be_asked_for(run):
    labels = jnp.array([1, 2])
    config = run.config.copy_and_resolve_references()
    config.sample.solver = "default"
    got = dataclasses.replace(run, config=config).sample(KEY, labels, steps=4)
    want = cfg_jax.sample(
        run.guided(tiny().sample.w), KEY, labels, shape=run.shape, schedule=run.schedule, steps=4
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run with averages of two decays and two widths, and eight checkpoints."""
    config, workdir = tiny(), tmp_path_factory.mktemp("averaged") / "run"
    config.train.steps, config.train.checkpoint_every, config.train.keep = 40, 5, 100
    config.train.ema, config.train.ema_widths = (0.9, 0.5), (0.05, 0.1)
    train(config, workdir)
    return workdir


def flat(run):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(run.params)])


def test_averages_are_told_apart_by_their_decay_or_width(averaged):
    first = flat(cfg_jax.load(averaged))
    np.testing.assert_array_equal(flat(cfg_jax.load(averaged, ema=0.9)), first)
    others = [flat(cfg_jax.load(averaged, ema=ema)) for ema in (0.5, 0.05, 0.1)]
    for i, other in enumerate([first, *others]):
        assert all(not np.array_equal(other, another) for another in others[i:])


def test_an_average_of_another_width_is_made_after_training(averaged):
    """Of nearly a kept width it is nearly that average, and one between them lies between."""
    short, long = (flat(cfg_jax.load(averaged, ema=width)) for width in (0.05, 0.1))
    near, between = (flat(cfg_jax.load(averaged, ema=width)) for width in (0.0501, 0.07))
    apart = np.linalg.norm(long - short)
    assert 0 < np.linalg.norm(near - short) < 0.02 * apart
    share = (between - short) @ (long - short) / apart**2
    assert 0.2 < share < 0.8
    assert np.linalg.norm(between - short - share * (long - short)) < 0.2 * apart


def test_an_average_that_cannot_be_had_is_refused(averaged, trained):
    with pytest.raises(ValueError, match=r"no average 0.4; there are 0.9, 0.5, 0.05, 0.1, and any"):
        cfg_jax.load(averaged, ema=0.4)
    with pytest.raises(ValueError, match=r"no average 0.1; there are 0.9999"):
        cfg_jax.load(trained, ema=0.1)


def test_autoguidance_takes_an_earlier_checkpoint(trained):
    run, earlier = cfg_jax.load(trained), cfg_jax.load(trained, step=3)
    run.config.guidance.name, run.config.guidance.weak = "autoguidance", ":3"
    labels = jnp.array([3, 1])
    auto = guidance.autoguidance(run.denoiser, earlier.denoiser, w=1.0)
    want = cfg_jax.denoiser.read(cfg_jax.denoiser.clipped(auto), Z, jnp.float32(0.0), labels)
    got = cfg_jax.denoiser.read(run.guided(1.0), Z, jnp.float32(0.0), labels)
    np.testing.assert_allclose(got.x, want.x, rtol=1e-4, atol=1e-4)
    run.config.guidance.weak = f"{trained}:5"
    with pytest.raises(ValueError, match="no checkpoint of step 5"):
        run.guided(1.0)


def test_labels_that_the_recipe_names_are_those_of_every_example(run):
    """Through the sampler, on a mesh, with a strength for each example."""
    labels, ws = jnp.array([3, 1, 7]), np.array([0.5, 1.0, 2.0])
    everywhere = device_mesh(devices=jax.local_devices())
    for knobs, made in (
        (
            {"name": "composed", "conds": (2, 5), "ws": (1.0, -0.5)},
            guidance.composed(
                run.denoiser,
                conds=[jnp.full(3, 2), jnp.full(3, 5)],
                ws=[ws, -0.5 * ws],
                null=10,
            ),
        ),
        (
            {"name": "negative", "cond": 4},
            guidance.negative(run.denoiser, w=ws, cond=jnp.full(3, 4)),
        ),
    ):
        config = run.config.copy_and_resolve_references()
        config.guidance.update(knobs)
        config.sample.solver, config.sample.clip = "ddim", "none"
        got = dataclasses.replace(run, config=config).sample(
            KEY, labels, w=ws, steps=2, mesh=everywhere
        )
        want = cfg_jax.sample(
            made,
            KEY,
            labels,
            shape=run.shape,
            schedule=run.schedule,
            solver=solvers.DDIM(),
            steps=2,
        )
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


@pytest.fixture(scope="module")
def log_prob(noisy):
    return cfg_jax.load_noisy_classifier(noisy).log_prob


LABELS = jnp.array([3, 1, 7])
FEW = {"steps": 3, "solver": solvers.DDIM()}


@pytest.mark.parametrize("w", [None, -1.0, 0.7])
def test_a_classifier_guides_what_w_makes(run, log_prob, w):
    base = run.denoiser if w is None else guidance.unconditional(run.denoiser, null=10)
    if w == 0.7:
        base = guidance.classifier_free(run.denoiser, w=0.7, null=10)
    want = cfg_jax.sample(
        cfg_jax.denoiser.clipped(guidance.classifier(base, log_prob, w=2.0)),
        KEY,
        LABELS,
        shape=run.shape,
        schedule=run.schedule,
        **FEW,
    )
    got = run.sample(KEY, LABELS, w=w, classifier=log_prob, classifier_scale=2.0, **FEW)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(got - run.sample(KEY, LABELS, w=w or 0.0, **FEW)).max() > 1e-3
    if w == -1.0:  # an array is no plain number: both halves, and the same images
        both = run.sample(
            KEY, LABELS, w=jnp.asarray(w), classifier=log_prob, classifier_scale=2.0, **FEW
        )
        np.testing.assert_allclose(both, got, atol=1e-4)


@pytest.mark.parametrize(("w", "halves"), [(0.0, 1), (-1.0, 1), (0.3, 2)])
def test_beside_a_classifier_no_half_is_evaluated_for_nothing(run, log_prob, w, halves):
    sizes = []

    def watching(z, logsnr, cond):
        sizes.append(len(z))
        return z

    def is_network(node):
        return isinstance(node, jax.tree_util.Partial)

    held = jax.tree.map(
        lambda node: jax.tree_util.Partial(watching) if is_network(node) else node,
        run.guided(w, classifier=log_prob),
        is_leaf=is_network,
    )
    held(jnp.zeros((3, 8, 8, 1)), 0.0, LABELS)
    assert sizes == [3 * halves]


def test_the_classifier_may_shift_the_mean_of_ancestral_instead(run, log_prob):
    shifted = solvers.Ancestral(v=0.3, shift=guidance.ascent(log_prob, w=2.0))
    want = run.sample(KEY, LABELS, w=0.0, steps=3, solver=shifted)
    got = run.sample(
        KEY,
        LABELS,
        classifier=log_prob,
        classifier_scale=2.0,
        classifier_form="mean",
        steps=3,
        solver=solvers.Ancestral(v=0.3),
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_within_bounds_the_classifier_is_limited_too(run, log_prob):
    limited = dataclasses.replace(run, config=tiny())
    limited.config.guidance.low = 25.0  # no λ of the schedule is above
    got = limited.sample(KEY, LABELS, w=0.7, classifier=log_prob, **FEW)
    np.testing.assert_allclose(got, run.sample(KEY, LABELS, w=0.0, **FEW), atol=1e-5)


def test_a_classifier_guides_an_unconditional_network(run, log_prob):
    network = dataclasses.replace(run.network, num_classes=0)
    params = network.init(KEY, Z, 0.0, None)
    alone = dataclasses.replace(run, network=network, params=params, class_names=())
    got = alone.sample(KEY, LABELS, classifier=log_prob, classifier_scale=3.0, **FEW)
    eps = jax.tree_util.Partial(network.apply, params)
    guided = guidance.classifier(guidance.unconditional(eps, null=None), log_prob, w=3.0)
    there = {"shape": run.shape, "schedule": run.schedule}
    want = cfg_jax.sample(cfg_jax.denoiser.clipped(guided), KEY, LABELS, **there, **FEW)
    np.testing.assert_allclose(got, want, atol=1e-5)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 9\]; got 10"):
        alone.sample(KEY, [10], classifier=log_prob)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [10]}, r"labels must lie in \[0, 9\]; got 10"),
        ({"classifier_form": "both"}, "classifier_form must be one of eps, mean; got 'both'"),
        ({"classifier_form": "mean", "solver": solvers.DDIM()}, "no other solver's"),
        ({"classifier_scale": float("nan")}, "must be finite"),
        ({"labels": None, "batch": 2}, "guides towards labels"),
    ],
)
def test_what_a_classifier_cannot_guide_is_refused(run, log_prob, options, message):
    with pytest.raises(ValueError, match=message):
        run.sample(KEY, **({"labels": [3], "classifier": log_prob} | options))


def test_a_classifier_of_other_images_or_classes_is_refused(run, noisy):
    held = cfg_jax.load_noisy_classifier(noisy)
    with pytest.raises(ValueError, match="is of images of"):
        run.check_classifier(dataclasses.replace(held, shape=(4, 4, 1)), "eps")
    fewer = dataclasses.replace(held, network=dataclasses.replace(held.network, num_classes=3))
    with pytest.raises(ValueError, match="the classifier has 3 classes"):
        run.check_classifier(fewer, "eps")
