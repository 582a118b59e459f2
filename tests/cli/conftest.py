"""Commands as `python -m cfg_jax` would run them, and a network that takes vectors."""

import dataclasses

import numpy as np
import pytest
from recipes import tiny

import cfg_jax
from cfg_jax import exchange, recipe
from cfg_jax.cli import main
from cfg_jax.conditions import Vector
from cfg_jax.data import Arrays
from cfg_jax.training.loop import train

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture
def command(capfd):
    def run(*argv):
        try:
            main([str(argument) for argument in argv])
            code = 0
        except SystemExit as stop:
            code = stop.code
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(command):
    """Runs a command that must be refused, and returns the one line it says."""

    def run(*argv):
        code, _, err = command(*argv)
        lines = [line for line in err.splitlines() if line.strip()]
        assert code == 2, err
        assert "Traceback" not in err
        assert lines[-1].startswith("cfg_jax "), err
        return lines[-1]

    return run


@pytest.fixture(scope="session")
def told(tmp_path_factory):
    """Takes vectors of two numbers and no labels; the data are an .npz file."""
    folder = tmp_path_factory.mktemp("told")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    vectors = rng.normal(size=(40, 2)).astype(np.float32)
    np.savez(folder / "data.npz", image=images, label=np.arange(40) % 2, vector=vectors)
    config = tiny()
    config.data = recipe.node(Arrays, path=str(folder / "data.npz"))
    config.condition.label = None
    config.condition.vector = recipe.node(Vector, p_uncond=0.1)
    config.optimiser.learning_rate = 0.1
    train(config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """A file of the trained network, whose classes have names."""
    path, run = tmp_path_factory.mktemp("exported") / "run.safetensors", cfg_jax.load(trained)
    named = dataclasses.replace(run, facts=run.facts._replace(class_names=NAMES))
    exchange.export(named, path)
    return path
