"""Guidance in a limited range of noise levels, and none elsewhere.

    ε̃(z_λ, c) = the guided ε where low ≤ λ < high, ε(z_λ, c) elsewhere

(Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and Distribution
Quality in Diffusion Models".)
"""

import dataclasses
import math
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from cfg_jax.diffusion import piecewise
from cfg_jax.diffusion.denoiser import Denoiser, read
from cfg_jax.diffusion.logsnr import expand, floating
from cfg_jax.guidance.base import Guidance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """The guided denoiser where low ≤ λ < high, the unguided one elsewhere; made by `interval`.

    Attributes:
      guided: The guidance.
      low: The noisier end of the range.
      high: The cleaner end.
    """

    guided: Any
    low: float = dataclasses.field(metadata={"static": True})
    high: float = dataclasses.field(metadata={"static": True})

    def breaks(self) -> tuple[float, ...]:
        """The finite bounds, and wherever the guidance itself switches."""
        own = filter(math.isfinite, (self.low, self.high))
        return tuple(sorted({*own, *piecewise.breaks(self.guided)}))

    def at(self, logsnr: float) -> Denoiser:
        """The guidance, or what it guides."""
        return self.guided if self.low <= logsnr < self.high else self.guided.unguided

    def held(self, level: ArrayLike) -> "Held":
        """Whichever it is at one level, at whatever level it is asked."""
        guided = piecewise.held(self.guided, level)
        return Held(interval=dataclasses.replace(self, guided=guided), level=level)

    def __call__(self, z, logsnr, cond):
        """Returns the pair at a λ that need not be known: a scalar one evaluates one side alone."""
        return self.chosen(z, logsnr, cond, level=logsnr)

    def chosen(self, z, logsnr, cond, *, level: ArrayLike):
        """The pair at λ, of the side that `level` is on."""
        place = expand(floating(level), z)
        inside = (self.low <= place) & (place < self.high)

        def guided():
            return self._pair(self.guided, z, logsnr, cond)

        def unguided():
            return self._pair(self.guided.unguided, z, logsnr, cond)

        if not inside.ndim:
            return jax.lax.cond(inside, guided, unguided)
        return jax.tree.map(lambda on, off: jnp.where(inside, on, off), guided(), unguided())

    def _pair(self, denoiser, z, logsnr, cond):
        """What a side returns, in one dtype for both."""
        dtype = floating(z).dtype
        return jax.tree.map(lambda a: a.astype(dtype), read(denoiser, z, logsnr, cond))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """An interval that one level has decided.

    Attributes:
      interval: The interval.
      level: That level, a scalar or (batch,).
    """

    interval: Interval
    level: Any

    def __call__(self, z, logsnr, cond):
        """Returns the pair at λ."""
        return self.interval.chosen(z, logsnr, cond, level=self.level)


def interval(guided: Denoiser, *, low: float = -math.inf, high: float = math.inf) -> Interval:
    """Limits guidance to the noise levels low ≤ λ < high (Kynkäänniemi et al. 2024).

    Elsewhere the denoiser that `guided` guides acts alone, and a sampler, which cuts its scan at
    the bounds, does not evaluate the other half. Acts in the space of `guided`, whose w keeps its
    meaning. The paper's range σ_lo < σ/α ≤ σ_hi is low = -2 log σ_hi and high = -2 log σ_lo.
    Adapters such as `clipped` go around the interval, not into it.

    A sampler decides once a step, by the level that the step starts from, as the authors' does: so
    both of Heun's calls are on one side. Called by itself, or from within a function that hides it,
    an interval decides at each λ that it is asked at.

    Args:
      guided: Any guidance of this package.
      low: The noisier end, a plain number; -∞ (the default) guides from the first step on.
      high: The cleaner end, a plain number; ∞ (the default) guides to the last step.

    Returns:
      A denoiser that returns pairs.

    Raises:
      ValueError: guided is no guidance, a bound is no plain number, or low is not less than high.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> label = lambda z, logsnr, cond: jnp.broadcast_to(1.0 * cond[:, None], z.shape)
    >>> guided = guidance.classifier_free(label, w=1.0, null=10)
    >>> limited = guidance.interval(guided, low=-1.0, high=3.0)
    >>> [limited(jnp.zeros((1, 1)), lam, jnp.array([4])).eps.item() for lam in (-2.0, 0.0, 3.0)]
    [4.0, -2.0, 4.0]
    """
    if not isinstance(guided, Guidance):
        raise ValueError(
            f"interval limits a guidance, such as classifier_free(...), got {type(guided).__name__}"
        )
    if not (isinstance(low, Real) and isinstance(high, Real) and low < high):
        raise ValueError(f"low must be a plain number less than high, got low={low}, high={high}")
    return Interval(guided=guided, low=float(low), high=float(high))
