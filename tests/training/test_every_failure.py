"""Every way in which a run can fail × one process and two: one line, an exit code, nothing left."""

import os
import re
import resource
import signal
import time
from pathlib import Path

import pytest
from launch import train, train_together, wait_for, wait_for_row
from recipes import write

pytestmark = pytest.mark.slow

SETTINGS = (
    "--config.train.steps=100000",
    "--config.train.checkpoint_every=10",
    "--config.train.log_every=1",
    "--config.network=failing_data:Dot",
    "--config.data=failing_data:Torn",
    "--config.data.workers=1",
)
TORN = "--config.data.dir=torn"


def started_by(process):
    """The process ids of what a process started, and of what these started."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *started_by(child)]
    return found


def runs(process):
    """Whether a process has not ended; one that has may still wait for somebody to note it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def send(number):
    return lambda process: os.kill(process, number)


def send_to_reader(number):
    def do(process):
        for child in started_by(process):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, number)

    return do


def starve(process):
    resource.prlimit(process, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


KINDS = {
    "an_error": (None, (2,), "example [0-9]+ is torn", ()),
    "interrupt": (send(signal.SIGINT), (130,), "interrupted|stopped by SIGINT", ()),
    "notice": (send(signal.SIGTERM), (0,), None, ()),
    "kill": (send(signal.SIGKILL), (-signal.SIGKILL,), None, ()),
    "killed_reader": (send_to_reader(signal.SIGKILL), (1,), "ended with exit code -9", ()),
    "stalled_data": (
        *(send_to_reader(signal.SIGSTOP), (1,), "the data stalled: no batch has come for 10 s"),
        ("--config.train.data_timeout=10",),
    ),
    "full_disk": (starve, (1, 2), "File too large", ()),
    "no_finite_loss": (
        *(None, (1,), "at step [0-9]+ .* the loss is .* allows 0 such steps"),
        ("--config.optimiser.learning_rate=1e30",),
    ),
}
"""What happens to one process, its exit codes, what it says last, and settings of all."""

ALIKE = {"notice", "no_finite_loss"}
"""What all processes come to by themselves, or agree on."""

READERS = {"killed_reader", "stalled_data"}
"""What happens to a process that reads for one."""

WHERE = [
    pytest.param(kind, count, failing, id=f"{kind}-{failing + 1}_of_{count}")
    for kind in KINDS
    for count, failing in ((1, 0), (2, 0), (2, 1))
    # The last process writes no metrics; what is alike, or a reader's, needs not be tried twice.
    if (count, failing) != (2, 1) or kind not in {"full_disk", *READERS, *ALIKE}
]


def last_line(told):
    """The last that is said; where a progress bar stands before it, behind that."""
    return told.replace("\r", "\n").strip().rsplit("\n", 1)[-1].partition("cfg_jax")[2]


@pytest.mark.parametrize(("kind", "count", "failing"), WHERE)
def test_a_failure_is_told_and_ends_all(tmp_path, kind, count, failing):
    happens, codes, said, settings = KINDS[kind]
    config, workdir = write(tmp_path), tmp_path / "run"

    def own(i):
        return (TORN,) if kind == "an_error" and i == failing else ()

    if count == 1:
        group = [train(config, workdir, *SETTINGS, *settings, *own(0))]
    else:
        group = train_together(config, workdir, count, *SETTINGS, *settings, own=own)
    if happens:
        wait_for_row(workdir, 15, group[0])
        wait_for(workdir / "checkpoints" / "10", group[0])
    started = [child for process in group for child in started_by(process.pid)]
    began = time.monotonic()
    if happens:
        happens(group[failing].pid)
    told = [process.communicate(timeout=120)[1] for process in group]
    assert not happens or time.monotonic() - began < 60
    assert group[failing].returncode in codes, told
    if said:
        assert re.search(said, last_line(told[failing]))
    for i, text in enumerate(told):
        assert "Traceback" not in text
        assert "stack trace" not in text
        assert "resource_tracker" not in text
        if kind in ALIKE:
            assert group[i].returncode in codes
        elif i != failing:
            assert group[i].returncode == 1, text
            assert re.match(
                f": process {failing} of 2 ended: .*({said})|: process {i} of 2 lost the others",
                last_line(text),
            ), text
            assert "Start all of them again" in text
            assert not happens or f"they go on from {workdir}/checkpoints/" in text
    until = time.monotonic() + 10.0
    while any(map(runs, started)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [child for child in started if runs(child)]
