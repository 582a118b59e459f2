"""Double precision in a block of code, by the name that the installed JAX has for it."""

from typing import Any

import jax


def enable_x64(enabled: bool = True) -> Any:
    """A context in which float64 is float64, or with False is not."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)
    from jax.experimental import enable_x64  # before JAX 0.8

    return enable_x64(enabled)
