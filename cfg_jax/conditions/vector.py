"""Vectors that the data have beside their examples: embeddings of a text, attributes, a pose."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import parts
from cfg_jax.diffusion import checks
from cfg_jax.parts import Conditioner, Facts
from cfg_jax.runtime.files import read_arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vector(Conditioner):
    """A vector of `length` numbers; the null is all zeros.

    Attributes:
      p_uncond: How often training hides the vector.
      guided: Whether guidance compares with the null vector.
      length: Its length, at most a million; the data's when None.

    Raises:
      ValueError: A value is out of range.
    """

    p_uncond: float = 0.1
    length: int | None = None
    name: str = dataclasses.field(default="vector", repr=False, metadata=parts.BOUND)

    flag_suffix = "s"
    help = "an .npz file with an array of this name, (images, length); held-out ones if not given"

    def __post_init__(self):
        super().__post_init__()
        if self.length is not None:
            checks.whole("length", self.length, 1, 1_000_000)

    def bind(self, name: str, facts: Facts) -> "Vector":
        """Takes the length from the data's array of the entry's name."""
        there = facts.arrays.get(name)
        length = self.length if there is None else there.shape[0] if len(there.shape) == 1 else None
        if length is None or self.length not in (None, length):
            has = "no such array" if there is None else f"{name} of shape {there.shape}"
            wanted = "" if self.length is None else f" of length {self.length}"
            raise ValueError(f"{name} is a Vector{wanted}, and the data have {has}")
        return dataclasses.replace(self, length=length, name=name)

    @property
    def inlet(self) -> parts.Vector:
        """A vector of this length."""
        return parts.Vector(self._size)

    @property
    def null(self) -> float:
        """All zeros."""
        return 0.0

    def read(self, params, batch, x):
        """The batch's vectors."""
        return batch[self.name]

    def given(self, value: Any, params: Any = None) -> Any:
        """Vectors as float32 of (batch, length).

        Raises:
          ValueError: They have another shape, or hold a NaN or an infinity.
        """
        if isinstance(value, jax.core.Tracer):
            return jnp.asarray(value, jnp.float32)
        array = checks.array(self.name, value)
        if array.dtype.kind not in "iuf" or array.ndim != 2 or array.shape[1] != self._size:
            raise ValueError(
                f"{self.name} must be numbers of (batch, {self._size}), "
                f"got {array.dtype} of {array.shape}"
            )
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{self.name} must be finite")
        return jnp.asarray(array)

    def parse(self, text: str) -> np.ndarray:
        """The array of the entry's name in an .npz file."""
        array = read_arrays(text, (self.name,), needed=(self.name,))[self.name]
        try:
            return np.asarray(self.given(array))
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from error

    def lend(self, examples, x):
        """The examples' vectors."""
        return np.stack([example[self.name] for example in examples])

    @property
    def _size(self) -> int:
        if self.length is None:
            raise ValueError(f"{self.name} has no length yet: bind it to data, or give it")
        return self.length
