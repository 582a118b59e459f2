"""The commands' common ground: help, and mistakes answered in one line."""

import pytest

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


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(argv):
        return int("not a number".join(argv)) if argv else __import__("json").loads("{")

    monkeypatch.setattr("cfg_jax.cli.train.run", broken)
    with pytest.raises(ValueError, match="Expecting property name"):
        cli.main(["train"])
