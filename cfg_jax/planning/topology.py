"""Chips that are not there: a pod slice by its name, as devices that programs compile for."""

import importlib.metadata
import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax

from cfg_jax.planning.chips import CHIPS, Chip

EXAMPLES = "v4:2x2x2, v5e:4x4, v5p:2x2x2, v6e:16x16"

# Said so that libtpu neither looks for a TPU around it, nor warns of finding none, nor waits for
# another process that compiles.
_ALONE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class Topology(NamedTuple):
    """A slice of a pod.

    Attributes:
      name: Such as "v5e:4x4".
      chip: Its kind of chip.
      devices: One a chip, in JAX's order.
    """

    name: str
    chip: Chip
    devices: list[Any]


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the sides that a topology's name says.

    Raises:
      ValueError: There is no such chip, or it does not come in this form.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    chip = CHIPS.get(match[1]) if match else None
    if not match or chip is None:
        raise ValueError(
            f"--topology takes CHIP:SIDES with a chip of {', '.join(CHIPS)}, "
            f"such as {EXAMPLES}; got {name!r}"
        )
    sides = tuple(int(side) for side in match[2].split("x"))
    if len(sides) != chip.dimensions or 0 in sides:
        form = "x".join("ABC"[: chip.dimensions])
        raise ValueError(f"a slice of {chip.name} is {chip.name}:{form}; got {name!r}")
    return chip, sides


def compiler() -> str:
    """The version of the TPU compiler.

    Raises:
      ValueError: It is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "planning needs the TPU compiler, though no TPU: pip install 'cfg-jax[tpu-plan]'"
        )
    return importlib.metadata.version("libtpu")


def load(name: str) -> Topology:
    """The devices of a slice, made by libtpu; computations elsewhere stay on the CPU.

    Args:
      name: CHIP:SIDES, such as "v5e:16x16" or "v5p:4x4x4".

    Raises:
      ValueError: There is no such slice, or libtpu is not installed.
    """
    chip, sides = parse(name)
    compiler()
    for variable, value in _ALONE.items():
        os.environ.setdefault(variable, value)
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    options: dict[str, Any] = {"chip_config_name": "megacore"} if chip.name == "v4" else {}
    if math.prod(sides) < 4:  # less than a host
        options["chips_per_host_bounds"] = (*sides, 1, 1)[:3]
    try:
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu has no slice {name!r}: {str(error).splitlines()[0]}") from None
    return Topology(name, chip, list(devices))
