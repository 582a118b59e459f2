"""Moving averages of the parameters: of constant decay, and power functions of the step.

After step t (counted from 1) an average moves by a share of its distance to the parameters:

    ema_t = ema_{t-1} + s_t (θ_t - ema_{t-1})

    constant decay β:     s_t = 1 - min(β, t / (9 + t))
    power function γ:     s_t = 1 - (1 - 1/t)^(γ+1)

A power function's average has the width σ_rel = sqrt((γ + 1) / ((γ + 2)² (γ + 3))), its standard
deviation as a part of the training so far. Two of them, kept at a few steps, give one of any other
width after training (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of
Diffusion Models", Section 3 and Appendix C).
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks


@runtime_checkable
class Average(Protocol):
    """One moving average's profile."""

    def share(self, step: ArrayLike) -> Float[Array, ""]:
        """s_t, for the step t from 1 on."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """Decay β, ramped up over the first steps so that the start is soon forgotten.

    Attributes:
      decay: β, in [0, 1).

    Raises:
      ValueError: decay is out of range.
    """

    decay: float = 0.9999

    def __post_init__(self):
        checks.number("decay", self.decay, 0.0, 1.0, "[)")

    def share(self, step: ArrayLike) -> Float[Array, ""]:
        """1 - min(β, t / (9 + t)), as max(1 - β, 9 / (9 + t)): float32 has few β near 1."""
        t = jnp.asarray(step, jnp.float32)
        return jnp.maximum(1.0 - self.decay, 9.0 / (9.0 + t))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Power:
    """A power function of the step.

    Attributes:
      width: σ_rel, in (0, 0.28).

    Raises:
      ValueError: width is out of range.
    """

    width: float = 0.1

    def __post_init__(self):
        exponent(self.width)

    def share(self, step: ArrayLike) -> Float[Array, ""]:
        """1 - (1 - 1/t)^(γ+1)."""
        t = jnp.asarray(step, jnp.float32)
        return -jnp.expm1((exponent(self.width) + 1.0) * jnp.log1p(-1.0 / t))


def move(average: Average, ema: Any, params: Any, step: ArrayLike) -> Any:
    """The average after step t, from the one before it and the parameters after t."""
    share = average.share(step)
    return jax.tree.map(lambda a, p: a + share * (p - a), ema, params)


def exponent(width: float) -> float:
    """γ of a power function of relative width σ_rel: the root of the cubic of Appendix C.

    (γ + 1) σ^-2 = (γ + 2)² (γ + 3)

    Raises:
      ValueError: The width is outside (0, 0.28).
    """
    checks.number("width", width, 0.0, 0.28, "()")
    inverse = width**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def weights(
    steps: np.ndarray, widths: np.ndarray, *, step: int, width: float
) -> Float[np.ndarray, " kept"]:
    """How much of each kept average makes the one of another width: least squares over profiles.

    The profile of an average of exponent γ after T steps is p(t) = (γ + 1) t^γ / T^(γ+1) on [0, T];
    the weights x minimise ∫ (Σ_i x_i p_i(t) - p(t))² dt (Karras et al. 2024, Appendix C.2), and are
    divided by their sum: an average of parameters that do not change is those parameters.

    Args:
      steps: The step T_i at which each average was kept, (kept,).
      widths: Its σ_rel, (kept,).
      step: T of the average wanted; not after the last kept one.
      width: Its σ_rel.

    Returns:
      The weights, (kept,), float64, of sum 1.
    """
    kept = [(float(t), exponent(float(w))) for t, w in zip(steps, widths, strict=True)]
    wanted = (float(step), exponent(width))
    gram = np.array([[_overlap(a, b) for b in kept] for a in kept])
    right = np.array([_overlap(a, wanted) for a in kept])
    found = np.linalg.lstsq(gram, right, rcond=1e-13)[0]
    return found / found.sum()


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """∫ p_a(t) p_b(t) dt of two profiles (T, γ), in closed form."""
    (long, g_long), (short, g_short) = max(a, b), min(a, b)
    ratio = (short / long) ** g_long
    return (g_long + 1.0) * (g_short + 1.0) * ratio / ((g_long + g_short + 1.0) * long)
