"""The commands' common ground: help, and mistakes answered in one line."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launch import PYTHONPATH

from cfg_jax import cli


def test_help_lists_the_commands(command):
    for argv in ((), ("--help",)):
        code, out, _ = command(*argv)
        assert code == 0
        assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(command, name):
    code, out, err = command(name, "--help")
    assert code == 0
    assert f"usage: python -m cfg_jax {name}" in out
    assert err == ""


def test_help_lists_the_fields_of_a_config(command):
    _, out, _ = command("train", "--help")
    for field in (
        "train.batch_size",
        "data.dir",
        "schedule.logsnr_min",
        "condition.label.p_uncond",
    ):
        assert field in out


def test_an_unknown_command_is_refused(refused):
    assert "there is no command 'trian'" in refused("trian")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--wrokdir", "x"], "Did you mean"),
        (["train", "extra"], "unexpected argument 'extra'"),
        (["sample", "--seed", "many"], "many"),
    ],
)
def test_wrong_flags_are_refused(refused, argv, message):
    assert message in refused(*argv)


@pytest.mark.parametrize(("argv", "code"), [(["score"], 2), (["train", "--help"], 0)])
@pytest.mark.slow
def test_a_signal_while_python_ends_changes_nothing(argv, code):
    """Sent as Python frees the last module, when the handlers that it had are gone."""
    late = (
        "import os, signal\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, here=os.getpid(), number=signal.SIGINT):\n"
        "        kill(here, number)\n"
        "late = Late()\n"
        "from cfg_jax.cli import entry\n"
        "entry()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", late, *argv],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        check=False,
    )
    assert done.returncode == code
    assert b"KeyboardInterrupt" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "sample", "evaluate"])
@pytest.mark.parametrize("platforms", ["cuda", "nowhere", "nowhere,cuda"])
def test_devices_that_are_not_there_are_told_in_one_line(tmp_path, trained, name, platforms):
    argv = {
        "train": ("--config", "digits", "--workdir", "new"),
        "sample": ("--workdir", trained, "--out", "x.png"),
        "evaluate": ("--workdir", trained, "--out", "report"),
    }[name]
    done = subprocess.run(
        [sys.executable, "-m", "cfg_jax", name, *map(str, argv)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "JAX_PLATFORMS": platforms},
        capture_output=True,
        check=False,
        text=True,
    )
    wanted = f"cfg_jax {name}: JAX_PLATFORMS={platforms}: JAX starts on none of these here\n"
    assert (done.returncode, done.stderr.splitlines(keepends=True)[-1]) == (2, wanted)
    assert "Traceback" not in done.stderr


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(argv):
        return int("not a number".join(argv)) if argv else __import__("json").loads("{")

    monkeypatch.setattr("cfg_jax.cli.train.run", broken)
    with pytest.raises(ValueError, match="Expecting property name"):
        cli.main(["train"])


def test_a_type_error_is_ours_only_where_a_statement_raises_it(monkeypatch, capsys):
    """`None + 1` anywhere in the package is a bug, and no mistake of who calls it."""
    from cfg_jax.diffusion import checks

    monkeypatch.setattr("cfg_jax.cli.train.run", lambda argv: checks.function("guide", 3))
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train"])
    assert capsys.readouterr().err.startswith("cfg_jax train: guide must be a callable")
    there = {}
    exec(compile("def broken(argv): return None + 1", cli.__file__, "exec"), there)  # as if ours
    monkeypatch.setattr("cfg_jax.cli.train.run", there["broken"])
    with pytest.raises(TypeError, match="unsupported operand"):
        cli.main(["train"])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("JAX_ENABLE_X64", "maybe", "JAX cannot be imported: invalid truth value 'maybe'"),
        ("JAX_NUM_CPU_DEVICES", "abc", "JAX cannot be imported: Invalid value"),
        ("JAX_DEFAULT_PRNG_IMPL", "none", "JAX cannot be imported: Invalid value"),
        ("JAX_NUMPY_RANK_PROMOTION", "raise", "JAX_NUMPY_RANK_PROMOTION=raise is for code"),
        ("JAX_NUMPY_DTYPE_PROMOTION", "strict", "JAX_NUMPY_DTYPE_PROMOTION=strict is for code"),
        ("JAX_TRANSFER_GUARD", "disallow", "JAX_TRANSFER_GUARD=disallow is for code"),
        ("JAX_DISABLE_JIT", "True", "JAX_DISABLE_JIT=True is for code"),
        ("JAX_NO_EXECUTION", "1", "JAX_NO_EXECUTION=1 is for code"),
        ("JAX_DEFAULT_PRNG_IMPL", "rbg", "JAX_DEFAULT_PRNG_IMPL=rbg is for code"),
        ("JAX_THREEFRY_PARTITIONABLE", "0", "JAX_THREEFRY_PARTITIONABLE=0 is for code"),
    ],
)
def test_settings_of_jax_that_no_command_works_under_are_told_in_one_line(name, value, said):
    done = subprocess.run(
        [sys.executable, "-m", "cfg_jax", "train", "--config", "digits"],
        env={**os.environ, "PYTHONPATH": PYTHONPATH, name: value},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"cfg_jax train: {said}")
    assert done.stderr.count("\n") == 1


def of_c():
    raise ImportError("initialization failed") from KeyboardInterrupt()


def of_a_clean_up():
    try:
        raise KeyboardInterrupt
    finally:
        object().lock.release()


@pytest.mark.parametrize("interrupted", [of_c, of_a_clean_up])
def test_another_error_that_ctrl_c_caused_is_still_ctrl_c(interrupted, monkeypatch, capsys):
    monkeypatch.setattr("cfg_jax.cli.train.run", lambda argv: interrupted())
    with pytest.raises(SystemExit, match="130"):
        cli.main(["train"])
    assert capsys.readouterr().err == "cfg_jax train: interrupted\n"


class Busy:
    """Interrupted while it is freed, where Python tells of the interrupt and goes on."""

    def __del__(self):
        raise KeyboardInterrupt


def test_ctrl_c_is_not_lost_where_python_drops_what_is_raised(monkeypatch, capfd):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # and back to it at the end
    cli._insist()

    def interrupted():
        Busy()
        for _ in range(200):
            time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capfd.readouterr().err == ""


def hungry():
    """Asks JAX for more memory than any machine has."""
    jnp.zeros((2**46,), jnp.uint8).block_until_ready()


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        (lambda: np.empty((2**24, 2**24)), r"there is not enough memory \(Unable to allocate .*\)"),
        (hungry, r"there is not enough memory \(Out of memory .*\)"),
        (lambda: bytearray(2**62), "there is not enough memory"),
        (lambda: Path("/dev/full").write_text("x"), "No space left on device"),
    ],
)
def test_where_the_machine_ends_is_told_in_one_line(refused, monkeypatch, failing, said):
    monkeypatch.setattr("cfg_jax.cli.train.run", lambda _: failing())
    assert re.fullmatch(f"cfg_jax train: {said}", refused("train"))


def test_any_other_error_of_jax_keeps_its_traceback(monkeypatch):
    def broken(_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr("cfg_jax.cli.train.run", broken)
    with pytest.raises(jax.errors.JaxRuntimeError):
        cli.main(["train"])


@pytest.mark.parametrize("argv", [("--help",), ("score", "--help")])
def test_a_full_disk_behind_standard_output_is_told_in_one_line(argv):
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "cfg_jax", *argv],
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ran.returncode == 2
    assert ran.stderr == f"cfg_jax {argv[0]}: standard output: No space left on device\n"
