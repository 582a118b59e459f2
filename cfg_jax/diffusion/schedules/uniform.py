"""The uniform schedule."""

import dataclasses
import math

import jax.numpy as jnp

from cfg_jax.diffusion.logsnr import floating
from cfg_jax.diffusion.schedules.base import Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(Schedule):
    """Uniform in λ: λ(u) = λ_max + u (λ_min - λ_max).

    Attributes:
      logsnr_min: λ at u = 1.
      logsnr_max: λ at u = 0.
    """

    @property
    def _width(self) -> float:
        return self.logsnr_max - self.logsnr_min

    def _logsnr(self, u, xp):
        # From the nearer end, so that both ends are met exactly.
        return xp.where(
            u < 0.5, self.logsnr_max - self._width * u, self.logsnr_min + self._width * (1.0 - u)
        )

    def cdf(self, logsnr):
        """(λ - λ_min) / (λ_max - λ_min)."""
        return jnp.clip((floating(logsnr) - self.logsnr_min) / self._width, 0.0, 1.0)

    def log_prob(self, logsnr):
        """-log(λ_max - λ_min) inside the range, -∞ outside."""
        logsnr = floating(logsnr)
        return jnp.where(self.covers(logsnr), -math.log(self._width), -jnp.inf)
