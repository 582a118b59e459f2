"""A loaded run: its denoiser and sampler against the pieces put together by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny

import cfg_jax
from cfg_jax import guidance, schedules, solvers
from cfg_jax.training import config as recipe

KEY = jax.random.key(0)


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
