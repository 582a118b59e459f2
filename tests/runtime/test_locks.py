"""A directory held by one process: another is refused, and no lock outlives its process."""

import os
import signal
import subprocess
import sys

import pytest
from disk import full
from launch import PYTHONPATH

from cfg_jax.runtime import locks

HOLD = """
import sys, time
from pathlib import Path
from cfg_jax.runtime import locks
with locks.alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_second_one_is_refused_until_the_first_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(ValueError, match=rf"run is in use by process {holder.pid} on "),
        locks.alone(tmp_path / "run"),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locks.alone(tmp_path / "run"):
        pass


def test_it_holds_within_one_process_and_ends_with_the_block(tmp_path):
    with (
        locks.alone(tmp_path),
        pytest.raises(ValueError, match=f"in use by process {os.getpid()} "),
        locks.alone(tmp_path),
    ):
        pass
    with locks.alone(tmp_path):
        pass


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_forked_worker_does_not_inherit_it(tmp_path):
    (told, tell), (wait, end) = os.pipe(), os.pipe()
    with locks.alone(tmp_path):
        child = os.fork()
        if child == 0:
            os.write(tell, b".")
            os.close(end)
            os.read(wait, 1)
            os._exit(0)
        os.read(told, 1)
    try:
        with locks.alone(tmp_path):
            pass
    finally:
        os.close(end)
        os.waitpid(child, 0)


def test_a_program_does_not_inherit_it(tmp_path):
    with locks.alone(tmp_path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with locks.alone(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_place_that_cannot_be_one_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(
            ValueError, match=r"file/run cannot be written: .*/file is a file, not a folder"
        ),
        locks.alone(tmp_path / "file" / "run"),
    ):
        pass


def test_a_full_disk_holds_it_all_the_same(tmp_path):
    """Its file only says who; writing it fails at once, and not again when it is closed."""
    with (
        full(),
        locks.alone(tmp_path),
        pytest.raises(ValueError, match="in use by another process"),
        locks.alone(tmp_path),
    ):
        pass
