"""Recipes on the command line: their files, the flags that change them, and their help."""

import difflib
import inspect
import re
import reprlib
import runpy
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

from ml_collections import ConfigDict

import cfg_jax
from cfg_jax import recipe
from cfg_jax.recipe import signature, slots
from cfg_jax.recipe.nodes import is_node
from cfg_jax.recipe.places import walk
from cfg_jax.recipe.slots import CHILDREN, FACTS, SLOTS, Slot

PLACES = (Path(cfg_jax.__file__).parents[1] / "configs", Path(cfg_jax.__file__).parent / "configs")
"""Where recipes that are known by name stand: in the source tree, or in the installed package."""


def split(argv: Iterable[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Takes --config.FIELD=VALUE and --config.FIELD VALUE out of a command's arguments.

    Returns:
      The fields and values, and the other arguments.

    Raises:
      ValueError: A field has no value.

    >>> split(["--config.train.steps", "3", "--workdir=x", "--config.sample.w=1"])
    ([('train.steps', '3'), ('sample.w', '1')], ['--workdir=x'])
    """
    changed, rest = [], []
    waiting = iter(argv)
    for argument in waiting:
        field = re.fullmatch(r"--?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if field is None:
            rest.append(argument)
            continue
        value = next(waiting, None) if field[2] is None else field[2]
        if value is None or (field[2] is None and value.startswith("--")):
            raise ValueError(f"give --config.{field[1]} a value: --config.{field[1]}=VALUE")
        changed.append((field[1], value))
    return changed, rest


def read(name: str) -> ConfigDict:
    """The recipe of a file, or of a name such as "digits".

    Raises:
      ValueError: There is no such file, or it has a mistake.
    """
    path = _find(name)
    try:
        made = runpy.run_path(str(path), run_name=path.stem)["get_config"]()
    except KeyError as error:
        if error.args == ("get_config",):
            raise ValueError(f"the config file {name!r} has no function get_config") from None
        raise ValueError(_mistake(error, path)) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's file raises
        raise ValueError(_mistake(error, path)) from error
    if inspect.iscoroutine(made):
        made.close()  # Python would warn that nobody waits for it
    if not isinstance(made, ConfigDict):
        got = _cut(reprlib.repr(made))
        raise ValueError(f"get_config of the config file {name!r} returns no recipe, got {got}")
    return made


def _find(name: str) -> Path:
    if "\0" not in name:
        path = Path(name).expanduser() if name[:2] in ("~", "~/") else Path(name)
        named = [place / f"{name}.py" for place in PLACES] if name.isidentifier() else []
        for candidate in (path, *named):
            if _is_file(candidate):
                return candidate
    known = sorted({file.stem for place in PLACES for file in place.glob("*.py")})
    close = difflib.get_close_matches(Path(name).stem, known, n=1)
    meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    raise ValueError(f"the config file {name!r} does not exist; {meant}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a loop of links
        return False


def _mistake(error: BaseException, path: Path) -> str:
    """One line for an error in a config file, with the line that it is in."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    where = f" in line {line}" if line else ""
    inner = error.args[0] if error.args else error
    held = inner if isinstance(inner, KeyError) else error  # as ml_collections raises it
    if isinstance(error, SystemExit):
        told = "it ends the process"
    elif isinstance(held, KeyError) and len(held.args) == 1:
        told = str(held.args[0])  # its own text has quotes around it
    else:
        told = str(error)
    told = _cut(told).split(" Other fields present")[0] or type(error).__name__
    return f"the config file has a mistake{where}: {told}"


def _cut(text: str) -> str:
    """A text as one line of a bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:299]}…"


# Help.


def described(name: str | None, changed: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The lines of --help on the fields of a recipe, of the default one where none is named.

    Raises:
      ValueError: As of `read` and `recipe.override_all`.
    """
    config = recipe.default() if name is None else read(name)
    recipe.override_all(config, changed)
    title = "the default recipe" if name is None else name
    yield f"Fields of {title}, each changed by --config.FIELD=VALUE:"
    for place in walk(config):
        blank = "" if "." in place.path else "\n"
        if place.name in FACTS and place.slot is None and place.value is None:
            continue  # filled in from the data
        if place.slot is None and place.field is None:
            yield f"{blank}  {place.path}"
        elif place.slot is not None:
            value = place.value.kind if is_node(place.value) else str(place.value)
            yield blank + _line(place.path, value, place.meaning)
            yield f"      {place.slot.what}: {', '.join(place.slot.kinds)} or module:Name"
        else:
            yield _line(place.path, repr(signature.plain(place.value)), place.meaning)


def kinds_of(path: str) -> tuple[str, ...]:
    """The kinds that may stand at a path of a recipe, "sample.solver"; none where none does."""
    slot = _slot(path)
    return tuple(slot.kinds) if slot else ()


def fields_of(path: str) -> Iterator[tuple[str, str]]:
    """The fields of those kinds, with what they mean and which kinds have them."""
    slot = _slot(path)
    having: dict[str, list[str]] = {}
    meanings: dict[str, str] = {}
    for name, kind in (slot.kinds if slot else {}).items():
        for field in slots.fields(kind):
            having.setdefault(field, []).append(name)
            meanings.setdefault(field, signature.meanings(kind).get(field, ""))
    for field, kinds in having.items():
        yield field, f"{', '.join(kinds)}: {meanings[field]}"


def _slot(path: str) -> Slot | None:
    name = path.split(".")[-1]
    return SLOTS.get(name) if name not in CHILDREN else None


def _line(path: str, value: str, meaning: str) -> str:
    return f"  {path:38} {value:20} {meaning}".rstrip()
