"""Plans over the eight CPU devices, and analyses kept in a place of the tests' own."""

import jax
import pytest

from cfg_jax.planning.chips import Chip
from cfg_jax.planning.topology import Topology


@pytest.fixture(scope="session")
def slice_() -> Topology:
    """Eight CPU devices that pass for chips of round figures: 1 MFLOP/s, 1 GiB, 1 kB/s, 100 B/s."""
    return Topology("cpu:8", Chip("cpu", 1e6, 2.0**30, 1e3, 1e2, 1), jax.devices())


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Where analyses are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "cfg_jax"
