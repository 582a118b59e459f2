"""The command `train`: going on after a kill, stopping on Ctrl-C, and what it refuses."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from recipes import write

from cfg_jax.training import metrics

TESTS = Path(__file__).parents[1]


@pytest.fixture
def config(tmp_path):
    return write(tmp_path)


def start(config, workdir, *overrides):
    """Begins training in a process of its own, on one device."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    command = [sys.executable, "-m", "cfg_jax", "train", "--config", config, "--workdir", workdir]
    return subprocess.Popen(
        [*map(str, command), *overrides], env=environment, stderr=subprocess.PIPE, text=True
    )


def wait_for_row(workdir, step, process, seconds=240):
    """Returns when the metrics have reached a step."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        rows = metrics.read(workdir / "metrics.jsonl")
        if rows and rows[-1]["step"] >= step:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError(f"no row of step {step} in {seconds} s")


def test_killed_in_the_middle_it_goes_on_and_the_curve_continues(config, tmp_path):
    """Against the same run, never killed: the same rows, to the last bit."""
    settings = ("--config.train.steps=400", "--config.train.checkpoint_every=40")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(config, killed, *settings)
    wait_for_row(killed, 90, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    reached = metrics.read(killed / "metrics.jsonl")[-1]["step"]
    assert 90 <= reached < 400
    for workdir in (killed, whole):
        process = start(config, workdir, *settings)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    a, b = (metrics.read(w / "metrics.jsonl") for w in (killed, whole))
    assert [row["step"] for row in a] == [row["step"] for row in b]
    assert [row["loss"] for row in a] == [row["loss"] for row in b]
    assert np.mean([row["loss"] for row in b[-20:]]) < 0.6 * b[0]["loss"]


def test_ctrl_c_saves_and_says_how_to_go_on(config, tmp_path):
    workdir = tmp_path / "run"
    settings = ("--config.train.steps=100000", "--config.train.checkpoint_every=100000")
    process = start(config, workdir, *settings)
    wait_for_row(workdir, 4, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    (saved,) = (workdir / "checkpoints").iterdir()
    last = err.strip().splitlines()[-1]
    assert f"step {saved.name} is saved" in last
    assert "the same command goes on" in last


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["--config.train.bach_size=3"],
            "no config field 'train.bach_size'; did you mean train.batch",
        ),
        (["--config.zzz=3"], "no config field 'zzz'"),
        (["--config.train.steps=few"], "few"),
        (["--config.train.steps=0"], "config.train.steps must be at least 1"),
        (["--config.p_uncond=2.0"], "config.p_uncond must lie in [0, 1]"),
        (["--config.schedule.logsnr_min=30.0"], "logsnr_min must be smaller"),
        (["--config.sample.solver=rk4"], "unipc; got 'rk4'"),
        (["--config.data.name=nothing"], "nothing"),
        (["--config.model.channel_mult=(1,1,1,1,1)"], "multiples of 16; got 8×8"),
    ],
)
def test_mistakes_in_the_config_are_refused(refused, config, tmp_path, overrides, message):
    workdir = tmp_path / "run"
    line = refused("train", "--config", config, "--workdir", workdir, *overrides)
    assert message in line
    assert not workdir.exists()


def test_missing_flags_and_files_are_refused(refused, config, tmp_path):
    assert "give --config FILE" in refused("train", "--workdir", tmp_path / "run")
    assert "give --workdir" in refused("train", "--config", config)
    line = refused("train", "--config", tmp_path / "none.py", "--workdir", tmp_path / "run")
    assert "none.py' does not exist" in line


def test_a_mistake_in_the_config_file_is_told_in_one_line(refused, config, tmp_path):
    config.write_text(config.read_text() + "\n    config.train.foo = 1\n".replace("    ", ""))
    line = refused("train", "--config", config, "--workdir", tmp_path / "run")
    assert "the config file has a mistake" in line


def test_another_config_in_the_same_directory_is_refused(refused, config, trained):
    line = refused("train", "--config", config, "--workdir", trained, "--config.p_uncond=0.3")
    assert "p_uncond: 0.1 -> 0.3" in line
    assert "another --workdir" in line
