"""Solvers: each takes z from one noise level to the next, cleaner one.

A solver is a frozen dataclass, its knobs leaves of a pytree. The last step of a reverse process
goes to λ' = ∞, where α = 1 and σ = 0: every solver returns x̂ itself there.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks, process
from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.denoiser import Denoiser, read
from cfg_jax.diffusion.logsnr import alpha, expand, floating, one_minus_exp, sigma

Noise = Callable[[], Float[Array, "..."]]
"""Draws standard normal noise of z's shape; a step calls it at most once."""


@runtime_checkable
class Solver(Protocol):
    """One step of a reverse process."""

    def step(
        self,
        denoiser: Denoiser,
        z: Float[Array, "..."],
        cond: Condition,
        noise: Noise,
        *,
        logsnr: ArrayLike,
        logsnr_next: ArrayLike,
    ) -> Float[Array, "..."]:
        """Returns z_λ', λ' = `logsnr_next` > λ = `logsnr`, both scalars; x̂ where λ' = ∞."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral:
    """Ancestral sampling: z_λ' ~ N(μ̃_{λ'|λ}(z_λ, x̂), (σ̃²_{λ'|λ})^(1-v) (σ²_{λ|λ'})^v I).

    Ho & Salimans 2022, Algorithm 2; the paper samples with v = 0.3 at 64×64 and 0.2 at 128×128.

    Attributes:
      v: The interpolation between the smallest and the largest reverse variance, in [0, 1].

    Raises:
      ValueError: v is a plain number outside [0, 1].

    >>> from cfg_jax import solvers
    >>> solvers.Ancestral(v=0.3)
    Ancestral(v=0.3)
    """

    v: ArrayLike = 0.3

    def __post_init__(self):
        checks.within("v", self.v, 0.0, 1.0)

    def step(self, denoiser, z, cond, noise, *, logsnr, logsnr_next):
        """Draws z_λ' from the reverse transition."""
        x = read(denoiser, z, logsnr, cond).x
        mean, _ = process.posterior(z, x, logsnr=logsnr, logsnr_next=logsnr_next)
        variance = process.reverse_variance(logsnr=logsnr, logsnr_next=logsnr_next, v=self.v)
        return mean + expand(jnp.sqrt(variance), z) * noise()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM:
    """Denoising diffusion implicit models: z_λ' = α' x̂ + sqrt(σ'² - s²) ε̂ + s · noise.

    s² = η² (1 - e^(λ-λ')) σ'² (Song et al. 2021, "Denoising Diffusion Implicit Models", Equations
    12 and 16, in λ). η = 0 is deterministic and draws no noise; η = 1 is `Ancestral(v=0)`.

    Attributes:
      eta: η, in [0, 1].

    Raises:
      ValueError: eta is a plain number outside [0, 1].
    """

    eta: ArrayLike = 0.0

    def __post_init__(self):
        checks.within("eta", self.eta, 0.0, 1.0)

    def step(self, denoiser, z, cond, noise, *, logsnr, logsnr_next):
        """Moves z along x̂ and ε̂, and replaces a share of ε̂ by fresh noise."""
        x, eps = read(denoiser, z, logsnr, cond)
        eta = floating(self.eta)
        fresh = eta**2 * one_minus_exp(logsnr, logsnr_next)
        kept = (1 - eta**2) + eta**2 * jnp.exp(floating(logsnr) - logsnr_next)  # 1 - fresh
        drawn = jax.lax.cond(eta > 0, noise, lambda: jnp.zeros_like(z))
        direction = jnp.sqrt(kept) * eps + jnp.sqrt(fresh) * drawn
        return alpha(logsnr_next) * x + sigma(logsnr_next) * direction


SOLVERS: dict[str, type] = {"ancestral": Ancestral, "ddim": DDIM}
"""The solvers by the names that commands take."""
