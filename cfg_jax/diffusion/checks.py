"""Checks of the plain numbers that users type; values traced by JAX pass unexamined."""

import math
import operator
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


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Raises ValueError unless `value` is one plain, finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    within(name, value, low, high)


def whole(name: str, value: Any, low: int) -> int:
    """A whole number of at least `low`, of any integer type, as an int.

    Raises:
      ValueError: It is none, or it is traced.
    """
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} decides what is compiled: it must be a plain number, not traced")
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if number < low or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value}")
    return number


def steps(value: Any) -> int:
    """A number of steps as an int; raises ValueError unless it is whole and at least one."""
    return whole("steps", value, 1)


def logsnr_range(logsnr_min: float, logsnr_max: float) -> None:
    """Raises ValueError unless logsnr_min < logsnr_max, both finite."""
    if not (math.isfinite(logsnr_min) and math.isfinite(logsnr_max) and logsnr_min < logsnr_max):
        raise ValueError(
            "logsnr_min must be smaller than logsnr_max and both finite, "
            f"got logsnr_min={logsnr_min} and logsnr_max={logsnr_max}"
        )
