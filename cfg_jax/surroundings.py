"""What JAX reads of a command's environment as it is imported: where it cannot go on, one line."""

import os
import sys

from cfg_jax import interrupts

MISTAKE = 2
"""The exit code of a user's mistake."""

TRUE, FALSE = ("1", "true", "yes", "on", "y", "t"), ("0", "false", "no", "off", "n", "f")

REFUSED = {
    "JAX_DEFAULT_PRNG_IMPL": ("rbg", "unsafe_rbg"),
    "JAX_DISABLE_JIT": TRUE,
    "JAX_NO_EXECUTION": TRUE,
    "JAX_NO_TRACING": TRUE,
    "JAX_NUMPY_DTYPE_PROMOTION": ("strict",),
    "JAX_NUMPY_RANK_PROMOTION": ("raise",),
    "JAX_TRANSFER_GUARD": ("disallow", "disallow_explicit"),
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE": ("disallow", "disallow_explicit"),
    "JAX_TRANSFER_GUARD_DEVICE_TO_HOST": ("disallow", "disallow_explicit"),
    "JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE": ("disallow", "disallow_explicit"),
    "JAX_THREEFRY_PARTITIONABLE": FALSE,
}
"""Values that JAX takes, for one's own code, and under which no command works, or draws other
numbers from the same seed."""


def check() -> None:
    """Imports JAX; ends the process with one line where that, or any command, cannot work."""
    for name, values in REFUSED.items():
        given = os.environ.get(name, "")
        if given.lower() in values:
            _leave(f"{name}={given} is for code that is written for it: unset it")
    try:
        import jax  # noqa: F401
    except (ValueError, ImportError, OSError, MemoryError) as error:
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        _leave(f"JAX cannot be imported: {said}")


def _leave(message: str) -> None:
    print(f"{interrupts.command()}: {message}", file=sys.stderr)
    sys.exit(MISTAKE)
