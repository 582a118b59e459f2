"""Compiles a program for a topology, and keeps what the compiler says of it."""

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from cfg_jax.planning import flops, hlo
from cfg_jax.planning.hlo import Collective
from cfg_jax.planning.topology import Topology
from cfg_jax.runtime.files import atomic, cache

Report = Callable[[str], None]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis:
    """What one call of a compiled program needs.

    Attributes:
      fits: Whether the compiler took it.
      used: Bytes of a chip's memory: arguments, results that do not take an argument's place,
        temporaries, code. Where it does not fit, what the compiler would have needed.
      flops: Products and convolutions, over all chips, see `flops.count`.
      accessed: Bytes between memory and a chip, see `hlo.traffic`; 0 where it does not fit.
      collectives: What chips send each other; empty where it does not fit.
      compiler: The versions that compiled it.
      date: When that was.
      seconds: How long it took.
    """

    fits: bool
    used: int
    flops: int
    accessed: int
    collectives: tuple[Collective, ...]
    compiler: str
    date: str
    seconds: float

    @property
    def sent(self) -> float:
        """Bytes that a chip sends to others."""
        return sum(c.runs * c.sent for c in self.collectives)


def analyse(
    function: Any,
    arguments: tuple[Any, ...],
    topology: Topology,
    *,
    name: str,
    report: Report = lambda line: None,
) -> Analysis:
    """Compiles a jitted function for a topology, unless the very same program was before.

    Args:
      function: Made by `jax.jit`.
      arguments: Shapes with shardings on the topology's devices.
      topology: The chips.
      name: What the program is called when progress is reported.
      report: Takes a line before and after a compilation, which may take minutes.

    Returns:
      The analysis; it is kept in a file below `cache()`.
    """
    traced = function.trace(*arguments)
    lowered = traced.lower()
    identity = [topology.name, versions(topology), lowered.as_text()]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    path = cache() / f"plan-{digest[:32]}.json"
    if path.exists():
        return _read(path)
    report(f"compiling {name} for {topology.name}; a large network takes minutes")
    started = time.perf_counter()
    found = _compile(lowered, topology)
    seconds = time.perf_counter() - started
    report(f"compiled {name} in {seconds:.0f} s")
    analysis = Analysis(
        **found,
        flops=flops.count(traced.jaxpr),
        compiler=versions(topology),
        date=datetime.date.today().isoformat(),
        seconds=seconds,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(json.dumps(dataclasses.asdict(analysis)).encode())
    return analysis


def versions(topology: Topology) -> str:
    """What compiles for these devices, such as "jax 0.10.2, libtpu 0.0.42.1"."""
    packages = ["jax", *(["libtpu"] if topology.devices[0].platform == "tpu" else [])]
    return ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)


def _compile(lowered: Any, topology: Topology) -> dict[str, Any]:
    try:
        with _not_cached():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return {"fits": False, "used": needed(error), "accessed": 0, "collectives": ()}
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return {
        "fits": True,
        "used": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        "accessed": hlo.traffic(text),
        "collectives": tuple(hlo.collectives(text, len(topology.devices))),
    }


@contextlib.contextmanager
def _not_cached() -> Iterator[None]:
    """Keeps out of JAX's own cache what it could not read back, the devices not being there."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    try:
        yield
    finally:
        jax.config.update(name, before)


def needed(error: Exception) -> int:
    """The bytes that a program would have needed of a chip, as the compiler's refusal says.

    Raises:
      The error itself, if it is another one.
    """
    match = re.search(
        r"(?:HLO temporaries \(|Used )([\d.]+)([KMGT]?)\)? (?:exceeds|of)", str(error)
    )
    if "RESOURCE_EXHAUSTED" not in str(error) or not match:
        raise error
    return int(float(match[1]) * _UNITS[match[2]])


def _read(path: Path) -> Analysis:
    kept = json.loads(path.read_text())
    kept["collectives"] = tuple(
        Collective(**{**c, "arrays": tuple(c["arrays"])}) for c in kept["collectives"]
    )
    return Analysis(**kept)
