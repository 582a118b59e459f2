"""Killed at any moment, again and again, a run ends as if it had never been: bit for bit."""

import random
import signal
import time

import jax
import numpy as np
import pytest
from launch import finish, train, wait_for, wait_for_row
from recipes import tiny, write

from cfg_jax import recipe
from cfg_jax.data import Digits
from cfg_jax.optim import Power
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.training import metrics
from cfg_jax.training.program import build

pytestmark = pytest.mark.slow

STEPS = 300
SETTINGS = (
    f"--config.train.steps={STEPS}",
    "--config.train.checkpoint_every=20",
    "--config.train.log_every=5",
    "--config.network.dropout=0.2",
    "--config.averages.wide=Power",
)


def final(workdir, step=STEPS):
    config = tiny()
    config.averages.wide = recipe.node(Power)
    facts = Digits().open("train").facts
    program = build(config, facts, meshes.device_mesh(1, jax.devices()[:1]))
    with Checkpoints(workdir) as checkpoints:
        return jax.device_get(checkpoints.restore(step, program.state))


def losses(workdir):
    """Loss by step, of rows that end at the same steps in every run."""
    rows = metrics.read(workdir / "metrics.jsonl")
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in rows}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    finish([train(write(folder), folder / "run", *SETTINGS)])
    return folder / "run"


def test_killed_at_random_moments_it_ends_the_same(whole, tmp_path):
    config, workdir, rng = write(tmp_path), tmp_path / "run", random.Random(0)
    kills = 0
    while True:
        process = train(config, workdir, *SETTINGS)
        if kills < 6:
            if kills % 2:  # while it trains and saves
                reached = max(losses(workdir), default=0) if workdir.exists() else 0
                wait_for_row(workdir, min(reached + 10, STEPS), process)
                time.sleep(rng.uniform(0.0, 0.3))
            else:  # while it starts, restores and compiles
                time.sleep(rng.uniform(0.5, 4.0))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        _, told = process.communicate(timeout=240)
        assert process.returncode == 0, told
        break
    assert losses(workdir) == losses(whole)
    jax.tree.map(np.testing.assert_array_equal, final(workdir), final(whole))


def test_a_notice_to_end_saves_and_the_resumed_run_ends_the_same(whole, tmp_path):
    config, workdir = write(tmp_path), tmp_path / "run"
    process = train(config, workdir, *SETTINGS)
    wait_for_row(workdir, 40, process)
    process.send_signal(signal.SIGTERM)
    told, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "stopped by SIGTERM" in told
    assert f"go on with: python -m cfg_jax train --config {config}" in told
    finish([train(config, workdir, *SETTINGS)])
    jax.tree.map(np.testing.assert_array_equal, final(workdir), final(whole))


def test_a_closed_terminal_stops_it_as_a_notice_does_and_a_second_one_does_not_hurt(tmp_path):
    config, workdir = write(tmp_path), tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` ignores it
    process = train(config, workdir, *SETTINGS, "--config.train.steps=100000")
    signal.signal(signal.SIGHUP, before)
    wait_for_row(workdir, 40, process)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
        time.sleep(0.1)  # at once, either might be looked at first
    _, told = process.communicate(timeout=60)
    assert process.returncode == 129, told
    saved = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert f"stopped by SIGHUP; step {saved} is saved" in told
    assert saved >= 40


def test_the_ledger_adds_up_over_restarts(whole, tmp_path):
    config, workdir = write(tmp_path), tmp_path / "run"
    process = train(config, workdir, *SETTINGS)
    wait_for(workdir / "checkpoints" / "20", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = metrics.read(workdir / "metrics.jsonl")[-1]
    began = time.perf_counter()
    finish([train(config, workdir, *SETTINGS)])
    took = time.perf_counter() - began
    rows = metrics.read(workdir / "metrics.jsonl")
    seconds, total = rows[-1]["seconds"], sum(rows[-1]["seconds"].values())
    # All of the first start's time is in it, its last steps as lost ones, and most of the second's.
    assert sum(before["seconds"].values()) < total < sum(before["seconds"].values()) + took
    if before["step"] % 20:
        assert seconds["lost"] > 0
    assert seconds["compile"] > before["seconds"]["compile"]
    assert rows[-1]["goodput"] == pytest.approx(seconds["step"] / total)
    assert metrics.read(whole / "metrics.jsonl")[-1]["seconds"]["lost"] == 0
