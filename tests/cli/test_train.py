"""The command `train`: stopping on Ctrl-C, looking into a step again, and what it refuses."""

import signal

import pytest
from launch import train, wait_for_row
from recipes import write


@pytest.fixture
def config(tmp_path):
    return write(tmp_path)


def test_ctrl_c_saves_and_says_how_to_go_on(config, tmp_path):
    workdir = tmp_path / "run"
    settings = ("--config.train.steps=100000", "--config.train.checkpoint_every=100000")
    process = train(config, workdir, *settings)
    wait_for_row(workdir, 4, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    (saved,) = (p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
    last = err.strip().splitlines()[-1]
    assert f"step {saved} is saved" in last
    assert f"go on with: python -m cfg_jax train --config {config}" in last


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
    assert "mounted" in refused("train", "--config", config, "--workdir", "gs://bucket/run")
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
