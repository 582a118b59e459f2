"""The cosine schedule: a truncated hyperbolic secant."""

import dataclasses
import math
from types import ModuleType

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cfg_jax.diffusion.logsnr import floating
from cfg_jax.diffusion.schedules.base import TwoTailed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(TwoTailed):
    """The truncated hyperbolic secant: λ(u) = -2 log tan(a u + b).

    b = arctan(e^(-λ_max/2)), a = arctan(e^(-λ_min/2)) - b, and p(λ) = sech(λ/2) / (4 a)
    (Ho & Salimans 2022, Section 2). It is the cosine schedule of Nichol & Dhariwal (2021) in
    continuous time.

    Attributes:
      logsnr_min: λ at u = 1.
      logsnr_max: λ at u = 0.

    >>> from cfg_jax.diffusion import schedules
    >>> schedule = schedules.Cosine(logsnr_min=-20.0, logsnr_max=20.0)
    >>> schedule.grid(2).round(6).tolist()
    [-20.0, 0.0, 20.0]
    """

    @property
    def _a(self) -> float:
        return float(_angle(self.logsnr_min, self.logsnr_max, np))

    def _logsnr(self, u, xp):
        a = self._a
        b = math.atan(math.exp(-self.logsnr_max / 2.0))
        b_low = math.atan(math.exp(self.logsnr_min / 2.0))
        # tan(θ) = 1 / tan(π/2 - θ): either half of λ measures its angle from its own end.
        high = a * u + b <= math.pi / 4.0
        angle = xp.where(high, a * u + b, a * (1.0 - u) + b_low)
        logsnr = xp.where(high, -2.0, 2.0) * xp.log(xp.tan(angle))
        return xp.clip(logsnr, self.logsnr_min, self.logsnr_max)

    def _tails(self, logsnr):
        """(arctan(e^(λ/2)) - arctan(e^(λ_min/2))) / a, and (arctan(e^(-λ/2)) - b) / a."""
        below, above = (self.logsnr_min, logsnr), (logsnr, self.logsnr_max)
        return _angle(*below, jnp) / self._a, _angle(*above, jnp) / self._a

    def log_prob(self, logsnr):
        """Log sech(λ/2) - log 4a inside the range, -∞ outside."""
        logsnr = floating(logsnr)
        log_sech = -jnp.logaddexp(logsnr / 2.0, -logsnr / 2.0) + math.log(2.0)
        return jnp.where(self.covers(logsnr), log_sech - math.log(4.0 * self._a), -jnp.inf)


def _angle(low: float | Array, high: float | Array, xp: ModuleType):
    """The difference arctan(e^(-low/2)) - arctan(e^(-high/2)), without cancellation."""
    return xp.arctan(xp.sinh((high - low) / 4.0) / xp.cosh((high + low) / 4.0))
