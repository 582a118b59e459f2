"""Checkpoints: bitwise there and back, whole or not at all."""

import jax
import numpy as np
import pytest
from recipes import tiny

from cfg_jax.training import config as recipe
from cfg_jax.training import state as states
from cfg_jax.training.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def state():
    config = tiny()
    made = states.init(recipe.network(config, 10), recipe.optimizer(config), (8, 8, 1), 0)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jax.numpy.asarray(rng.normal(size=a.shape), a.dtype), made)


def test_a_state_comes_back_bitwise(tmp_path, state):
    saved = state._replace(step=jax.numpy.int32(7))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(saved, batch_size=4)
        checkpoints.wait()
    empty = jax.tree.map(jax.numpy.zeros_like, state)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 7
        assert checkpoints.path(7).is_dir()
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(7, empty), saved)
        jax.tree.map(
            np.testing.assert_array_equal, checkpoints.restore_ema(7, empty.ema), saved.ema
        )


def test_the_newest_are_kept(tmp_path, state):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state._replace(step=jax.numpy.int32(step)), batch_size=4)
        checkpoints.wait()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["2", "3"]


def test_a_half_written_checkpoint_is_passed_over(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state._replace(step=jax.numpy.int32(4)), batch_size=4)
        checkpoints.wait()
    (tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 4


def test_a_cut_file_is_named(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state._replace(step=jax.numpy.int32(4)), batch_size=4)
        checkpoints.wait()
    files = [p for p in (tmp_path / "checkpoints" / "4" / "ema").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="checkpoints/4"):
        checkpoints.restore_ema(4, state.ema)
