"""The fields of a kind, read from its signature: names, defaults, types and what they mean.

A kind is a class or a function that makes an object. The fields of a dataclass (Flax's Linen
modules are dataclasses) are those of its constructor; of any other class or function they are its
parameters.
"""

import contextlib
import dataclasses
import functools
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cfg_jax.diffusion import checks

MISSING = dataclasses.MISSING
KIND = "kind"
PLAIN = (bool, int, float, str, type(None))

_HIDDEN = {"parent", "name", "rngs"}
"""What Flax adds to the fields of a module, and what it gives a module when it is made."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a kind.

    Attributes:
      name: Its name.
      default: Its default; MISSING where it must be given.
      hint: Its annotation, `Any` where there is none.
    """

    name: str
    default: Any
    hint: Any


def is_linen(kind: Any) -> bool:
    """Whether a kind is a class of Flax Linen modules; imports Flax only if it may be one."""
    linen = sys.modules.get("flax.linen")
    return linen is not None and isinstance(kind, type) and issubclass(kind, linen.Module)


def is_nnx(kind: Any) -> bool:
    """Whether a kind is a class of flax.nnx modules."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(kind, type) and issubclass(kind, nnx.Module)


@functools.cache
def fields(kind: Callable[..., Any]) -> dict[str, Field]:
    """The fields of a kind, in the order of its signature.

    A dataclass' field of metadata {"recipe": False}, which is set later on, is left out.

    Raises:
      ValueError: It has no signature.
    """
    is_module = is_linen(kind) or is_nnx(kind)
    hidden = _HIDDEN if is_module else set()
    hints = _hints(kind)
    if dataclasses.is_dataclass(kind) and not is_nnx(kind):
        own = [f for f in dataclasses.fields(kind) if f.init and f.metadata.get("recipe", True)]
        found = [(field.name, _default(field)) for field in own]
    else:
        found = list(_parameters(kind))
    return {
        name: Field(name, default, hints.get(name, Any))
        for name, default in found
        if name not in hidden
    }


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _parameters(kind: Any) -> Iterator[tuple[str, Any]]:
    """Names and defaults of a callable's parameters, those without a name of their own left out."""
    try:
        # The metaclass of NNX modules hides what they are constructed with.
        called = functools.partial(kind.__init__, None) if is_nnx(kind) else kind
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        raise ValueError(f"{kind!r} has no signature") from None
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            required = parameter.default is parameter.empty
            yield parameter.name, MISSING if required else parameter.default


def _hints(kind: Any) -> dict[str, Any]:
    """Annotations by name, what cannot be resolved left out; "return" among them."""
    is_plain_class = isinstance(kind, type) and (is_nnx(kind) or not dataclasses.is_dataclass(kind))
    annotated = kind.__init__ if is_plain_class else kind
    try:
        return typing.get_type_hints(annotated)
    except Exception:  # an annotation may name what is imported for type checkers alone
        return dict(_resolved(annotated))


def _resolved(annotated: Any) -> Iterator[tuple[str, Any]]:
    """Names and annotations, those that can be resolved."""
    names = vars(sys.modules[annotated.__module__])
    for name, hint in inspect.get_annotations(annotated).items():
        one = types.SimpleNamespace(__annotations__={name: hint})
        with contextlib.suppress(Exception):
            yield name, typing.get_type_hints(one, names)[name]


def makes(kind: Any) -> type | None:
    """The class of what a kind makes: itself, or what a function's annotation says; else None."""
    if isinstance(kind, type):
        return kind
    returned = _hints(kind).get("return")
    returned = typing.get_origin(returned) or returned
    return returned if isinstance(returned, type) else None


# Plain values.


def plain(value: Any) -> Any:
    """A value as a recipe holds it; MISSING where it cannot.

    Numbers, text, tuples and dictionaries of them, and dtypes by name.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PLAIN):
        return value
    if _is_dtype(value):
        return np.dtype(value).name
    if isinstance(value, (tuple, list)):
        entries = tuple(plain(entry) for entry in value)
        return MISSING if any(entry is MISSING for entry in entries) else entries
    if isinstance(value, Mapping | ConfigDict) and KIND not in value:
        named = {name: plain(entry) for name, entry in value.items()}
        is_plain = all(isinstance(n, str) and e is not MISSING for n, e in named.items())
        return named if is_plain else MISSING
    return MISSING


def told(value: Any) -> str:
    """A value in one short line, for messages."""
    return checks.told(value.to_dict() if isinstance(value, ConfigDict) else value)


def _is_dtype(value: Any) -> bool:
    if isinstance(value, np.dtype):
        return True
    return isinstance(value, type) and (
        issubclass(value, np.generic) or isinstance(getattr(value, "dtype", None), np.dtype)
    )


# What the fields mean.

_SECTION = r"^(?:Attributes|Args|Arguments|Parameters):\n((?:(?:[ \t]+.*)?\n)*)"
_ENTRY = r"^\*{0,2}(\w+(?:, \w+)*)(?: \([^)]*\))?: (.*(?:\n(?:[ \t]+.*)?)*)"


@functools.cache
def meanings(kind: Any) -> dict[str, str]:
    """What the docstrings of a kind and its bases say of each field: the first sentence.

    They are the entries under "Attributes:" and "Args:".

    >>> from cfg_jax.sampling.solvers import DDIM
    >>> meanings(DDIM)
    {'eta': 'η, in [0, 1].'}
    """
    found: dict[str, str] = {}
    for base in kind.__mro__ if isinstance(kind, type) else (kind,):
        maker = vars(base).get("__init__") if isinstance(base, type) else None
        for text in (vars(base).get("__doc__") or base.__doc__, getattr(maker, "__doc__", None)):
            for name, meaning in _entries(text or ""):
                found.setdefault(name, meaning)
    return found


def summary(kind: Any) -> str:
    """The first sentence of a kind's docstring; nothing where it has none of its own."""
    own = vars(kind).get("__doc__") if isinstance(kind, type) else kind.__doc__
    text = inspect.cleandoc(own or "")
    if text.startswith(f"{kind.__name__}("):  # what dataclasses write where nothing is said
        return ""
    return _sentence(text.split("\n\n")[0])


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """(name, first sentence) of every entry under "Attributes:" or "Args:"."""
    for section in re.finditer(_SECTION, inspect.cleandoc(text) + "\n", re.MULTILINE):
        for entry in re.finditer(_ENTRY, textwrap.dedent(section[1]), re.MULTILINE):
            for name in entry[1].split(", "):
                yield name, _sentence(entry[2])


def _sentence(text: str) -> str:
    """The first sentence of a text, on one line."""
    line = " ".join(text.split())
    end = re.search(r"(?<!e\.g)(?<!i\.e)(?<! al)\.(?= [A-Z])", line)
    return line[: end.end()] if end else line
