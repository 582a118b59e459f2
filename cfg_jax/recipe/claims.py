"""Whose a work directory is: the run's whose checkpoints it holds."""

import re
from pathlib import Path

from cfg_jax.parts import Facts
from cfg_jax.recipe.description import Description, describe, differences, to_json
from cfg_jax.runtime.files import atomic, make_folder
from cfg_jax.runtime.notes import note


def begun(workdir: Path) -> bool:
    """Whether a run has saved a checkpoint there: before that, nothing of it can be lost.

    One that was damaged and lies in quarantine counts too.
    """
    held = workdir / "checkpoints"
    saved = (path.name for place in (held, held / "quarantine") for path in place.glob("*"))
    return any(re.fullmatch(r"\d+(-\d+)?", name) for name in saved)


def claim(workdir: Path, description: Description) -> None:
    """Makes the work directory this run's own, or finds that it is already.

    A run that never saved a checkpoint, as one whose recipe turned out to be wrong, gives way.

    Raises:
      ValueError: As `compare`; or it cannot be made, or holds a config.json of something else.
    """
    path = workdir / "config.json"
    if path.exists():
        if begun(workdir):
            compare(workdir, description)
        elif _differences(describe(workdir), description):
            note(f"{workdir} has no checkpoint of the run that began there; it begins anew")
    try:
        make_folder(workdir)
        with atomic(path) as file:
            file.write(to_json(description).encode() + b"\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from error


def compare(workdir: Path, description: Description) -> None:
    """Finds that a work directory holds this very run.

    It says what does not forbid to go on with it, but keeps it from ending bit for bit as it would
    have: changed files of its data, another number of devices.

    Raises:
      ValueError: It holds a run of another recipe or of other data, every difference of which is
        named.
    """
    held = describe(workdir)
    found = _differences(held, description)
    if found:
        raise ValueError(
            f"{workdir} holds a run of another config ({'; '.join(found)}): "
            "give the same config, or another --workdir"
        )
    if held.fingerprint and held.fingerprint != description.fingerprint:
        note(f"the files of the data have changed since {workdir} was last trained")
    if held.devices and held.devices != description.devices:
        note(
            f"{workdir} was last trained on {held.devices} devices, now it is {description.devices}"
            ": sums are rounded otherwise"
        )


def _differences(held: Description, given: Description) -> list[str]:
    """What makes two runs of them."""
    found = differences(held.config, given.config)
    if held.facts != given.facts:
        found.append(f"the data: {_data(held.facts)} -> {_data(given.facts)}")
    return found


def _data(facts: Facts) -> str:
    """Facts in a few words, for messages."""
    beside = [*(f"{name} {spec.shape}" for name, spec in facts.arrays.items()), *facts.texts]
    return f"{facts.shape} of {len(facts.class_names)} classes" + (
        f" with {', '.join(beside)}" if beside else ""
    )
