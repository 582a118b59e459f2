"""Standard streams that are full or closed: nothing ends for what cannot be told."""

import os
import subprocess
import sys

import pytest
from launch import PYTHONPATH

from cfg_jax.runtime import notes, streams

needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")


@needs_full
@pytest.mark.parametrize("buffering", [1, 4096])
def test_a_stream_that_cannot_be_written_falls_silent(buffering):
    with open("/dev/full", "w", buffering=buffering) as full:
        stream = streams.Unfailing(full)
        stream.write("a line\n")
        stream.flush()
        assert os.path.samestat(os.fstat(full.fileno()), os.stat(os.devnull))
        assert stream.write("another\n") == 8


def test_it_is_the_stream_otherwise(tmp_path):
    with (tmp_path / "told").open("w") as file:
        stream = streams.Unfailing(file)
        assert (stream.fileno(), stream.isatty()) == (file.fileno(), False)
        print("a line", file=stream, flush=True)
        assert (tmp_path / "told").read_text() == "a line\n"


@needs_full
def test_a_note_that_cannot_be_told_is_lost(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        notes.note("training goes on")
        notes.note("and on")


CLOSED = """
import os, sys
from cfg_jax.runtime import streams
streams.set_up()
for number in (0, 1, 2):
    assert os.path.samestat(os.fstat(number), os.stat(os.devnull)), number
print("nobody reads this")
print("nor this", file=sys.stderr)
with open("file", "w") as file:
    assert file.fileno() > 2
    os.write(2, b"of a library")
"""


def test_what_is_written_to_closed_streams_lands_in_no_file(tmp_path):
    shell = f'exec "{sys.executable}" -c "$SCRIPT" <&- >&- 2>&-'
    found = subprocess.run(
        ["bash", "-c", shell],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "SCRIPT": CLOSED},
        timeout=60,
        check=False,
    )
    assert found.returncode == 0
    assert (tmp_path / "file").read_text() == ""
