"""The two conventions for the strength of guidance: the paper's w, and the scale s = 1 + w."""

from typing import TypeVar

from jaxtyping import Array

from cfg_jax.diffusion import checks

Number = TypeVar("Number", float, Array)


def from_scale(s: Number) -> Number:
    """The paper's w of a guidance scale s, as diffusers and guided-diffusion count it: w = s - 1.

    Raises:
      ValueError: It is no finite number.

    >>> from cfg_jax import guidance
    >>> guidance.from_scale(7.5)
    6.5
    """
    checks.finite("s", s)
    return s - 1


def to_scale(w: Number) -> Number:
    """The guidance scale of other libraries that is this library's w: s = 1 + w.

    Raises:
      ValueError: It is no finite number.

    >>> from cfg_jax import guidance
    >>> guidance.to_scale(0.0)
    1.0
    """
    checks.finite("w", w)
    return 1 + w
