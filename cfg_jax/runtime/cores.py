"""All cores of a processor: as many JAX devices on the host as there are cores to use.

XLA computes small convolutions on one core. Where the batch is split over several devices, each
works on its own share, and all cores are busy.
"""

import functools
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from jax._src import xla_bridge

_CONFIG: Any = jax.config

COUNT = r"--xla_force_host_platform_device_count=(\d+)"

LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how many bytes a container may use, or "max"."""

START = """
try:
    from jaxlib.xla_client import make_cpu_client as start
except ImportError:
    from jax import devices as start
start()
"""
"""Starts XLA, without the rest of JAX where there is a way."""


def use_cores(n: int | None = None) -> int:
    """Has JAX run on as many devices of the processor as there are cores to use.

    Comes before anything asks JAX for its devices. A count in the user's own XLA_FLAGS or
    JAX_NUM_CPU_DEVICES is kept. Where JAX runs on an accelerator nothing changes.

    Args:
      n: How many devices; as many as the process may use cores when None.

    Returns:
      The number of devices of the processor that JAX has.

    Raises:
      ValueError: n < 1, or JAX has started with another number.
    """
    if n is not None and n < 1:
        raise ValueError(f"there must be at least 1 core to use; got {n}")
    wanted = _asked() or n or _set() or available()
    if xla_bridge.backends_are_initialized():
        found = jax.local_device_count("cpu")
        if found != wanted and not accelerated():
            raise ValueError(
                f"JAX has started on {found} of {wanted} cores: call use_cores before anything "
                "that asks JAX for its devices"
            )
        return found
    if accelerated():
        return _asked() or _set() or 1
    if _asked() is None:
        jax.config.update("jax_num_cpu_devices", wanted)
    return wanted


def available() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's if less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(whole, int(LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):  # there is no container, or it has no limit
        return whole


def accelerated() -> bool:
    """Whether JAX runs, or would start, on something else than the processor."""
    if xla_bridge.backends_are_initialized():
        return jax.default_backend() != "cpu"
    platforms = _CONFIG.jax_platforms
    if platforms:
        return platforms.split(",")[0] != "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    gpu = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    tpu = any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    return (gpu and len(plugins) > 0) or (tpu and importlib.util.find_spec("libtpu") is not None)


def _asked() -> int | None:
    """How many devices the user's environment asks for."""
    counts = re.findall(COUNT, os.environ.get("XLA_FLAGS", ""))
    return int(counts[-1] if counts else os.environ.get("JAX_NUM_CPU_DEVICES", 0)) or None


def _set() -> int | None:
    """How many devices an earlier call, or the program itself, has asked JAX for."""
    return max(_CONFIG.jax_num_cpu_devices, 0) or None


@functools.cache
def flag_known(flag: str) -> bool:
    """Whether this XLA knows a flag with a value, such as "--xla_cpu_max_isa=SSE4_2".

    XLA ends a process in whose XLA_FLAGS there is one that it does not know; so another process is
    asked, which takes 0.2 s.
    """
    tried = subprocess.run(
        [sys.executable, "-c", START],
        env={**os.environ, "XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0
