"""What a schedule is: a distribution p(λ), by its quantile function λ(u)."""

import abc
import dataclasses
import math
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from cfg_jax.diffusion import checks
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

    def covers(self, logsnr: Float[Array, "..."]) -> Bool[Array, "..."]:
        """Whether λ lies in the range."""
        return (logsnr >= self.logsnr_min) & (logsnr <= self.logsnr_max)

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTailed(Schedule):
    """A schedule that knows both tails of p(λ), each without the cancellation of 1 - p; a base."""

    @abc.abstractmethod
    def _tails(self, logsnr: Float[Array, "..."]) -> tuple[Array, Array]:
        """P(Λ < λ) and P(Λ > λ), of a λ in the range."""

    def _parts(self, logsnr: ArrayLike) -> tuple[Array, Array]:
        return self._tails(jnp.clip(floating(logsnr), self.logsnr_min, self.logsnr_max))

    def cdf(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """From the smaller tail."""
        below, above = self._parts(logsnr)
        return jnp.where(below < above, below, 1.0 - above)

    def u(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """From the smaller tail."""
        below, above = self._parts(logsnr)
        return jnp.where(above < below, above, 1.0 - below)


def stratify(u: ArrayLike, index: ArrayLike, count: int) -> Float[Array, "..."]:
    """Moves u ~ Uniform(0, 1) into the `index`-th of `count` equal intervals of [0, 1]."""
    return (floating(index) + floating(u)) / count
