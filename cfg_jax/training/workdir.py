"""What a work directory says of its run: config.json, written before the first step."""

import json
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from cfg_jax.runtime.files import atomic
from cfg_jax.training import config as recipe


class Description(NamedTuple):
    """A run's config, and what it learned of its data.

    Attributes:
      config: The recipe.
      shape: One image's (height, width, channels).
      class_names: The classes, in the order of their labels.
    """

    config: ConfigDict
    shape: tuple[int, ...]
    class_names: tuple[str, ...]


def describe(workdir: Path) -> Description:
    """Reads what `claim` wrote.

    Raises:
      ValueError: The directory is missing or holds no run.
    """
    if not workdir.is_dir():
        raise ValueError(f"there is no work directory {workdir}; `train` makes one")
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} holds no run: it has no config.json, which `train` writes")
    try:
        return from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def to_json(description: Description) -> str:
    """A description as text."""
    written = {
        "config": recipe.flatten(description.config),
        "shape": description.shape,
        "class_names": description.class_names,
    }
    return json.dumps(written, indent=2)


def from_json(text: str) -> Description:
    """The description that `to_json` wrote.

    Raises:
      ValueError: It is none.
    """
    try:
        written = json.loads(text)
        return Description(
            recipe.unflatten(written["config"]),
            tuple(written["shape"]),
            tuple(written["class_names"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def claim(workdir: Path, description: Description) -> None:
    """Makes the work directory this run's own, or finds that it is already.

    Raises:
      ValueError: It holds a run of another config or of other data; every difference is named.
    """
    path = workdir / "config.json"
    if path.exists():
        held = describe(workdir)
        found = recipe.differences(held.config, description.config)
        if held[1:] != description[1:]:
            found.append(f"the data: {held[1:]} -> {description[1:]}")
        if found:
            raise ValueError(
                f"{workdir} holds a run of another config ({'; '.join(found)}): "
                "give the same config, or another --workdir"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(to_json(description).encode() + b"\n")
