"""Labels that are attended to: a row of a table that is trained along, the null's among them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny

import cfg_jax
from cfg_jax import recipe
from cfg_jax.conditions import AttendedLabel
from cfg_jax.training.loop import train


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    config = tiny()
    config.condition.label = recipe.node(AttendedLabel, width=6, p_uncond=0.2)
    config.optimiser.learning_rate = 0.05
    place = tmp_path_factory.mktemp("attended") / "run"
    train(config, place)
    return place


@pytest.fixture(scope="module")
def run(workdir):
    return cfg_jax.load(workdir)


def table(run):
    return np.asarray(run.params["encoders"]["label"]["encoder"]["params"]["embedding"])


@pytest.mark.slow
def test_the_network_is_shown_the_row_of_its_label(run):
    assert table(run).shape == (11, 6)
    shown = run.condition(label=[3, 10, 0])["label"]
    np.testing.assert_array_equal(shown, table(run)[[3, 10, 0]][:, None])
    np.testing.assert_array_equal(run.null["label"], table(run)[[10]])


def test_the_first_rows_are_standard_normal():
    made = AttendedLabel(num_classes=999, width=64)
    first = made.encoder.init(jax.random.key(0), jnp.array([0]))["params"]["embedding"]
    assert first.shape == (1000, 64)
    assert float(first.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(first.std()) == pytest.approx(1.0, abs=0.02)


def test_its_rows_are_trained_the_nulls_too(workdir, run):
    earlier = table(cfg_jax.load(workdir, step=3))
    assert np.all(np.abs(table(run) - earlier).max(axis=1) > 1e-5)


def test_the_label_decides_what_is_sampled(run):
    one, two = (run.sample(jax.random.key(0), label=[n], w=1.0, steps=3) for n in (1, 2))
    assert np.abs(one - two).max() > 1e-4


def test_without_a_null_it_is_refused():
    with pytest.raises(ValueError, match="has_null must be True: an AttendedLabel has a vector"):
        AttendedLabel(has_null=False, p_uncond=0.0)
