"""What real processes on one machine train together is what one would train alone."""

import signal
import time

import numpy as np
import pytest
from launch import finish, train, train_together, wait_for_row
from recipes import write

from cfg_jax.training import metrics

pytestmark = pytest.mark.slow

SETTINGS = (
    "--config.train.steps=50",
    "--config.train.checkpoint_every=10",
    "--config.train.log_every=1",
    "--config.mesh.min_size=1",
    "--config.data.flip=True",
)


def curve(workdir):
    rows = metrics.read(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 51))
    return np.array([row["loss"] for row in rows])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The loss curve of one process on one device."""
    folder = tmp_path_factory.mktemp("alone")
    finish([train(write(folder), folder / "run", *SETTINGS)])
    return curve(folder / "run")


@pytest.mark.parametrize(("devices", "fsdp"), [(4, 4), (8, 2)])
def test_any_number_of_devices_trains_as_one(alone, tmp_path, devices, fsdp):
    workdir, axis = tmp_path / "run", f"--config.mesh.fsdp={fsdp}"
    finish([train(write(tmp_path), workdir, *SETTINGS, axis, devices=devices)])
    np.testing.assert_allclose(curve(workdir), alone, rtol=1e-4)


# Not on both axes at once: with groups of several kinds in one program Gloo, which carries the
# CPU's collectives, mixes messages up or waits for ever.
def test_several_processes_train_as_one(alone, tmp_path):
    """Four hold a state in parts; one is killed, the others say so; one goes on, and then two."""
    config, workdir = write(tmp_path), tmp_path / "run"
    group = train_together(config, workdir, 4, *SETTINGS, "--config.mesh.fsdp=4")
    wait_for_row(workdir, 23, group[0])
    group[-1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    told = [process.communicate(timeout=60)[1] for process in group]
    assert time.monotonic() - began < 45
    assert all(process.returncode for process in group)
    assert "lost the others" in told[0]
    assert "they go on from" in told[0]
    finish([train(config, workdir, *SETTINGS, "--config.train.steps=40")])
    finish(train_together(config, workdir, 2, *SETTINGS))
    np.testing.assert_allclose(curve(workdir), alone, rtol=1e-4)
