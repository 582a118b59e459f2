"""Checks of a source's fields; each raises ValueError with one sentence that names the field."""

import os
from collections.abc import Sequence
from typing import Any

from cfg_jax.diffusion import checks

SIDE = 16_384
"""The most that a side of an image may have."""


def whole(name: str, value: Any, least: int, most: int, *, why: str = "") -> None:
    """A whole number from `least` to `most`; `why` explains the least one."""
    number = isinstance(value, int) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise ValueError(f"{name} should be from {least}{why} to {most}, got {value!r}")


def share(name: str, value: Any) -> None:
    """A number strictly between 0 and 1."""
    if not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ValueError(f"{name} should be between 0 and 1, got {value!r}")


def within(name: str, value: Any, least: float, most: float) -> None:
    """A number from `least` to `most`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise ValueError(f"{name} should be from {least} to {most}, got {value!r}")


def flag(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} should be True or False, got {value!r}")


def text(name: str, value: Any) -> None:
    """Text or a path, perhaps empty."""
    if not isinstance(value, (str, os.PathLike)) or "\0" in os.fspath(value):
        raise ValueError(f"{name} should be text, got {value!r}")


def path(name: str, value: Any) -> None:
    """A path, perhaps empty; "~" and "~NAME" are home directories."""
    text(name, value)
    given = os.fspath(value)
    if given.startswith("~") and os.path.expanduser(given) == given:
        raise ValueError(f"{name} should begin with a home directory that exists, got {given!r}")


def needed(name: str, value: Any, what: str) -> None:
    """A path that is not empty."""
    path(name, value)
    if not os.fspath(value):
        raise ValueError(f"{name} should name {what}, got {value!r}")


def captions(name: str, value: Any) -> tuple[str, ...]:
    """The captions that a field of JSON holds: a text, or a list of them.

    Raises:
      TypeError: It holds something else.
      ValueError: One is no text in UTF-8.
    """
    found = tuple(value) if isinstance(value, list) else (value,)
    if not found or not all(isinstance(one, str) for one in found):
        raise TypeError(f"{name} must be text")
    for one in found:
        if any("\ud800" <= sign <= "\udfff" for sign in one):
            raise ValueError(f"{name} holds half of a surrogate pair: {checks.told(one)}")
    return found


def one_of(name: str, value: Any, allowed: Sequence[int], said: str) -> None:
    """One of a few numbers, `said` as a person reads them."""
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(f"{name} should be {said}, got {value!r}")


def colour(name: str, value: Any) -> None:
    """Red, green and blue, each from 0 to 255."""
    levels = value if isinstance(value, (tuple, list)) else ()
    whole_levels = [v for v in levels if isinstance(v, int) and not isinstance(v, bool)]
    if len(levels) != 3 or len(whole_levels) != 3 or not all(0 <= v <= 255 for v in levels):
        raise ValueError(f"{name} should be red, green and blue from 0 to 255, got {value!r}")
