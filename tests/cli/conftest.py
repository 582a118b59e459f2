"""Runs a command as `python -m cfg_jax` would, and returns its exit code and what it printed."""

import pytest

from cfg_jax.cli import main


@pytest.fixture
def command(capfd):
    def run(*argv):
        try:
            main([str(argument) for argument in argv])
            code = 0
        except SystemExit as stop:
            code = stop.code
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(command):
    """Runs a command that must be refused, and returns the one line it says."""

    def run(*argv):
        code, _, err = command(*argv)
        lines = [line for line in err.splitlines() if line.strip()]
        assert code == 2, err
        assert "Traceback" not in err
        assert lines[-1].startswith("cfg_jax "), err
        return lines[-1]

    return run
