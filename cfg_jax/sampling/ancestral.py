"""Solvers of one call a step that remember nothing: ancestral sampling and DDIM."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import ArrayLike

from cfg_jax.diffusion import checks, process
from cfg_jax.diffusion.denoiser import learned_v, read
from cfg_jax.diffusion.logsnr import alpha, expand, floating, one_minus_exp, root, sigma
from cfg_jax.diffusion.prediction import checked
from cfg_jax.sampling.solver import check_knob, fresh, register, scalar


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral:
    """Ancestral sampling: z_λ' ~ N(μ̃_{λ'|λ}(z_λ, x̂), (σ̃²_{λ'|λ})^(1-v) (σ²_{λ|λ'})^v I).

    Ho & Salimans 2022, Algorithm 2; the paper samples with v = 0.3 at 64×64 and 0.2 at 128×128.
    With `shift` the mean moves by variance · shift(z_λ, λ, c): the gradient w ∇_z log p(c|z_λ) of a
    noisy classifier makes Dhariwal & Nichol 2021's Algorithm 1, see `guidance.ascent`.

    Attributes:
      v: The interpolation between the smallest and the largest reverse variance: a number in
        [0, 1], or None for what the network learned (`Estimate.v`).
      shift: `(z, logsnr, cond) -> direction` of z's shape, a callable pytree or a plain function;
        or None.

    Raises:
      ValueError: v is outside [0, 1], or shift is no callable. When sampled: v is None, and the
        denoiser learned none, or shift returns another shape.

    >>> from cfg_jax import solvers
    >>> solvers.Ancestral(v=0.3)
    Ancestral(v=0.3)
    """

    reads_eps: ClassVar[bool] = False

    v: ArrayLike | None = 0.3
    shift: Any = dataclasses.field(default=None, repr=False, metadata={"recipe": False})

    def __post_init__(self):
        if self.v is not None:
            check_knob("v", self.v, 0.0, 1.0)
        if self.shift is not None and not callable(self.shift):
            raise ValueError(
                "shift must be None or a callable (z, logsnr, cond) -> direction, "
                f"got {checks.told(self.shift)}"
            )

    def init(self, z):
        """Nothing to remember."""
        return ()

    def step(self, denoiser, z, state, cond, noise, *, logsnr, logsnr_next):
        """Draws z_λ' from the reverse transition."""
        pair = read(denoiser, z, logsnr, cond)
        mean, _ = process.posterior(z, pair.x, logsnr=logsnr, logsnr_next=logsnr_next)
        v = learned_v(pair) if self.v is None else scalar("v", self.v)
        between = (
            (expand(logsnr, z), expand(logsnr_next, z)) if jnp.ndim(v) else (logsnr, logsnr_next)
        )
        variance = process.reverse_variance(logsnr=between[0], logsnr_next=between[1], v=v)
        variance = expand(variance, z)
        if self.shift is not None:
            direction = checked(self.shift(z, logsnr, cond), z, "shift")
            mean = mean + variance * direction
        return mean + root(variance) * noise(), state

    def calls(self, steps):
        """One a step."""
        return steps


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM:
    """Denoising diffusion implicit models: z_λ' = α' x̂ + sqrt(σ'² - s²) ε̂ + s · noise.

    s² = η² (1 - e^(λ-λ')) σ'² (Song et al. 2021, "Denoising Diffusion Implicit Models", Equations
    12 and 16, in λ). η = 0 is deterministic and draws no noise; η = 1 is `Ancestral(v=0)`.

    Attributes:
      eta: η, in [0, 1].

    Raises:
      ValueError: eta is outside [0, 1].
    """

    reads_eps: ClassVar[bool] = True

    eta: ArrayLike = 0.0

    def __post_init__(self):
        check_knob("eta", self.eta, 0.0, 1.0)

    def init(self, z):
        """Nothing to remember."""
        return ()

    def step(self, denoiser, z, state, cond, noise, *, logsnr, logsnr_next):
        """Moves z along x̂ and ε̂, and replaces a share of ε̂ by fresh noise."""
        pair = read(denoiser, z, logsnr, cond)
        eta, sigma_next = scalar("eta", self.eta), sigma(logsnr_next)
        kept = (1 - eta**2) + eta**2 * jnp.exp(floating(logsnr) - logsnr_next)  # 1 - s² / σ'²
        mean = (
            expand(alpha(logsnr_next), z) * pair.x + expand(sigma_next * root(kept), z) * pair.eps
        )
        drawn = fresh(noise, sigma_next * eta * root(one_minus_exp(logsnr, logsnr_next)))
        return mean + drawn, state

    def calls(self, steps):
        """One a step."""
        return steps
