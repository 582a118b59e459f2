"""Classifier-free guidance whose strength changes with the noise level.

    ε̃(z_λ, c) = (1 + w(λ)) ε(z_λ, c) - w(λ) ε(z_λ, ∅)

(Ho & Salimans 2022, Equation 6, level by level.)
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.logsnr import floating
from cfg_jax.guidance.base import Guidance, ask_both, extrapolate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheduled(Guidance):
    """The denoiser (1 + w(λ)) ε(c) - w(λ) ε(∅); made by `scheduled`.

    Attributes:
      denoiser: The network, asked once for both halves.
      w: The strength as a function of λ.
      null: What stands for no condition.
    """

    denoiser: Any
    w: Any
    null: Any

    def __call__(self, z, logsnr, cond):
        """Returns the guided ε, or the guided pair where the network returns pairs."""
        both = ask_both(self.denoiser, z, logsnr, cond, self.null)
        return extrapolate(*both, self._strength(z, logsnr))

    def _strength(self, z, logsnr):
        """w(λ), a scalar or of (batch,).

        Raises:
          ValueError: The function returns something else.
        """
        w = self.w(logsnr)
        checks.numbers("w(logsnr)", w)
        if jnp.shape(w) not in ((), z.shape[:1]):
            raise ValueError(
                f"w(logsnr) must be a number, or one an example, ({len(z)},); got {checks.told(w)}"
            )
        return floating(w)


def scheduled(denoiser: Denoiser, *, w: Any, null: Any) -> Scheduled:
    """Guides by a strength that is a function of λ.

    ε̃ = (1 + w(λ)) ε(c) - w(λ) ε(∅): Ho & Salimans 2022, Equation 6, level by level (schedules of w
    are compared by Wang et al. 2024, "Analysis of Classifier-Free Guidance Weight Schedulers").
    Acts in ε-space; being affine with coefficients that sum to one, the same combination of x̂
    belongs to it. w(λ) = 0 is the conditional network to the last bit. Both halves are always
    evaluated; a strength that is zero outside a range costs less as an `interval`.

    Args:
      denoiser: A network trained with and without its condition.
      w: `logsnr -> strength` in the paper's w, of λ's shape or a scalar: a plain function, or a
        callable pytree (`jax.tree_util.Partial`) whose numbers are traced.
      null: What stands for no condition, as in `classifier_free`.

    Returns:
      A denoiser.

    Raises:
      ValueError: w is not callable. When called: null does not fit the condition, or w returns
        no strength.
      TypeError: denoiser cannot be called.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> label = lambda z, logsnr, cond: jnp.broadcast_to(1.0 * cond[:, None], z.shape)
    >>> guided = guidance.scheduled(label, w=lambda logsnr: 2.0 * jax.nn.sigmoid(logsnr), null=10)
    >>> guided(jnp.zeros((1, 1)), 0.0, jnp.array([4])).tolist()
    [[-2.0]]
    """
    checks.function("denoiser", denoiser)
    if not callable(w):
        raise ValueError(f"w must be a function of logsnr, got {w!r}")
    return Scheduled(denoiser=denoiser, w=w, null=null)
