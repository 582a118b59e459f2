"""Schedules of discrete-time diffusions: their noise levels, joined by straight lines in λ."""

import abc
import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.logsnr import floating
from cfg_jax.diffusion.schedules.base import Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscreteSchedule(Schedule):
    """The T = `steps` noise levels of a discrete-time diffusion, joined by straight lines in λ.

        ᾱ_t = Π_{s ≤ t} (1 - β_s),    λ_t = log ᾱ_t - log(1 - ᾱ_t),    t = 0, …, T - 1

    (Ho et al. 2020, "Denoising Diffusion Probabilistic Models", Section 2, whose t runs from 1.)
    λ_t is formed in float64 on the host. Between whole t, λ is linear in t, and u = t / (T - 1): so
    p(λ) is constant between neighbouring levels, and both directions are exact at whole t.

    Attributes:
      steps: T, the number of noise levels, from 2 to 100,000.
      spacing: Which t a grid of fewer steps visits: "even", round(k (T - 1) / (steps - 1)), both
        ends among them; or "leading", the multiples of a stride from 0 on, the choice of DDIM,
        which begins a little below the greatest noise. The stride is the least that visits as many
        levels as there are steps; where none does, it is T // steps. They are the spacings of
        guided-diffusion ("N" and "ddimN", which refuses those N that no stride visits); all T steps
        are the same grid in both.
      logsnr_min: λ_{T-1}, derived.
      logsnr_max: λ_0, derived.

    Raises:
      ValueError: steps is not a whole number from 2 to 100,000, or so few that a β reaches 1; or
        spacing is unknown.
    """

    steps: int = 1000
    spacing: str = "even"
    logsnr_min: float = dataclasses.field(init=False, repr=False)
    logsnr_max: float = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "steps", checks.whole("steps", self.steps, 2, 100_000))
        if not np.all(self.betas < 1.0):
            raise ValueError(f"{self.steps} steps are too few for {type(self).__name__}")
        if self.spacing not in ("even", "leading"):
            raise ValueError(f'spacing must be "even" or "leading", got {self.spacing!r}')
        object.__setattr__(self, "logsnr_min", float(self.levels[-1]))
        object.__setattr__(self, "logsnr_max", float(self.levels[0]))
        super().__post_init__()

    @property
    @abc.abstractmethod
    def betas(self) -> np.ndarray:
        """β_t, the variance that step t adds, (T,), float64."""

    @property
    def levels(self) -> np.ndarray:
        """λ_t for t = 0, …, T - 1, descending, float64."""
        log_alpha_bar = np.cumsum(np.log1p(-self.betas))
        return log_alpha_bar - np.log(-np.expm1(log_alpha_bar))

    def at(self, t: ArrayLike) -> Float[Array, "..."]:
        """λ_t, for t in [0, T - 1] of any shape, whole or not."""
        return jnp.interp(floating(t), np.arange(self.steps), self.levels)

    def time(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """The t in [0, T - 1] with λ_t = λ, the inverse of `at`; the nearer end outside."""
        ascending = np.arange(self.steps, dtype=float)[::-1]
        return jnp.interp(floating(logsnr), self.levels[::-1], ascending)

    def _logsnr(self, u, xp):
        return xp.interp(u * (self.steps - 1), np.arange(self.steps), self.levels)

    def cdf(self, logsnr):
        """1 - t(λ) / (T - 1)."""
        return 1.0 - self.time(logsnr) / (self.steps - 1)

    def log_prob(self, logsnr):
        """-log((T - 1) (λ_t - λ_{t+1})) between two levels, -∞ outside the range."""
        logsnr = floating(logsnr)
        rising = self.levels[::-1]
        place = jnp.searchsorted(jnp.asarray(rising, logsnr.dtype), logsnr, side="right") - 1
        density = jnp.asarray(-np.log((self.steps - 1) * np.diff(rising)), logsnr.dtype)
        return jnp.where(self.covers(logsnr), density[jnp.clip(place, 0, self.steps - 2)], -jnp.inf)

    def grid(self, steps: int) -> np.ndarray:
        """The noise levels of a reverse process that asks the network at `steps` of the T levels.

        Args:
          steps: The number of steps, from 1 to T.

        Returns:
          λ_t of the visited t, ascending in λ, and then ∞: the last step leads from the last t to
          the data (ᾱ_{-1} = 1). steps + 1 values, float64.

        Raises:
          ValueError: `steps` is not a whole number from 1 to T.
        """
        steps = checks.steps(steps)
        if steps > self.steps:
            raise ValueError(f"steps must be at most {self.steps}, got {steps}")
        return np.append(self.levels[self._times(steps)[::-1]], np.inf)

    def _times(self, steps: int) -> np.ndarray:
        """The t that a grid visits, ascending."""
        if self.spacing == "leading":
            stride = -(-self.steps // steps)  # the least with at most as many
            exact = len(range(0, self.steps, stride)) == steps
            return np.arange(steps) * (stride if exact else self.steps // steps)
        if steps == 1:
            return np.array([self.steps - 1])
        # Added up one by one, as guided-diffusion does: so its ties are rounded alike.
        strides = np.full(steps - 1, (self.steps - 1) / (steps - 1))
        return np.rint(np.append(0.0, np.cumsum(strides))).astype(int)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearBeta(DiscreteSchedule):
    """β from 1e-4 to 0.02 in equal steps, for T = 1000; both times 1000 / T for another T.

    Ho et al. 2020, Section 4; the scaling is that of Nichol & Dhariwal 2021's code.

    >>> from cfg_jax import schedules
    >>> schedule = schedules.LinearBeta(steps=1000)
    >>> schedule.grid(1000)[[0, -2, -1]].round(2).tolist()
    [-10.12, 9.21, inf]
    """

    @property
    def betas(self):
        """Linear between the two ends."""
        scale = 1000.0 / self.steps
        return np.linspace(scale * 1e-4, scale * 0.02, self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledLinearBeta(DiscreteSchedule):
    """√β from √first to √last in equal steps, the schedule of latent diffusion.

    That of Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models",
    whose code calls it linear; diffusers calls it scaled_linear.

    Attributes:
      first: β_0, above 0 and below 1; 0.00085 for Stable Diffusion, 0.0015 for LDM on ImageNet.
      last: β_{T-1}, likewise; 0.012 for Stable Diffusion, 0.0195 for LDM on ImageNet.

    The other attributes are those of `DiscreteSchedule`.

    >>> from cfg_jax import schedules
    >>> schedules.ScaledLinearBeta().grid(1000)[[0, -2, -1]].round(2).tolist()
    [-5.36, 7.07, inf]
    """

    first: float = 0.00085
    last: float = 0.012

    def __post_init__(self):
        for name in ("first", "last"):
            checks.number(name, getattr(self, name), 0.0, 1.0, ends="()")
        super().__post_init__()

    @property
    def betas(self):
        """The squares of what is linear between the two roots."""
        return np.linspace(np.sqrt(self.first), np.sqrt(self.last), self.steps) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineBeta(DiscreteSchedule):
    """β_t = min(1 - f(t + 1) / f(t), 0.999) with f(t) = cos²((t/T + s) / (1 + s) · π/2), s = 0.008.

    Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", Equation 17.
    """

    @property
    def betas(self):
        """From the ratios of f, at most 0.999."""
        t = np.arange(self.steps + 1) / self.steps
        f = np.cos((t + 0.008) / 1.008 * np.pi / 2.0) ** 2
        return np.minimum(1.0 - f[1:] / f[:-1], 0.999)
