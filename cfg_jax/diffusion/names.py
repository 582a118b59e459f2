"""Looking up kinds by the names that people type."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cfg_jax.diffusion import checks

Found = TypeVar("Found")


def lookup(registry: Mapping[str, Found], name: Any, what: str) -> Found:
    """The entry of a registry that a name means; case, "_" and "-" do not matter.

    Args:
      registry: Kinds by their names.
      name: What a person typed.
      what: What is looked up, for the error.

    Returns:
      The entry.

    Raises:
      ValueError: There is none of that name; it lists those there are, and the nearest first.

    >>> from cfg_jax.diffusion.names import lookup
    >>> from cfg_jax.diffusion.schedules import SCHEDULES
    >>> lookup(SCHEDULES, "linear-beta", "schedule").__name__
    'LinearBeta'
    """
    plain = {_plain(known): known for known in registry}
    wanted = _plain(name) if isinstance(name, str) else None
    if wanted in plain:
        return registry[plain[wanted]]
    near = difflib.get_close_matches(wanted or "", plain, n=1)
    hint = f"; did you mean {plain[near[0]]}?" if near else ""
    raise ValueError(f"{what} must be one of {', '.join(registry)}; got {name!r}{hint}")


def made(registry: Mapping[str, type], value: Any, what: str, fits: Callable[[Any], bool]) -> Any:
    """The object of a slot: itself, or the one with its defaults that a name means.

    Raises:
      ValueError: No kind has that name.
      TypeError: It is neither a name nor such an object.
    """
    if isinstance(value, str):
        return lookup(registry, value, what)()
    if isinstance(value, type) or not fits(value):
        got = f"the class {value.__name__}" if isinstance(value, type) else checks.told(value)
        raise TypeError(
            f"{what} must be one of {', '.join(registry)}, by name or as an object such as "
            f"{next(iter(registry))}(), got {got}"
        )
    return value


def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "")
