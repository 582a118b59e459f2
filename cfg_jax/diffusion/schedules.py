"""Distributions p(λ) of the log signal-to-noise ratio, each by its quantile function λ(u).

A schedule maps u in [0, 1] to λ: u = 0 is the cleanest level, `logsnr_max`, and u = 1 the noisiest,
`logsnr_min`. Training draws u ~ Uniform(0, 1); sampling walks a grid of u from 1 to 0. Schedules
are frozen and hashable: static under jit. Constants are formed in float64 on the host; the ends of
the range are reached through the complement of an angle, never through a difference of near equals.
"""

import abc
import dataclasses
import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks, names
from cfg_jax.diffusion.logsnr import floating


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(abc.ABC):
    """p(λ) on [logsnr_min, logsnr_max], and λ(u) with u = 0 at logsnr_max.

    Raises:
      ValueError: logsnr_min is not smaller than logsnr_max, or one of them is not in [-80, 80].
    """

    logsnr_min: float = -20.0
    logsnr_max: float = 20.0

    def __post_init__(self):
        checks.logsnr_range(self.logsnr_min, self.logsnr_max)

    @abc.abstractmethod
    def _logsnr(self, u, xp: ModuleType):
        """λ(u) by the array module `xp`: jax.numpy, or NumPy for grids in float64 on the host."""

    @abc.abstractmethod
    def cdf(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """P(Λ ≤ λ): 0 at logsnr_min and below, 1 at logsnr_max and above."""

    @abc.abstractmethod
    def log_prob(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """Log p(λ), of λ = λ(u) when u ~ Uniform(0, 1); -∞ outside the range."""

    def logsnr(self, u: ArrayLike) -> Float[Array, "..."]:
        """λ(u), for u in [0, 1] of any shape; decreasing, logsnr_max at u = 0."""
        return self._logsnr(floating(u), jnp)

    def u(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """The inverse of `logsnr`, in [0, 1]."""
        return jnp.subtract(1.0, self.cdf(logsnr))

    def quantile(self, p: ArrayLike) -> Float[Array, "..."]:
        """The λ with cdf(λ) = p, for p in [0, 1]: λ(1 - p)."""
        return self.logsnr(1.0 - floating(p))

    def sample(
        self, key: jax.Array, shape: tuple[int, ...], stratified: bool = False
    ) -> Float[Array, "..."]:
        """Draws λ ~ p(λ).

        Args:
          key: A JAX random key.
          shape: The shape of the result.
          stratified: Draw one value from each of N = prod(shape) equally likely intervals, in the
            order of the array, instead of N independent values. Every value alone still follows
            p(λ); averages over the array vary less.

        Returns:
          λ of the given shape, float32.
        """
        u = jax.random.uniform(key, shape)
        if stratified:
            count = math.prod(shape)
            u = stratify(u, jnp.arange(count).reshape(shape), count)
        return self.logsnr(u)

    def grid(self, steps: int) -> np.ndarray:
        """The noise levels of a reverse process of `steps` steps, equally spaced in u.

        Args:
          steps: The number of steps, at least 1.

        Returns:
          steps + 1 values of λ, ascending from logsnr_min (noise) to logsnr_max, float64.

        Raises:
          ValueError: `steps` is not a whole number of at least 1.
        """
        steps = checks.steps(steps)
        return self._logsnr(np.linspace(1.0, 0.0, steps + 1), np)


def stratify(u: ArrayLike, index: ArrayLike, count: int) -> Float[Array, "..."]:
    """Moves u ~ Uniform(0, 1) into the `index`-th of `count` equal intervals of [0, 1]."""
    return (floating(index) + floating(u)) / count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
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

    def cdf(self, logsnr):
        """(arctan(e^(λ/2)) - arctan(e^(λ_min/2))) / a."""
        below, above = self._parts(logsnr)
        return jnp.where(below < above, below, 1.0 - above)

    def u(self, logsnr):
        """(arctan(e^(-λ/2)) - b) / a."""
        below, above = self._parts(logsnr)
        return jnp.where(above < below, above, 1.0 - below)

    def _parts(self, logsnr):
        """The probability below λ, and that above it."""
        logsnr = jnp.clip(floating(logsnr), self.logsnr_min, self.logsnr_max)
        below, above = (self.logsnr_min, logsnr), (logsnr, self.logsnr_max)
        return _angle(*below, jnp) / self._a, _angle(*above, jnp) / self._a

    def log_prob(self, logsnr):
        """Log sech(λ/2) - log 4a inside the range, -∞ outside."""
        logsnr = floating(logsnr)
        log_sech = -jnp.logaddexp(logsnr / 2.0, -logsnr / 2.0) + math.log(2.0)
        inside = (logsnr >= self.logsnr_min) & (logsnr <= self.logsnr_max)
        return jnp.where(inside, log_sech - math.log(4.0 * self._a), -jnp.inf)


def _angle(low: float | Array, high: float | Array, xp: ModuleType):
    """The difference arctan(e^(-low/2)) - arctan(e^(-high/2)), without cancellation."""
    return xp.arctan(xp.sinh((high - low) / 4.0) / xp.cosh((high + low) / 4.0))


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
        inside = (logsnr >= self.logsnr_min) & (logsnr <= self.logsnr_max)
        return jnp.where(inside, -math.log(self._width), -jnp.inf)


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
        inside = (logsnr >= self.logsnr_min) & (logsnr <= self.logsnr_max)
        return jnp.where(inside, density[jnp.clip(place, 0, self.steps - 2)], -jnp.inf)

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


SCHEDULES: dict[str, type[Schedule]] = {
    kind.__name__: kind for kind in (Cosine, Uniform, LinearBeta, CosineBeta)
}
"""The schedules by the names that recipes use."""


def made(value: Any, kind: type = Schedule) -> Any:
    """A schedule of a kind: itself, or the one with its defaults that a name means.

    Raises as `names.made` does.
    """
    known = {name: each for name, each in SCHEDULES.items() if issubclass(each, kind)}
    return names.made(known, value, "schedule", lambda made: isinstance(made, kind))
