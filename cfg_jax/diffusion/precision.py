"""Double precision in a block of code, by the name that the installed JAX has for it."""

from typing import Any

import jax
import jax.experimental


def enable_x64(enabled: bool = True) -> Any:
    """A context in which float64 is float64, or with False is not."""
    home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental  # before JAX 0.8
    return home.enable_x64(enabled)
