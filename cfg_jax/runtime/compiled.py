"""Compiled programs, kept on disk: what one process compiled, the next one reads."""

import functools
import hashlib
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax

from cfg_jax.runtime import files

PROCESSORS = Path("/proc/cpuinfo")

PATIENCE = "xla_cpu_collective_call_terminate_timeout_seconds"
"""XLA's option for how long the cores of a processor wait for each other."""

_CONFIG: Any = jax.config


def keep() -> Path:
    """Has JAX keep what takes a second or more to compile in the user's cache.

    A place that the user or the program chose stays (JAX_COMPILATION_CACHE_DIR). Programs for a
    processor run on those of its kind alone, so each kind has a folder of its own.

    Returns:
      The folder.
    """
    chosen = _CONFIG.jax_compilation_cache_dir
    if chosen is None:
        chosen = str(files.cache() / "compiled" / _processor())
        jax.config.update("jax_compilation_cache_dir", chosen)
    return Path(chosen)


def once(devices: Collection[jax.Device]) -> dict[str, Any]:
    """Options for compiling what runs once: on CPUs, fast rather than to something fast.

    Two to three times as fast for a network's first parameters, which stay the same to the bit.
    Where JAX is told to optimise nothing, that is faster still, and is left as it is.
    """
    on_cpus = next(iter(devices)).platform == "cpu"
    least = jax.config.read("jax_disable_most_optimizations")
    return {"xla_backend_optimization_level": 1} if on_cpus and not least else {}


def patient(devices: Collection[jax.Device]) -> dict[str, Any]:
    """Options for compiling what devices do together: on a busy machine one may come late.

    Of a processor's cores, XLA ends the process with a stack trace where one has waited for the
    others for 40 s. None where there is one device, or XLA has no such option.
    """
    of_cores = len(devices) > 1 and next(iter(devices)).platform == "cpu"
    return {PATIENCE: 86_400} if of_cores and _is_option(PATIENCE) else {}


@functools.cache
def _is_option(name: str) -> bool:
    """Whether this XLA knows an option of compiling that is a number."""
    try:
        jax.jit(lambda: 0, compiler_options={name: 1}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _processor() -> str:
    """A name of this kind of processor: what instructions it has, where that can be read."""
    try:
        lines = PROCESSORS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    kinds = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    described = "\n".join([platform.machine(), platform.processor(), *kinds])
    return f"{platform.machine()}-{hashlib.sha256(described.encode()).hexdigest()[:8]}"
