"""One of two real processes fails, or is interrupted: both end at once, and the other says why.

As a script, one of those processes.
"""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from launch import PYTHONPATH, xla_flags

FROM = "Start all of them again: they go on from 7"


def both(what):
    """Exit codes, what was told on stderr, and the seconds it took once both were at work."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = [
        subprocess.Popen(
            [sys.executable, __file__, what, port, str(number)],
            env={**os.environ, "PYTHONPATH": PYTHONPATH, "XLA_FLAGS": xla_flags(1)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for process in group:
            while "working" not in (line := process.stdout.readline()):
                assert line, process.stderr.read()
        began = time.monotonic()
        told = [process.communicate(timeout=60)[1] for process in group]
        return [process.returncode for process in group], told, time.monotonic() - began
    finally:
        for process in group:
            process.kill()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_ends_both(failing):
    codes, told, seconds = both(f"fail{failing}")
    assert codes[failing] == 2
    assert codes[1 - failing] == 1
    assert told[failing].splitlines()[-1] == "cfg_jax: a worker died"
    assert f"cfg_jax: process {failing} of 2 ended: a worker died. {FROM}" in told[1 - failing]
    assert "Traceback" not in "".join(told)
    assert seconds < 15


def test_an_interrupt_of_one_ends_both():
    codes, told, seconds = both("interrupt1")
    assert codes == [1, 130]
    assert f"cfg_jax: process 1 of 2 ended: interrupted. {FROM}" in told[0]
    assert seconds < 15


def test_what_both_were_given_differently_both_say_themselves():
    codes, told, seconds = both("agree")
    assert codes == [2, 2]
    for err in told:
        assert err.splitlines()[-1] == (
            "cfg_jax: the processes were started with different flags: "
            "that of process 1 differs from process 0's in seed"
        )
    assert seconds < 15


def script(what, port, number):
    """Works with another process until one of them fails, as a command does."""
    import numpy as np
    from jax.experimental import multihost_utils

    from cfg_jax.runtime import processes

    processes.start(coordinator=f"127.0.0.1:{port}", processes=2, process=number, timeout=60)

    def work():
        with processes.together(lambda: "they go on from 7"):
            for step in range(10**6):
                multihost_utils.process_allgather(np.float32(step))
                if step == 3:
                    print("working", flush=True)
                    if what == f"fail{number}":
                        raise ValueError("a worker died")
                    if what == f"interrupt{number}":
                        os.kill(os.getpid(), signal.SIGINT)
                    if what == "agree":
                        processes.agree("flags", {"seed": number, "w": 1.0})

    with processes.together():
        try:
            work()
        except (ValueError, KeyboardInterrupt) as error:
            print(f"cfg_jax: {error}", file=sys.stderr)
            sys.exit(2 if isinstance(error, ValueError) else 130)


if __name__ == "__main__":
    script(sys.argv[1], sys.argv[2], int(sys.argv[3]))
