"""Euler's and Heun's methods in s = σ/α = e^(-λ/2), with stochastic churn.

In y = z/α the flow is dy/ds = ε̂. Before each step churn raises the noise from s to ŝ = (1 + γ) s
by fresh noise of variance ŝ² - s² (Karras et al. 2022, "Elucidating the Design Space of
Diffusion-Based Generative Models", Algorithm 2). With ŝ its level is λ̂ = λ - 2 log(1 + γ).
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.denoiser import read
from cfg_jax.diffusion.logsnr import alpha, expand, floating, root, sigma
from cfg_jax.diffusion.prediction import Estimate
from cfg_jax.sampling.solver import LONGEST, Noise, check_knob, fresh, register, scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Churned:
    """The knobs of churn and the step that raises the noise.

    Attributes:
      gamma: γ, the paper's S_churn divided by the number of steps, in [0, √2 - 1]. At γ = 0, the
        default, the method is deterministic and draws no noise. What noise adds grows like √γ,
        which has no derivative at 0: there the derivative by γ is that of all else.
      noise_scale: S_noise, the fresh noise's standard deviation, in [0, 2].
      s_min: S_tmin: no churn at s below it; at least 0.
      s_max: S_tmax: no churn at s above it; at least s_min, ∞ for no limit. The denoiser is asked
        at ŝ: keep s_max below the noisiest level it was trained at, divided by 1 + γ.

    Raises:
      ValueError: A knob is out of its range.
    """

    reads_eps: ClassVar[bool] = True

    gamma: ArrayLike = 0.0
    noise_scale: ArrayLike = 1.0
    s_min: ArrayLike = 0.0
    s_max: ArrayLike = math.inf

    def __post_init__(self):
        check_knob("gamma", self.gamma, 0.0, math.sqrt(2.0) - 1.0)
        check_knob("noise_scale", self.noise_scale, 0.0, 2.0)
        for name in ("s_min", "s_max"):
            check_knob(name, getattr(self, name), 0.0, math.inf)
        checks.ordered("s_min", self.s_min, "s_max", self.s_max)

    def init(self, z):
        """Nothing to remember."""
        return ()

    def _churn(
        self, z: Float[Array, "..."], noise: Noise, logsnr: ArrayLike
    ) -> tuple[Float[Array, "..."], Array]:
        """Z and its level after the noise is raised."""
        s = jnp.exp(-0.5 * floating(logsnr))
        low, high = scalar("s_min", self.s_min), scalar("s_max", self.s_max)
        gamma = jnp.where((s >= low) & (s <= high), scalar("gamma", self.gamma), 0.0)
        raised = floating(logsnr) - 2.0 * jnp.log1p(gamma)
        # ŷ = y + S_noise sqrt(ŝ² - s²) n, times α̂; (ŝ² - s²) = ŝ² (γ² + 2 γ) / (1 + γ)².
        share = root(gamma * (gamma + 2.0)) / (1.0 + gamma)
        kept = expand(alpha(raised) / alpha(logsnr), z)
        drawn = fresh(noise, scalar("noise_scale", self.noise_scale) * share * sigma(raised))
        return kept * z + drawn, raised


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Euler(_Churned):
    """Euler's method, y' = ŷ + (s' - ŝ) ε̂(ŷ): without churn, deterministic DDIM.

    Karras et al. 2022, Algorithm 2 without its correction (lines 9 to 11).

    Attributes:
      gamma: γ of churn, in [0, √2 - 1].
      noise_scale: S_noise.
      s_min: No churn at s below it.
      s_max: No churn at s above it.

    >>> from cfg_jax import solvers
    >>> solvers.Euler(gamma=0.2).calls(10)
    10
    """

    def step(self, denoiser, z, state, cond, noise, *, logsnr, logsnr_next):
        """Raises the noise, then follows the slope there."""
        z, logsnr = self._churn(z, noise, logsnr)
        return _euler(read(denoiser, z, logsnr, cond), logsnr_next), state

    def calls(self, steps):
        """One a step."""
        return steps


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(_Churned):
    """Heun's method, y' = ŷ + (s' - ŝ) (ε̂(ŷ) + ε̂(y'_Euler)) / 2, of order 2.

    Karras et al. 2022, Algorithm 2: two calls a step, one for the last, an Euler step to s' = 0.
    So is a step over which s falls to less than a tenth: its correction would add noise.

    Attributes:
      gamma: γ of churn, in [0, √2 - 1].
      noise_scale: S_noise.
      s_min: No churn at s below it.
      s_max: No churn at s above it.

    >>> from cfg_jax import solvers
    >>> solvers.Heun().calls(10)
    19
    """

    def step(self, denoiser, z, state, cond, noise, *, logsnr, logsnr_next):
        """Raises the noise, follows the slope there, and corrects by the slope at the end."""
        z, logsnr = self._churn(z, noise, logsnr)
        pair = read(denoiser, z, logsnr, cond)
        euler = _euler(pair, logsnr_next)
        far = floating(logsnr_next) - logsnr > LONGEST
        target = jnp.where(far, logsnr, logsnr_next)  # vmap evaluates both branches below

        def corrected():
            eps_next = read(denoiser, euler, target, cond).eps
            s, s_next = jnp.exp(-0.5 * logsnr), jnp.exp(-0.5 * target)
            half = expand(jnp.where(far, 0.0, alpha(target) * (s_next - s) * 0.5), euler)
            return (euler + half * (eps_next - pair.eps)).astype(euler.dtype)

        return jax.lax.cond(jnp.all(far), lambda: euler, corrected), state

    def calls(self, steps):
        """Two a step, one for the last; one as well for each that is too long to be corrected."""
        return 2 * steps - 1


def _euler(pair: Estimate, logsnr_next: ArrayLike) -> Float[Array, "..."]:
    """ŷ + (s' - ŝ) ε̂ = x̂ + s' ε̂, which does not take the difference of two large numbers."""
    signal, noise = (expand(of(logsnr_next), pair.x) for of in (alpha, sigma))
    return signal * pair.x + noise * pair.eps
