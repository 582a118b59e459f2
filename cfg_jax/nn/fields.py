"""Checks of the fields of layers and networks, for messages that name the field."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp

Dtype = Any
"""A floating-point dtype, or its name as recipes write it."""

DTYPES = ("float32", "bfloat16", "float16")
"""What activations may be."""


def dtype_name(dtype: Dtype) -> str:
    """The name of the dtype of activations, given that dtype or its name.

    Raises:
      ValueError: It is not one of `DTYPES`.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn import dtype_name
    >>> dtype_name(jnp.bfloat16), dtype_name("float32")
    ('bfloat16', 'float32')
    """
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = None
    if dtype is None or name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return name


def one_of(name: str, value: Any, allowed: Collection[str]) -> None:
    """Raises ValueError unless the field `name` is one of the words allowed."""
    if value not in tuple(allowed):
        listed = ", ".join(word or '""' for word in allowed)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")


def flag(name: str, value: Any) -> None:
    """Raises ValueError unless the field `name` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
