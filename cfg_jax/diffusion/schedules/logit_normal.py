"""The logit-normal schedule, by which rectified flows are trained."""

import dataclasses
import math
from statistics import NormalDist
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.logsnr import floating
from cfg_jax.diffusion.schedules.base import TwoTailed


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitNormal(TwoTailed):
    """λ ~ N(-2 m, (2 s)²), truncated: the t of a flow z_t = (1 - t) x + t ε has logit t ~ N(m, s²).

    Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
    Section 3.1, whose best m and s are the defaults; λ = -2 logit t, and a flow's z_t is z_λ but
    for its scale. u = 1 is the noise.

    Attributes:
      mean: m, from -20 to 20. A larger one draws more noise.
      std: s, from 0.01 to 20.
      logsnr_min: λ at u = 1.
      logsnr_max: λ at u = 0.

    Raises:
      ValueError: A field is out of range, or N(-2 m, (2 s)²) is nowhere near that of λ.

    >>> from cfg_jax import schedules
    >>> schedules.LogitNormal(mean=0.5, std=1.0).grid(2).round(3).tolist()
    [-20.0, -1.0, 20.0]
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        checks.number("mean", self.mean, -20.0, 20.0)
        checks.number("std", self.std, 0.01, 20.0)
        if not self._inside > 1e-30:
            raise ValueError(
                f"mean = {self.mean} and std = {self.std} put λ near {-2.0 * self.mean}, "
                f"outside of [{self.logsnr_min}, {self.logsnr_max}]"
            )

    def _standard(self, logsnr: Any) -> Any:
        """How many standard deviations λ lies above the mean."""
        return (logsnr + 2.0 * self.mean) / (2.0 * self.std)

    @property
    def _outside(self) -> tuple[float, float]:
        """The normal's probability below logsnr_min, and that above logsnr_max."""
        return _normal(self._standard(self.logsnr_min)), _normal(-self._standard(self.logsnr_max))

    @property
    def _inside(self) -> float:
        """The normal's probability within the range."""
        low, high = self._standard(self.logsnr_min), self._standard(self.logsnr_max)
        if low > 0:  # differences of the tail that is near 0, not of the one near 1
            low, high = -high, -low
        return _normal(high) - _normal(low)

    def _logsnr(self, u: Any, xp: ModuleType) -> Any:
        on_host = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])
        quantile = on_host if xp is np else jax.scipy.special.ndtri
        low, high = self._outside
        below, above = low + self._inside * (1.0 - u), high + self._inside * u
        # Each half from its own tail: there float32 resolves what is near 0, not what is near 1.
        away = quantile(xp.maximum(xp.minimum(below, above), 1e-37))
        logsnr = 2.0 * (self.std * xp.where(below < above, away, -away) - self.mean)
        logsnr = xp.clip(logsnr, self.logsnr_min, self.logsnr_max)
        return xp.where(u <= 0.0, self.logsnr_max, xp.where(u >= 1.0, self.logsnr_min, logsnr))

    def _tails(self, logsnr):
        """(Φ(x(λ)) - Φ(x(λ_min))) / P(range) with x(λ) = (λ + 2 m) / 2 s; and so from above."""
        at = self._standard(logsnr)
        low, high = self._outside
        tails = jax.scipy.special.ndtr(at) - low, jax.scipy.special.ndtr(-at) - high
        below, above = (jnp.clip(tail / self._inside, 0.0, 1.0) for tail in tails)
        return below, above

    def log_prob(self, logsnr):
        """-x² / 2 - log(2 s √(2π) P(λ within the range)) inside the range, -∞ outside."""
        logsnr = floating(logsnr)
        scale = math.log(2.0 * self.std * math.sqrt(2.0 * math.pi) * self._inside)
        return jnp.where(self.covers(logsnr), -0.5 * self._standard(logsnr) ** 2 - scale, -jnp.inf)


def _normal(x: float) -> float:
    """Φ(x), whose lower tail keeps its digits."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))
