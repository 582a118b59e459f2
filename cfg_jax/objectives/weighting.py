"""Weightings of the denoising error over λ.

A weighting is a callable `logsnr -> weight`. It says by `space` in which prediction its paper
states the error: "x", "eps", or "own" for whatever the network predicts, and by `over` what the
weighted error is averaged over: "p", the λ that training draws, or "logsnr", all λ alike, whatever
training draws. The objective converts, so that the loss is the same whatever the target:

    ‖x̂ - x‖² = e^(-λ) ‖ε̂ - ε‖²
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.logsnr import floating


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighting:
    """A base that says where the weight applies; any callable of λ serves, its space "eps"."""

    space = "eps"
    over = "p"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(Weighting):
    """1 at every λ, on the error of the target itself (Ho et al. 2020, Equation 14, for ε)."""

    space = "own"

    def __call__(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """All ones."""
        return jnp.ones_like(floating(logsnr))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SNR(Weighting):
    """e^λ on the error of x̂, which is 1 on that of ε̂ (Salimans & Ho 2022, Section 4)."""

    space = "x"

    def __call__(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """The signal-to-noise ratio."""
        return jnp.exp(floating(logsnr))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedSNR(Weighting):
    """max(e^λ, 1) on the error of x̂ (Salimans & Ho 2022, Section 4)."""

    space = "x"

    def __call__(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """The signal-to-noise ratio, at least 1."""
        return jnp.exp(jnp.maximum(floating(logsnr), 0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinSNR(Weighting):
    """min(e^λ, γ) on the error of x̂.

    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", Section 3.4.

    Attributes:
      gamma: γ, positive; 5 in the paper.

    Raises:
      ValueError: gamma is not a positive number.
    """

    gamma: float = 5.0
    space = "x"

    def __post_init__(self):
        checks.number("gamma", self.gamma, 0.0, ends="()")

    def __call__(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """The signal-to-noise ratio, at most γ."""
        return jnp.exp(jnp.minimum(floating(logsnr), math.log(self.gamma)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sigmoid(Weighting):
    """sigmoid(b - λ) on the error of ε̂, over all λ alike.

    ∫ sigmoid(b - λ) ‖ε̂ - ε‖² dλ: the loss does not depend on the λ that training draws (Kingma &
    Gao 2023, "Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation";
    Hoogeboom et al. 2024, "Simpler Diffusion").

    Attributes:
      bias: b; lower for larger images.

    Raises:
      ValueError: bias is not finite.
    """

    bias: float = 2.0
    over = "logsnr"

    def __post_init__(self):
        checks.number("bias", self.bias)

    def __call__(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """The logistic function of b - λ."""
        return jax.nn.sigmoid(self.bias - floating(logsnr))


@dataclasses.dataclass(frozen=True, kw_only=True)
class P2(Weighting):
    """(k + e^λ)^(-γ) on the error of ε̂.

    Choi et al. 2022, "Perception Prioritized Training of Diffusion Models", Equation 8.

    Attributes:
      k: Positive; 1 in the paper.
      gamma: γ, not negative; 0.5 or 1 in the paper.

    Raises:
      ValueError: k is not a positive number, or gamma is negative or not finite.
    """

    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self):
        checks.number("k", self.k, 0.0, ends="()")
        checks.number("gamma", self.gamma, 0.0)

    def __call__(self, logsnr: ArrayLike) -> Float[Array, "..."]:
        """A power of k + SNR."""
        return jnp.exp(-self.gamma * jnp.logaddexp(math.log(self.k), floating(logsnr)))
