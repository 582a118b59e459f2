"""Flags of a command: parsed by absl and ml_collections, refused in one line, listed by --help."""

import difflib
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from cfg_jax.runtime import processes
from cfg_jax.training import config as recipe


def parse(
    values: flags.FlagValues, command: str, purpose: str, argv: list[str], *, operand: str = ""
) -> dict[str, Any]:
    """Parses a command's arguments into its flags, or prints its help and exits.

    Args:
      values: The defined flags.
      command: The command's name.
      purpose: What --help begins with.
      argv: The arguments.
      operand: What the one argument that no flag takes is called, where there has to be one.

    Returns:
      The flags' values by their names, and the operand by its.

    Raises:
      ValueError: The operand is missing, an argument is not one of the flags, or a value is not
        what its flag takes.
    """
    if {"--help", "-h", "-help"} & set(argv):
        _print_help(values, f"{command} {operand}".strip(), purpose)
    try:
        rest = values([command, *argv])
    except flags.Error as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # whatever the user's config file raises
        raise ValueError(_mistake(error)) from None
    wanted = [operand] if operand else []
    given = rest[1:]
    if len(given) > len(wanted):
        raise ValueError(f"unexpected argument {given[len(wanted)]!r}; flags begin with --")
    if len(given) < len(wanted):
        raise ValueError(f"give the {operand}")
    # Libraries ask absl's global flags, which have no part in these commands.
    flags.FLAGS.mark_as_parsed()
    return values.flag_values_dict() | dict(zip(wanted, given, strict=True))


def define_config(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines --config FILE, --config.FIELD=VALUE and --skip-bad; file and fields must exist.

    Raises:
      ValueError: The file does not exist, or a field does not.
    """
    known = recipe.flatten(recipe.default())
    for argument in argv:
        field = re.match(r"--?config\.([^=]+)", argument)
        if field and field[1] not in known:
            close = difflib.get_close_matches(field[1], known, n=1)
            raise ValueError(
                f"there is no config field {field[1]!r}"
                + (f"; did you mean {close[0]}?" if close else "; --help lists them")
            )
        file = re.match(r"--?config(?:=(.*))?$", argument)
        if file:
            following = argv[argv.index(argument) + 1 :]
            path = file[1] or (following[0] if following else "")
            if not Path(path).is_file():
                raise ValueError(f"the config file {path!r} does not exist")
    config_flags.DEFINE_config_file(
        "config",
        None,
        "the recipe, a Python file; --config.FIELD=VALUE changes a field of it",
        flag_values=values,
        sys_argv=["", *argv],
    )
    flags.DEFINE_boolean(
        "skip-bad", False, "go on without images that cannot be read", flag_values=values
    )


def config(values: dict[str, Any]) -> ConfigDict:
    """The parsed config.

    Raises:
      ValueError: None was given, or its file has a mistake.
    """
    try:
        found = values["config"]
        if found is not None:
            found.lock()
    except Exception as error:  # whatever its get_config raises, kept until it is looked at
        raise ValueError(_mistake(error)) from None
    if found is None:
        raise ValueError("give --config FILE, such as --config configs/digits.py")
    if values["skip-bad"]:
        found.data.skip_bad = True
    return found


def _mistake(error: Exception) -> str:
    """One line for an error in a config file; the parser may quote a whole traceback of it."""
    last = str(error).strip("\"'\n ").splitlines()[-1]
    return f"the config file has a mistake: {last.split(' Other fields present')[0]}"


def define_processes(values: flags.FlagValues) -> None:
    """The flags of a command that several processes run together."""
    flags.DEFINE_boolean(
        "distributed",
        False,
        "one of several processes, which JAX finds by itself (TPU pods, Slurm)",
        flag_values=values,
    )
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0", flag_values=values)
    flags.DEFINE_integer("processes", None, "with --coordinator: how many", flag_values=values)
    flags.DEFINE_integer("process", None, "with --coordinator: which one", flag_values=values)
    flags.DEFINE_integer("wait", 300, "seconds to wait for the other processes", flag_values=values)


def start_processes(values: dict[str, Any]) -> None:
    """Joins the other processes, if there are to be any.

    Raises:
      ValueError: A flag is missing, or the others do not answer.
    """
    apart = [name for name in ("processes", "process") if values[name] is not None]
    if values["coordinator"] is None and apart:
        raise ValueError(f"--{apart[0]} needs --coordinator HOST:PORT beside it")
    if values["distributed"] or values["coordinator"] is not None:
        processes.start(
            coordinator=values["coordinator"],
            processes=values["processes"],
            process=values["process"],
            timeout=values["wait"],
        )


def required(values: dict[str, Any], name: str) -> str:
    """The value of a flag that must be given."""
    if not values[name]:
        raise ValueError(f"give --{name}")
    return values[name]


def listed(text: str, name: str, kind: type = float, what: str = "numbers") -> tuple:
    """Values separated by commas: "0,0.3,1"."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--{name} takes {what} separated by commas, got {text!r}") from None


def labels(text: str) -> list[int]:
    """Labels and ranges of them, both ends included: "0-9" or "1,3,5-7"."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(
                f"--labels takes labels and ranges such as 0-9 or 1,3,5-7; got {text!r}"
            )
        found.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found


def _print_help(values: flags.FlagValues, command: str, purpose: str) -> NoReturn:
    print(f"usage: python -m cfg_jax {command} [flags]\n\n{purpose}\n")
    for name in sorted(values):
        flag = values[name]
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        print(f"  --{name}\n      {flag.help}{default}")
    if "config" in values:
        print("\nFields of a config, each changed by --config.FIELD=VALUE, and their defaults:\n")
        for name, value in recipe.flatten(recipe.default()).items():
            print(f"  {name:32}{value!r}")
    sys.exit(0)
