"""Real processes on one machine: how they start, agree, stop and refuse together."""

import signal
import time

import jax
import pytest
from launch import start_together, train_together, wait_for_row
from recipes import write

from cfg_jax.runtime import processes
from cfg_jax.training import metrics


@pytest.mark.slow
def test_a_notice_to_one_process_saves_in_all(tmp_path):
    config, workdir = write(tmp_path), tmp_path / "run"
    settings = ("--config.train.steps=100000", "--config.train.checkpoint_every=100000")
    group = train_together(config, workdir, 2, *settings, "--config.train.log_every=1")
    wait_for_row(workdir, 5, group[0])
    group[1].send_signal(signal.SIGTERM)
    out = [process.communicate(timeout=120) for process in group]
    assert [process.returncode for process in group] == [0, 0], out
    assert "is saved" in out[0][0]
    assert "go on with: python -m cfg_jax train" in out[0][0]
    (saved,) = (p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
    assert metrics.read(workdir / "metrics.jsonl")[-1]["step"] == int(saved)


@pytest.mark.slow
def test_processes_with_different_recipes_refuse_to_start(tmp_path):
    group = train_together(
        write(tmp_path),
        tmp_path / "run",
        2,
        own=lambda i: [f"--config.condition.label.p_uncond={0.1 + 0.1 * i}"],
    )
    told = [process.communicate(timeout=120)[1] for process in group]
    assert [process.returncode for process in group] == [2, 2], told
    for err in told:
        assert "different recipes or data: that of process 1 differs from process 0's" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("differs", ["command", "workdir", "replay-step"])
def test_processes_of_different_commands_refuse_to_start(tmp_path, trained, differs):
    commands = ["train", "sample" if differs == "command" else "train"]
    own = {
        "command": lambda i: ["--out", tmp_path / "x.png"] if i else ["--config", write(tmp_path)],
        "workdir": lambda i: ["--config", write(tmp_path), "--workdir", tmp_path / f"run{i}"],
        "replay-step": lambda i: ["--config", write(tmp_path), *["--replay-step", 3][: 2 * i]],
    }[differs]
    workdir = trained if differs == "command" else tmp_path / "run"
    group = start_together(2, commands, "--workdir", workdir, own=own)
    told = [process.communicate(timeout=120)[1] for process in group]
    assert [process.returncode for process in group] == [2, 2], told
    for err in told:
        assert f"different commands: that of process 1 differs from process 0's in {differs}" in err
    assert [path.name for path in tmp_path.iterdir()] == [write(tmp_path).name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": "nowhere"}, "must be HOST:PORT; got 'nowhere'"),
        ({"coordinator": "a:1"}, "needs --processes and --process"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, r"\[0, 1\] for --processes 2"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.start(**arguments)


def test_a_coordinator_that_does_not_answer_is_named(tmp_path):
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"127.0.0.1:9 cannot be reached, after 1 s"):
        processes.start(coordinator="127.0.0.1:9", processes=2, process=1, timeout=1)
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_processes_that_do_not_come_are_named(tmp_path):
    first, second = train_together(write(tmp_path), tmp_path / "run", 2, "--wait=6")
    second.kill()
    second.communicate()
    _, err = first.communicate(timeout=90)
    assert first.returncode == 1
    assert "the other processes did not come within 6 s" in err


def test_one_process_agrees_with_itself():
    processes.agree("anything", {"a": 1})
    assert processes.is_first()
    assert not processes.preempted(3)
    done = []
    processes.by_first(lambda: done.append(jax.process_index()))
    assert done == [0]
