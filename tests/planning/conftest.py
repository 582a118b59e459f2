"""Plans over the eight CPU devices, and analyses kept in a place of the tests' own."""

import types
from pathlib import Path

import jax
import numpy as np
import pytest

import cfg_jax
from cfg_jax.blueprint import blueprint
from cfg_jax.data.dataset import LABEL
from cfg_jax.model import Model
from cfg_jax.parts import Facts
from cfg_jax.planning.chips import Chip
from cfg_jax.planning.topology import Topology

OUTSIDE = Path(__file__).parents[1] / "outside"


@pytest.fixture(scope="session")
def slice_() -> Topology:
    """Eight CPU devices that pass for chips of round figures: 1 MFLOP/s, 1 GiB, 1 kB/s, 100 B/s."""
    return Topology("cpu:8", Chip("cpu", 1e6, 2.0**30, 1e3, 1e2, 1), jax.devices())


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Where analyses are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "cfg_jax"


@pytest.fixture
def pupil(monkeypatch):
    """A recipe of somebody else's package, and its frozen teacher, which was never trained."""
    monkeypatch.syspath_prepend(str(OUTSIDE))
    import recipes_of_mine

    plan = blueprint(recipes_of_mine.teacher(), Facts((8, 8, 1), tuple("0123456789"), LABEL))
    shapes = jax.eval_shape(plan.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    teacher = Model(**plan.model(params)).denoiser
    monkeypatch.setattr(cfg_jax, "load", lambda path: types.SimpleNamespace(denoiser=teacher))
    return recipes_of_mine.get_config(), teacher
