"""Which values a field may have: from its annotation where that is plain, else from its default."""

import ast
import collections.abc
import math
import types
import typing
import warnings
from collections.abc import Mapping
from typing import Any, Literal, Union

import numpy as np
from ml_collections import ConfigDict

from cfg_jax.recipe.signature import MISSING, Field, plain, told

_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple",
    type(None): "None",
}
_PLURAL = {bool: "True or False", int: "whole numbers", float: "numbers", str: "text"}
_SEQUENCES = (tuple, list, collections.abc.Sequence)
_LARGEST = 2**63


def expected(field: Field) -> Any:
    """The type of a field's values; `Any` where nothing is known of it."""
    optional = field.default is None or type(None) in _options(field.hint)
    if is_plain(field.hint):
        hint = field.hint
    else:
        default = MISSING if field.default is MISSING else plain(field.default)
        hint = Any if default is MISSING or default is None else _type_of(default)
    return Union[hint, None] if optional and hint is not Any else hint  # noqa: UP007


def is_plain(hint: Any) -> bool:
    """Whether an annotation speaks of plain values alone."""
    if hint in _WORDS:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType):
        return all(map(is_plain, arguments))
    return origin in _SEQUENCES and all(a in (Ellipsis, Any) or is_plain(a) for a in arguments)


def _options(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _type_of(value: Any) -> Any:
    """The type that a default stands for; of tuples, that of entries which are all alike."""
    if not isinstance(value, tuple):
        return type(value)
    kinds = {_type_of(entry) for entry in value}
    return types.GenericAlias(tuple, (kinds.pop(), ...)) if len(kinds) == 1 else tuple


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type: whole numbers are numbers, truth values are neither."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return plain(value) is not MISSING and not _is_nan(value)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if hint in _SEQUENCES or origin in _SEQUENCES:
        return isinstance(value, (tuple, list)) and _entries_fit(value, arguments)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value)
    if hint is int:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and -_LARGEST <= value < _LARGEST
    return isinstance(value, hint)


def _entries_fit(value: Any, arguments: tuple[Any, ...]) -> bool:
    if not arguments:
        return all(fits(entry, Any) for entry in value)
    if len(arguments) == 1 or arguments[-1] is Ellipsis:
        return all(fits(entry, arguments[0]) for entry in value)
    pairs = zip(value, arguments, strict=False)
    return len(value) == len(arguments) and all(fits(*pair) for pair in pairs)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_finite(value: float) -> bool:
    """Whether a number is none that float64 cannot hold; infinities are the kinds' own matter."""
    return not _is_nan(value) and (isinstance(value, float) or abs(value) < 2**1023)


def converted(value: Any, hint: Any) -> Any:
    """A value that fits, with tuples for lists and floats where whole numbers stand for them."""
    if isinstance(value, (tuple, list)):
        arguments = typing.get_args(hint) if typing.get_origin(hint) in _SEQUENCES else ()
        inner = arguments[0] if len(set(arguments) - {Ellipsis}) == 1 else Any
        return tuple(converted(entry, inner) for entry in value)
    if isinstance(value, Mapping | ConfigDict):
        return {name: converted(entry, Any) for name, entry in value.items()}
    options = set(_options(hint))
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if float in options and int not in options else value
    return value


def words(hint: Any) -> str:
    """What a type allows, for messages.

    >>> words(tuple[int, ...]), words(float | None)
    ('a tuple of whole numbers', 'a number or None')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(words(option) for option in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in _SEQUENCES:
        if len(arguments) == 1 or arguments[-1] is Ellipsis:
            return f"a tuple of {_PLURAL.get(arguments[0], 'tuples')}"
        return f"a tuple of {len(arguments)} ({', '.join(words(a) for a in arguments)})"
    return _WORDS.get(hint, "a number, text, None, or a tuple or dictionary of these")


def check(path: str, value: Any, hint: Any) -> Any:
    """The value, converted; NumPy's scalars are plain numbers.

    Raises:
      ValueError: It is not of the type.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if not fits(value, hint):
        is_large = isinstance(value, int) and abs(value) >= _LARGEST and fits(0, hint)
        held = " that 64 bits can hold" if is_large else ""
        raise ValueError(f"{path} must be {words(hint)}{held}, got {told(value)}")
    return converted(value, hint)


def parse(path: str, text: str, hint: Any) -> Any:
    """The value that a text stands for: Python's literals; text for itself where it is allowed.

    Raises:
      ValueError: It stands for none of the type.
    """
    options = _options(hint)
    if text in ("None", "none") and (type(None) in options or hint is Any):
        return None
    if str in options:
        return text
    if bool in options and text.lower() in ("true", "false"):
        return text.lower() == "true"
    value = _literal(text)
    is_tuple = any(o in _SEQUENCES or typing.get_origin(o) in _SEQUENCES for o in options)
    if is_tuple and not isinstance(value, (tuple, list)):
        value = tuple(part.strip() for part in text.split(",")) if value is text else (value,)
    return check(path, value, hint)


def _literal(text: str) -> Any:
    """A Python literal, inf and nan among them; the text itself where it is none."""
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # as of "3if"
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    try:
        return float(text)
    except ValueError:
        return text
