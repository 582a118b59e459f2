"""Real processes on one machine: what they train, and how they start, agree and fail together."""

import signal
import time

import jax
import numpy as np
import pytest
from launch import finish, train, train_together, wait_for_row
from recipes import write

from cfg_jax.training import metrics, processes

SETTINGS = (
    "--config.train.steps=50",
    "--config.train.checkpoint_every=10",
    "--config.train.log_every=1",
    "--config.mesh.min_size=1",
    "--config.data.flip=True",
)


def curve(workdir):
    rows = metrics.read(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return np.array([row["loss"] for row in rows])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The loss curve of one process on one device."""
    folder = tmp_path_factory.mktemp("alone")
    finish([train(write(folder), folder / "run", *SETTINGS)])
    return curve(folder / "run")


@pytest.mark.parametrize(("devices", "fsdp"), [(2, 1), (4, 4), (8, 2)])
def test_any_number_of_devices_trains_as_one(alone, tmp_path, devices, fsdp):
    workdir, axis = tmp_path / "run", f"--config.mesh.fsdp={fsdp}"
    finish([train(write(tmp_path), workdir, *SETTINGS, axis, devices=devices)])
    np.testing.assert_allclose(curve(workdir), alone, rtol=1e-4)


# Not on both axes at once: with groups of several kinds in one program Gloo, which carries the
# CPU's collectives, mixes messages up or waits for ever.
@pytest.mark.parametrize(("count", "devices", "fsdp"), [(2, 1, 1), (4, 1, 4)])
def test_several_processes_train_as_one(alone, tmp_path, count, devices, fsdp):
    """The same batches and noise; one is killed, the others say so, and all go on."""
    config, workdir = write(tmp_path), tmp_path / "run"
    settings = (*SETTINGS, f"--config.mesh.fsdp={fsdp}")
    group = train_together(config, workdir, count, *settings, devices=devices)
    wait_for_row(workdir, 23, group[0])
    group[-1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    told = [process.communicate(timeout=60)[1] for process in group]
    assert time.monotonic() - began < 45
    assert all(process.returncode for process in group)
    assert "lost the others" in told[0]
    assert "they go on from" in told[0]
    finish(train_together(config, workdir, count, *settings, devices=devices))
    np.testing.assert_allclose(curve(workdir), alone, rtol=1e-4)


def test_a_checkpoint_of_several_processes_goes_on_in_one_and_the_other_way_round(alone, tmp_path):
    config, workdir = write(tmp_path), tmp_path / "run"
    for steps, count in ((20, 2), (30, 1), (50, 2)):
        settings = (*SETTINGS, f"--config.train.steps={steps}")
        finish(train_together(config, workdir, count, *settings))
    np.testing.assert_allclose(curve(workdir), alone, rtol=1e-4)


def test_a_notice_to_one_process_saves_in_all(tmp_path):
    config, workdir = write(tmp_path), tmp_path / "run"
    settings = (*SETTINGS, "--config.train.steps=100000", "--config.train.checkpoint_every=100000")
    group = train_together(config, workdir, 2, *settings)
    wait_for_row(workdir, 5, group[0])
    group[1].send_signal(signal.SIGTERM)
    out = [process.communicate(timeout=120) for process in group]
    assert [process.returncode for process in group] == [0, 0], out
    assert "is saved" in out[0][0]
    assert "go on with: python -m cfg_jax train" in out[0][0]
    (saved,) = (p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
    assert metrics.read(workdir / "metrics.jsonl")[-1]["step"] == int(saved)


def test_processes_with_different_recipes_refuse_to_start(tmp_path):
    group = train_together(
        write(tmp_path),
        tmp_path / "run",
        2,
        *SETTINGS,
        own=lambda i: [f"--config.p_uncond={0.1 + 0.1 * i}"],
    )
    told = [process.communicate(timeout=120)[1] for process in group]
    assert [process.returncode for process in group] == [2, 2], told
    for err in told:
        assert "different recipes or data: that of process 1 differ from process 0's" in err
    assert not (tmp_path / "run").exists()


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


def test_processes_that_do_not_come_are_named(tmp_path):
    first, second = train_together(write(tmp_path), tmp_path / "run", 2, "--wait=6", *SETTINGS)
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
