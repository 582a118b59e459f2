"""Flags of a command: parsed by absl, refused in one line, listed by --help; recipes among them."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from cfg_jax import recipe
from cfg_jax.cli import recipes, say
from cfg_jax.runtime import processes
from cfg_jax.runtime.files import make_folder

_FIELDS = "config fields"
_HELP = {"--help", "-h", "-help"}


def parse(
    values: flags.FlagValues,
    command: str,
    purpose: str,
    argv: list[str],
    *,
    operand: str = "",
    more: Callable[[], str] | None = None,
) -> dict[str, Any]:
    """Parses a command's arguments into its flags, or prints its help and exits.

    Kinds of a recipe may be imported from the current directory from then on.

    Args:
      values: The defined flags.
      command: The command's name.
      purpose: What --help begins with.
      argv: The arguments.
      operand: What the one argument that no flag takes is called, where there has to be one.
      more: Makes what --help says behind the flags.

    Returns:
      The flags' values by their names, and the operand by its.

    Raises:
      ValueError: The operand is missing, an argument is not one of the flags, a value is not what
        its flag takes, or the current directory is gone.
    """
    _printable()
    has_recipe = "config" in values
    here = _here()
    if not {"", here} & set(sys.path):
        sys.path.append(here)
    wants_help = bool(_HELP & set(argv))
    changed, rest = recipes.split(a for a in argv if a not in _HELP) if has_recipe else ([], argv)
    try:
        operands = values([command, *(a for a in rest if a not in _HELP)])[1:]
    except flags.Error as error:
        raise ValueError(_reason(error)) from None
    if wants_help:
        title = f"{command} {operand}".strip()
        lines = [f"usage: python -m cfg_jax {title} [flags]\n\n{purpose}\n", *_told(values)]
        lines += ["", *recipes.described(values["config"].value, changed)] if has_recipe else []
        say("\n".join(lines + (["", more()] if more else [])))
        sys.exit(0)
    wanted = [operand] if operand else []
    if len(operands) > len(wanted):
        raise ValueError(f"unexpected argument {operands[len(wanted)]!r}; flags begin with --")
    if len(operands) < len(wanted):
        raise ValueError(f"give the {operand}")
    # Libraries ask absl's global flags, which have no part in these commands.
    flags.FLAGS.mark_as_parsed()
    given = values.flag_values_dict() | dict(zip(wanted, operands, strict=True))
    return given | ({_FIELDS: changed} if has_recipe else {})


def _printable() -> None:
    """Has standard output escape what its encoding lacks, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise ValueError("the current directory does not exist any more") from None


def _reason(error: flags.Error) -> str:
    """What absl says; some of its errors are told as tuples of a sentence and a value."""
    cause = error.__context__
    if isinstance(cause, ValueError) and len(cause.args) > 1:
        return str(error).replace(str(cause), str(cause.args[0]))
    return str(error)


def define_config(values: flags.FlagValues) -> None:
    """Defines --config, and with it --config.FIELD=VALUE, and --skip-bad."""
    flags.DEFINE_string(
        "config",
        None,
        "the recipe: a Python file, or the name of one that comes with cfg_jax, such as digits; "
        "--config.FIELD=VALUE changes a field of it",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "skip-bad", False, "go on without images that cannot be read", flag_values=values
    )


def config(values: dict[str, Any]) -> ConfigDict:
    """The recipe that was given, with the fields that the flags change.

    Raises:
      ValueError: None was given, its file has a mistake, or a field or value is not allowed.
    """
    if values["config"] is None:
        raise ValueError("give --config FILE, such as --config configs/digits.py")
    found = recipes.read(values["config"])
    recipe.override_all(found, values[_FIELDS])
    if values["skip-bad"]:
        recipe.override(found, "data.skip_bad", "True")
    return found


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


def start_processes(values: dict[str, Any], command: str) -> None:
    """Joins the other processes, if there are to be any.

    Raises:
      ValueError: A flag is missing, or the others do not answer, or run something else.
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
        asked = {name: values.get(name) for name in ("workdir", "replay-step")}
        processes.agree("commands", {"command": command, **asked})


def required(values: dict[str, Any], name: str) -> str:
    """The value of a flag that must be given."""
    if not values[name]:
        raise ValueError(f"give --{name}")
    return values[name]


def path(values: dict[str, Any], name: str) -> Path:
    """The path of a flag that must be given; "~" is the home directory.

    Raises:
      ValueError: It is not given, or as of `expanded`.
    """
    return expanded(required(values, name), f"--{name}")


def written(values: dict[str, Any], name: str, ending: str) -> Path:
    """The path of a flag that says which file to write; its ending keeps it off other files.

    Raises:
      ValueError: As `path`, or it ends otherwise.
    """
    found = path(values, name)
    if found.suffix != ending:
        raise ValueError(f"--{name} must end in {ending}, got {found}")
    return found


def expanded(text: str, what: str) -> Path:
    """A path with "~" expanded.

    Raises:
      ValueError: It is no path, or there is no such home; or it is an address on the network, which
        would become a local folder of that name.
    """
    if "\0" in text:
        raise ValueError(f"{what} must be a path, got {text!r}")
    if "://" in text:
        raise ValueError(f"{what} must be a path, on a mounted file system; got {text}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{what}: {text} has no home directory: {error}") from None


def folder_of(path: Path) -> None:
    """Makes the folder that a file is written into, or what a link in its place leads to.

    Raises:
      ValueError: It cannot be made or written, or the file is a folder itself.
    """
    folder = Path(os.path.realpath(path)).parent
    try:
        make_folder(folder)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, f"no permission to write in {folder}")
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None


def listed(text: str, name: str, kind: type = float, what: str = "numbers") -> tuple:
    """Values separated by commas: "0,0.3,1"."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--{name} takes {what} separated by commas, got {text!r}") from None


def _told(values: flags.FlagValues) -> Iterator[str]:
    """What --help says of each flag."""
    for name in sorted(values):
        flag = values[name]
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        yield f"  --{name}\n      {flag.help}{default}"
