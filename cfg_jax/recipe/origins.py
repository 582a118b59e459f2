"""Where the kinds that a run names would be imported from: never from beside the run itself."""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cfg_jax.recipe.nodes import KIND


def check_origins(config: ConfigDict, place: Path) -> None:
    """Finds that no kind of a recipe would be imported from a folder; imports nothing.

    Args:
      config: The recipe that lies there.
      place: The folder, whoever wrote which may have put a module there too.

    Raises:
      ValueError: One would; in one line that names its field.
    """
    folder = place.resolve()
    for name, kind in _kinds(config, ""):
        module = kind.partition(":")[0]
        if module in sys.modules or not all(part.isidentifier() for part in module.split(".")):
            continue
        for file in _files(module):
            if file == folder or folder in file.parents:
                raise ValueError(
                    f"config.{name} is {kind!r}, which stands in {place} itself: nothing is "
                    "imported from a run's directory"
                )


def _kinds(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """The import paths of a recipe, and where they stand."""
    for name, held in value.items():
        below = f"{path}.{name}" if path else name
        if isinstance(held, ConfigDict):
            yield from _kinds(held, below)
        elif name == KIND and isinstance(held, str) and ":" in held:
            yield below, held


def _files(module: str) -> Iterator[Path]:
    """The files and folders that importing a module would run or look into."""
    top, *inner = module.split(".")
    spec = None if top in sys.modules else importlib.util.find_spec(top)
    if spec is None:
        held = sys.modules.get(top)
        folders = list(getattr(held, "__path__", ()))
    else:
        folders = list(spec.submodule_search_locations or ())
        yield from _resolved([spec.origin or ""], folders)
    for part in inner:
        found = importlib.machinery.PathFinder.find_spec(part, folders)
        if found is None:
            return
        folders = list(found.submodule_search_locations or ())
        yield from _resolved([found.origin or ""], folders)


def _resolved(origin: list[str], folders: list[str]) -> Iterator[Path]:
    for name in (*origin, *folders):
        if name:
            yield Path(name).resolve()
