"""What training begins with, against the run that it is taken from."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny

import cfg_jax
from cfg_jax.data import Digits
from cfg_jax.training import beginning as room
from cfg_jax.training.beginning import beginning
from cfg_jax.training.loop import train
from cfg_jax.training.program import build

pytestmark = pytest.mark.slow


def begun(init, **fields):
    """The first state of the tiny recipe, and of one that begins with nothing."""
    config = tiny()
    config.train.init = str(init)
    config.condition.label.update(fields)
    program = build(config, Digits().open("train").facts)
    return beginning(config, program), program.start()


def test_it_begins_with_the_average_of_another_run(trained, capsys):
    for init, step in ((trained, 6), (f"{trained}:3", 3)):
        state, random = begun(init)
        want = cfg_jax.load(trained, step=step).params
        for tree in (state.params, *state.ema):
            jax.tree.map(np.testing.assert_array_equal, tree, want)
        jax.tree.map(np.testing.assert_array_equal, state.opt_state, random.opt_state)
        assert (int(state.step), int(state.skipped)) == (0, 0)
        count = len(jax.tree.leaves(want))
        assert f"{count} of {count} arrays are those of Run(" in capsys.readouterr().out


def test_what_has_another_shape_begins_anew_and_is_said(trained, capsys):
    state, random = begun(trained, num_classes=12)
    want = cfg_jax.load(trained).params
    anew = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        of = dict(jax.tree_util.tree_leaves_with_path(want))[path]
        same = of.shape == leaf.shape
        own = dict(jax.tree_util.tree_leaves_with_path(random.params))[path]
        np.testing.assert_array_equal(leaf, of if same else own)
        anew += not same
    assert anew == 1
    told = capsys.readouterr().out
    assert "label" in told
    assert told.rstrip().endswith("begins anew")


def test_a_run_without_any_of_its_arrays_is_refused(trained, monkeypatch):
    params = {"params": {"elsewhere": jnp.ones(3)}}
    other = dataclasses.replace(cfg_jax.load(trained), params=params)
    monkeypatch.setattr(room, "named_run", lambda name: other)
    with pytest.raises(ValueError, match=r"config\.train\.init: no array of .* has a name"):
        begun(trained)


def test_a_run_that_went_on_does_not_need_it_again(trained, tmp_path):
    source = shutil.copytree(trained, tmp_path / "source")
    config = tiny()
    config.train.init, config.train.steps = str(source), 3
    train(config, tmp_path / "run")
    shutil.rmtree(source)
    config.train.steps = 4
    train(config, tmp_path / "run")
    assert cfg_jax.load(tmp_path / "run").step == 4
    config.train.init = ""
    with pytest.raises(ValueError, match=r"train\.init: .*source -> "):
        train(config, tmp_path / "run")
    config.train.init = str(source)
    with pytest.raises(ValueError, match=r"^config\.train\.init: there is no work directory"):
        train(config, tmp_path / "other")
