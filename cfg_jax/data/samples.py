"""Samples as they are stored, uint8 or int16, and as networks see them, [-1, 1]."""

from typing import TypeVar

import jax
import numpy as np

Stored = TypeVar("Stored", np.ndarray, jax.Array)


def to_float(x: Stored) -> Stored:
    """Stored samples of any shape to float32 in [-1, 1]; the same for NumPy and JAX arrays.

    uint8 in [0, 255] is x / 127.5 - 1, int16 is x / 32768.

    Raises:
      TypeError: they are of another dtype.
    """
    if x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    if x.dtype == np.int16:
        return x.astype(np.float32) / np.float32(32768.0)
    raise TypeError(f"stored samples should be uint8 or int16, got {x.dtype}")


def to_uint8(x: Stored) -> np.ndarray:
    """Floats in [-1, 1] (clipped to it) to the nearest uint8 in [0, 255], on the host."""
    clipped = np.clip(np.asarray(x, np.float32), -1.0, 1.0)
    return np.round((clipped + 1.0) * 127.5).astype(np.uint8)


def to_int16(x: Stored) -> np.ndarray:
    """Floats in [-1, 1] (clipped to it) to the nearest int16, 32768 times as large, on the host."""
    scaled = np.round(np.asarray(x, np.float32) * np.float32(32768.0))
    return np.clip(scaled, -32768, 32767).astype(np.int16)
