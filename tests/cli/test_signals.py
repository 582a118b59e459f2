"""Ctrl-C and a notice to end × every command × moments: one line, an exit code, nothing halved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from launch import PYTHONPATH, xla_flags
from recipes import write

from cfg_jax.cli import COMMANDS

pytestmark = pytest.mark.slow

COMMAND_LINES = {
    "train": (
        *("train", "--config", "tiny.py", "--workdir", "new"),
        *("--config.train.steps=100000", "--config.train.log_every=1"),
    ),
    "sample": ("sample", "--workdir", "run", "--out", "x.npz", "--per-label", "30000"),
    "evaluate": ("evaluate", "--workdir", "run", "--out", "report", "--samples", "100000"),
    "score": (
        *("score", "--samples", "statistics.npz", "--reference", "statistics.npz"),
        *("--out", "scores.json"),
    ),
    "prepare": ("prepare", "--config", "tiny.py", "--config.data.dir=prepared"),
    "encode": ("encode", "--config", "latent.py"),
    "import": ("import", "--from", "cfg-jax", "run.safetensors", "--workdir", "imported"),
    "export": ("export", "--workdir", "run", "--out", "exported.safetensors"),
    "plan": ("plan", "--config", "tiny.py", "--topology", "v5e:2x4", "--out", "plan.md"),
}
BEGIN = "from cfg_jax.cli import entry; print('begins', flush=True); entry()"
MOMENTS = (0.1, 1.0, 3.0)
"""Seconds of computing after a command began: its imports, what it reads, its work."""


def test_every_command_is_here():
    assert set(COMMAND_LINES) == set(COMMANDS)


@pytest.fixture
def place(tmp_path, trained, autoencoder, exported):
    """A directory with what the commands read."""
    write(tmp_path)
    (tmp_path / "latent.py").write_text(
        "from recipes import tiny_latent\n\n\ndef get_config():\n"
        f"    return tiny_latent({str(autoencoder)!r})\n"
    )
    (tmp_path / "run").symlink_to(trained)
    (tmp_path / "run.safetensors").symlink_to(exported)
    wide = np.eye(700) + 0.1
    np.savez(tmp_path / "statistics.npz", mu=np.arange(700.0), sigma=wide)
    return tmp_path


def computed(process):
    """Seconds of computing that a process has had."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def signalled(place, argv, number, moment):
    """Exit code and stderr of a command that is sent a signal; one may have ended before."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN, *argv],
        cwd=place,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "XLA_FLAGS": xla_flags(1)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begins\n"
    began = computed(process)
    while process.poll() is None and computed(process) < began + moment:
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    return process.returncode, told


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", COMMAND_LINES)
def test_ctrl_c_is_answered_in_one_line(place, name, moment):
    code, told = signalled(place, COMMAND_LINES[name], signal.SIGINT, moment)
    assert "Traceback" not in told
    if code == 130:
        last = told.replace("\r", "\n").strip().rsplit("\n", 1)[-1]
        assert f"cfg_jax {name}: interrupted" in last or f"{name}: stopped by SIGINT" in last
    else:  # it had ended, or had been refused: without libtpu there is no plan
        assert code == 0 or (name, code) == ("plan", 2), told
        assert name not in ("train", "sample", "evaluate")
    assert not list(place.rglob("*.part"))


@pytest.mark.parametrize("moment", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8])
def test_ctrl_c_while_the_package_is_imported_is_answered_too(tmp_path, moment):
    process = subprocess.Popen(
        [sys.executable, "-m", "cfg_jax", "train", "--config", "digits", "--workdir", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while computed(process) < moment:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "cfg_jax train: interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_a_notice_to_end_leaves_no_half_of_a_file(place, name):
    """`train` saves and goes; the others end where they are."""
    code, told = signalled(place, COMMAND_LINES[name], signal.SIGTERM, 2.0)
    assert code in (0, -signal.SIGTERM) or (name, code) == ("plan", 2), told
    assert "Traceback" not in told
    for out in ("x.npz", "scores.json", "plan.md", "exported.safetensors"):
        assert not (place / out).exists() or code == 0
