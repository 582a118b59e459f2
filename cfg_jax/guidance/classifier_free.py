"""Classifier-free guidance, and negative conditions, by one batched call of one network.

    ε̃(z_λ, c) = (1 + w) ε(z_λ, c) - w ε(z_λ, ∅)

(Ho & Salimans 2022, Equation 6.) It acts on ε; being affine with coefficients that sum to one, the
same combination of x̂ belongs to it. A negative condition stands in the place of the null.
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import ArrayLike

from cfg_jax.diffusion import checks, condition
from cfg_jax.diffusion.condition import Condition, PerExample
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.guidance.base import Guidance, ask_both, extrapolate, strength


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierFree(Guidance):
    """The denoiser (1 + w) ε(c) - w ε(away); made by `classifier_free` and `negative`.

    Attributes:
      denoiser: The network, asked once for both halves.
      w: The strength, a scalar or `PerExample` of (batch,).
      away: What guidance leads away from: a null, or `PerExample` conditions.
    """

    denoiser: Any
    w: Any
    away: Any

    def __call__(self, z, logsnr, cond):
        """Returns the guided ε, or the guided pair where the network returns pairs."""
        return extrapolate(*ask_both(self.denoiser, z, logsnr, cond, self.away), self.w)


def classifier_free(denoiser: Denoiser, *, w: ArrayLike, null: Any) -> ClassifierFree:
    """Guides a network by itself, denied its condition (Ho & Salimans 2022, Equation 6).

    Acts in ε-space. w = 0 is the conditional network to the last bit, w = -1 the unconditional
    one. Both halves are always evaluated, in one call of twice the batch, whatever w is.

    Args:
      denoiser: A network trained with and without its condition.
      w: The paper's guidance strength (s = 1 + w elsewhere), any real number: a scalar, or (batch,)
        for one strength an example. It may be traced.
      null: What stands for no condition: cond's pytree without the batch axis. For class labels the
        integer that training used, usually the number of classes.

    Returns:
      A denoiser.

    Raises:
      ValueError: w holds a NaN or an infinity, or has more than one axis. When called: null does
        not fit the condition.
      TypeError: denoiser cannot be called.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> label = lambda z, logsnr, cond: jnp.broadcast_to(1.0 * cond[:, None], z.shape)
    >>> guided = guidance.classifier_free(label, w=0.5, null=10)
    >>> guided(jnp.zeros((2, 1)), 0.0, jnp.array([0, 2])).tolist()
    [[-5.0], [-2.0]]
    """
    checks.function("denoiser", denoiser)
    return ClassifierFree(denoiser=denoiser, w=strength("w", w), away=null)


def negative(denoiser: Denoiser, *, w: ArrayLike, cond: Condition) -> ClassifierFree:
    """Guides towards one condition and away from another, as negative prompts do.

    ε̃ = (1 + w) ε(c) - w ε(c₋), in ε-space: Equation 6 with c₋ in the place of the null.

    Args:
      denoiser: A conditional network.
      w: The strength, as in `classifier_free`.
      cond: The negative conditions c₋, one an example: a pytree like the positive ones', (batch,
        ...).

    Returns:
      A denoiser.

    Raises:
      ValueError: As `classifier_free`.
      TypeError: denoiser cannot be called, or cond is no pytree of arrays.
    """
    checks.function("denoiser", denoiser)
    away = PerExample(condition.arrays("cond", cond))
    return ClassifierFree(denoiser=denoiser, w=strength("w", w), away=away)
