"""Grids: the noise levels at which a reverse process calls the denoiser.

A grid is a callable `(schedule, steps) -> levels`: steps + 1 values of λ, ascending, the schedule's
noisiest first. The last one stands for clean data: whatever its value, the reverse process ends at
λ = ∞. Grids are frozen and hashable: static under jit. Levels are float64, made on the host.

A schedule may reach further than a sample has to: at λ = -20 and 20 there is nothing to decide, and
steps that are spent there are missing in between. So grids but `UniformU` keep to a range of their
own where the schedule's is wider.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from cfg_jax.diffusion import checks, schedules
from cfg_jax.diffusion.schedules import Schedule

Grid = Callable[[Schedule, int], np.ndarray]
"""`(schedule, steps) -> levels`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformU:
    """Equally spaced in the schedule's u: `schedule.grid(steps)`, as Ho & Salimans 2022 sample."""

    def __call__(self, schedule: Schedule | str, steps: int) -> np.ndarray:
        """Returns steps + 1 levels, from logsnr_min to logsnr_max."""
        return schedules.made(schedule).grid(steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformLogSNR:
    """Equally spaced in λ (Lu et al. 2022a, "DPM-Solver", Section 3.3).

    Attributes:
      start: The noisiest level to start from, see `Secant`.
      end: The cleanest level to go to; at 13 σ/α is 0.0015.

    Raises:
      ValueError: start is not less than end, or not finite.

    >>> from cfg_jax import schedules
    >>> from cfg_jax.sampling import grids
    >>> grids.UniformLogSNR()(schedules.Cosine(logsnr_min=-8.0, logsnr_max=8.0), 4).tolist()
    [-8.0, -4.0, 0.0, 4.0, 8.0]
    """

    start: float = -10.2
    end: float = 13.0

    def __post_init__(self):
        _check_range(self)

    def __call__(self, schedule: Schedule | str, steps: int) -> np.ndarray:
        """Returns steps + 1 levels within the schedule's range."""
        whole, steps = schedules.made(schedule), checks.steps(steps)
        return np.linspace(*_ends(whole, self.start, self.end), steps + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Karras:
    """s^(1/ρ) equally spaced, with s = σ/α = e^(-λ/2), and s = 0 after the last.

        s_i = (s_max^(1/ρ) + i / (N - 1) (s_min^(1/ρ) - s_max^(1/ρ)))^ρ for i < N,    s_N = 0

    (Karras et al. 2022, Equation 5); s_max and s_min are those of the ends. The paper's own, 80 and
    0.002, are λ = -8.8 and 12.4.

    Attributes:
      rho: ρ, from 0.1 to 1,000; the paper's 7 crowds the levels toward the data.
      start: The noisiest level to start from, see `Secant`.
      end: The cleanest level to go to.

    Raises:
      ValueError: rho is out of range, start is not less than end, or not finite.
    """

    rho: float = 7.0
    start: float = -10.2
    end: float = 13.0

    def __post_init__(self):
        _check_range(self)
        checks.number("rho", self.rho, 0.1, 1000.0)

    def __call__(self, schedule: Schedule | str, steps: int) -> np.ndarray:
        """Returns `steps` levels within the schedule's range (the first alone if 1), and ∞."""
        whole, steps = schedules.made(schedule), checks.steps(steps)
        ends = np.array(_ends(whole, self.start, self.end))
        first, last = np.exp(-ends / (2.0 * self.rho))
        roots = np.linspace(first, last, steps)
        return np.append(-2.0 * self.rho * np.log(roots), np.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Secant:
    """Quantiles of a widened hyperbolic secant, λ = m + 2 s log tan θ with θ equally spaced.

    At m = 0 and s = 1 it is the cosine schedule's p(λ). The levels lie closest around m, where a
    sample makes up its mind. With more steps they spread out, towards the noise above all: there an
    exact denoiser needs few, but the x̂ of a network is ε's error / α. The last call is made at a
    level that rises with the number of steps, so that what the final x̂ blurs stays in proportion to
    the error of the steps before it:

        m = m_6 - c log(N / 6),    s = s_6 + c log(N / 6)    (for N < 6 as at 6)
        λ_end = a + b log(N / 6),    σ/α ∝ N^(-b/2) there.

    The constants are the defaults' (see `defaults`), and depend on the number of steps alone. The
    first level is the schedule's noisiest, but no noisier than `start`.

    Attributes:
      centre: m_6, that at 6 steps, as far from 0 as λ may be.
      width: s_6, from 0.2 to 1,000.
      spread: c, from 0 to 80.
      end: a, the level of the last call at 6 steps.
      growth: b, from 0 to 80.
      start: The noisiest level to start from. -10.2 is just beyond where the linear β of Ho et al.
        2020 starts (-10.12): α = 0.006 there, and z holds next to nothing of x. From further out a
        step of few would amplify a network's error in ε by 1 / α.

    Raises:
      ValueError: centre, width, spread or growth is out of its range, start is not less than end,
        or not finite.

    >>> from cfg_jax import schedules
    >>> from cfg_jax.sampling import grids
    >>> grids.Secant()(schedules.Cosine(), 6).round(2).tolist()
    [-10.2, -3.17, -0.66, 1.13, 2.74, 4.5, inf]
    """

    centre: float = 2.0
    width: float = 1.9
    spread: float = 1.2
    end: float = 4.5
    growth: float = 2.8
    start: float = -10.2

    def __post_init__(self):
        _check_range(self)
        checks.logsnr("centre", self.centre)
        checks.number("width", self.width, 0.2, 1000.0)
        for name in ("spread", "growth"):
            checks.number(name, getattr(self, name), 0.0, checks.LARGEST_LOGSNR)

    def __call__(self, schedule: Schedule | str, steps: int) -> np.ndarray:
        """Returns `steps` levels within the schedule's range, and ∞."""
        whole, steps = schedules.made(schedule), checks.steps(steps)
        first = min(max(whole.logsnr_min, self.start), whole.logsnr_max)
        last = min(self.end + self.growth * math.log(steps / 6.0), whole.logsnr_max)
        ends = np.array([first, max(first, last)])
        spread = self.spread * math.log(max(steps, 6) / 6.0)
        centre, width = self.centre - spread, self.width + spread
        low, high = np.arctan(np.exp((ends - centre) / (2.0 * width)))
        angles = np.linspace(low, high, steps)
        return np.append(centre + 2.0 * width * np.log(np.tan(angles)), np.inf)


def check_fineness(grid: Grid, schedule: Schedule, levels: np.ndarray) -> None:
    """Raises ValueError where levels lie too far apart for any solver to draw the data's spread.

    Judged by DDIM on data of standard deviation 0.5, for which each step is one factor. Fewer than
    5 steps are taken as they come.
    """
    shares = [share for steps, share in _SHARES.items() if len(levels) > steps]
    signal, noise = (1.0 / (1.0 + np.exp(sign * levels[:-1])) for sign in (-1.0, 1.0))
    variance = 0.25 * signal + noise
    x = 0.25 * np.sqrt(signal) / variance  # x̂ / z and, below, z_λ' / z_λ
    factors = np.sqrt(signal[1:]) * x[:-1] + np.sqrt(noise[1:] * noise[:-1]) / variance[:-1]
    share = np.prod(factors) * x[-1] / 0.5
    if shares and share < shares[-1]:
        raise ValueError(
            f"{grid} is too coarse for {schedule} in {len(levels) - 1} steps: samples would have "
            f"{share:.2f} of the data's spread; take more steps, the grid Secant, or give the "
            "levels themselves as an array"
        )


_SHARES = {5: 0.5, 20: 0.8, 50: 0.92}
"""From so many steps on, the least share of the data's standard deviation."""


def _check_range(grid: "UniformLogSNR | Karras | Secant") -> None:
    for name in ("start", "end"):
        checks.number(name, getattr(grid, name))
    if not grid.start < grid.end:
        raise ValueError(f"start must be less than end, got start={grid.start}, end={grid.end}")


def _ends(schedule: Schedule, start: float, end: float) -> tuple[float, float]:
    """The part of a schedule's range that lies within a grid's, or the schedule's if none does."""
    low, high = max(schedule.logsnr_min, start), min(schedule.logsnr_max, end)
    return (low, high) if low < high else (schedule.logsnr_min, schedule.logsnr_max)


GRIDS: dict[str, type] = {kind.__name__: kind for kind in (UniformU, UniformLogSNR, Karras, Secant)}
"""The grids by the names that recipes and commands use."""
