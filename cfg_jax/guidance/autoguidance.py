"""Guidance of a network by a worse version of itself.

    D̃(z_λ, c) = (1 + w) D(z_λ, c) - w D_weak(z_λ, c)

(Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", Equation 3.)
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import ArrayLike

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.denoiser import Denoiser, read
from cfg_jax.guidance.base import Guidance, extrapolate, strength


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoguidance(Guidance):
    """The denoiser (1 + w) D - w D_weak; made by `autoguidance`.

    Attributes:
      denoiser: D.
      weak: D_weak.
      w: The strength, a scalar or `PerExample` of (batch,).
    """

    denoiser: Any
    weak: Any
    w: Any

    def __call__(self, z, logsnr, cond):
        """Returns the guided pair."""
        towards = read(self.denoiser, z, logsnr, cond)
        return extrapolate(towards, read(self.weak, z, logsnr, cond), self.w)


def autoguidance(denoiser: Denoiser, weak: Denoiser, *, w: ArrayLike) -> Autoguidance:
    """Guides a network away from a weaker one that makes the same mistakes, only worse.

    D̃ = (1 + w) D - w D_weak (Karras et al. 2024, Equation 3, whose w is 1 + w here), in x̂-space and
    in ε-space at once: it is affine with coefficients that sum to one. w = 0 is the plain network
    to the last bit. The two are different networks, so each is called once, at the given condition.

    Args:
      denoiser: The network D, guided or not.
      weak: A smaller or less trained network of the same data and condition, D_weak.
      w: The strength, any real number: a scalar, or (batch,) for one an example. It may be traced.

    Returns:
      A denoiser that returns pairs.

    Raises:
      ValueError: w is no finite number or has more than one axis.
      TypeError: denoiser or weak cannot be called.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> good, bad = lambda z, logsnr, cond: 0.5 * z, lambda z, logsnr, cond: 0.25 * z
    >>> guidance.autoguidance(good, bad, w=1.0)(jnp.ones((1, 1)), 0.0, None).eps.tolist()
    [[0.75]]
    """
    checks.function("denoiser", denoiser)
    checks.function("weak", weak)
    return Autoguidance(denoiser=denoiser, weak=weak, w=strength("w", w))
