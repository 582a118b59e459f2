"""Checks of the plain numbers that users type; values traced by JAX pass unexamined."""

import math
from numbers import Real
from typing import Any

import jax
import numpy as np


def _is_concrete(value: Any) -> bool:
    return isinstance(value, (Real, np.ndarray, np.generic)) or (
        isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)
    )


def finite(name: str, value: Any) -> None:
    """Raises ValueError when the concrete `value` holds a NaN or an infinity."""
    if _is_concrete(value) and not np.all(np.isfinite(np.asarray(value))):
        raise ValueError(f"{name} must be finite, got {value}")


def within(name: str, value: Any, low: float, high: float) -> None:
    """Raises ValueError when any entry of the concrete `value` lies outside [low, high]."""
    if _is_concrete(value):
        entries = np.asarray(value)
        if not np.all((entries >= low) & (entries <= high)):
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}")


def steps(value: Any) -> None:
    """Raises ValueError unless `value` is a whole number of at least one."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {value}")


def logsnr_range(logsnr_min: float, logsnr_max: float) -> None:
    """Raises ValueError unless logsnr_min < logsnr_max, both finite."""
    if not (math.isfinite(logsnr_min) and math.isfinite(logsnr_max) and logsnr_min < logsnr_max):
        raise ValueError(
            "logsnr_min must be smaller than logsnr_max and both finite, "
            f"got logsnr_min={logsnr_min} and logsnr_max={logsnr_max}"
        )
