"""Commands in processes of their own: started, killed, waited for."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from cfg_jax.training import metrics

TESTS = Path(__file__).parent
PYTHONPATH = os.pathsep.join([str(TESTS), str(TESTS.parent)])


def xla_flags(devices):
    """The tests' own, but for so many devices."""
    own = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return " ".join([*own, f"--xla_force_host_platform_device_count={devices}"])


def start(*arguments, devices=1):
    """Begins a command in a process of its own, on so many devices."""
    environment = {
        **os.environ,
        "PYTHONPATH": PYTHONPATH,
        "XLA_FLAGS": xla_flags(devices),
        "TQDM_MININTERVAL": "10",  # nobody reads their pipes meanwhile: they must not fill up
    }
    return subprocess.Popen(
        [sys.executable, "-m", "cfg_jax", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(config, workdir, *overrides, devices=1):
    """Begins training in a process of its own."""
    return start("train", "--config", config, "--workdir", workdir, *overrides, devices=devices)


def start_together(count, command, *arguments, devices=1, own=lambda i: ()):
    """Begins a command, or one each, in several processes that find each other.

    `own` gives one its own flags.
    """
    commands = [command] * count if isinstance(command, str) else command
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(
            commands[i],
            f"--coordinator={address}",
            f"--processes={count}",
            f"--process={i}",
            "--wait=60",
            *arguments,
            *own(i),
            devices=devices,
        )
        for i in range(count)
    ]


def train_together(config, workdir, count, *overrides, devices=1, own=lambda i: ()):
    """Begins training in several processes that make one run."""
    arguments = ("--config", config, "--workdir", workdir, *overrides)
    return start_together(count, "train", *arguments, devices=devices, own=own)


def finish(processes, seconds=240):
    """Waits for all; returns what each printed to stderr. None may have failed."""
    told = [process.communicate(timeout=seconds)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(told)
    return told


def wait_for(path, process, seconds=240):
    """Returns when a path is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"no {path} in {seconds} s"
        time.sleep(0.05)


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
