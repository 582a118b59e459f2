"""CFG-Zero*: guidance away from the unconditional prediction, once that is fitted in size.

    p̃ = (1 + w) p(z_λ, c) - w s p(z_λ, ∅),    s = <p(c), p(∅)> / ‖p(∅)‖² of each example

(Fan et al. 2025, "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models", its
optimized scale.)
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import ArrayLike

from cfg_jax.diffusion import checks, prediction
from cfg_jax.diffusion.denoiser import Denoiser, as_pair
from cfg_jax.guidance.base import (
    Guidance,
    amount,
    ask_both,
    extrapolate,
    inner,
    moved,
    prediction_of,
    ratio,
    strength,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroStar(Guidance):
    """The denoiser (1 + w) p(c) - w s p(∅); made by `zero_star`.

    Attributes:
      denoiser: The network, asked once for both halves.
      w: The strength, a scalar or `PerExample` of (batch,).
      null: What stands for no condition.
      space: The kind of prediction that is fitted.
    """

    denoiser: Any
    w: Any
    null: Any
    space: prediction.Kind = dataclasses.field(metadata={"static": True})

    def __call__(self, z, logsnr, cond):
        """Returns the guided pair."""
        towards, away = ask_both(self.denoiser, z, logsnr, cond, self.null)
        guided = as_pair(extrapolate(towards, away, self.w), z, logsnr)
        plain = prediction_of(as_pair(towards, z, logsnr), logsnr, self.space)
        null = prediction_of(as_pair(away, z, logsnr), logsnr, self.space)
        s = ratio(inner(plain, null), inner(null, null), 1.0)
        return moved(guided, amount(self.w, z) * (1 - s) * null, logsnr, self.space)


def zero_star(
    denoiser: Denoiser, *, w: ArrayLike, null: Any, space: prediction.Kind | str = prediction.FLOW
) -> ZeroStar:
    """Guides away from the unconditional prediction scaled to fit (CFG-Zero*; Fan et al. 2025).

    p̃ = (1 + w) p(c) - w s p(∅), s the multiple of p(∅) that is nearest to p(c). It is not invariant
    to the space, and acts in the one that `space` names: the paper's is the velocity of flow
    matching, ε - x. w = 0 is the conditional network to the last bit; the paper's ω is 1 + w. Where
    p(∅) is 0, so is its part. The paper's zero-init, which holds z still for the first steps, is
    no property of a denoiser and is left out: a grid that starts later does it.

    Args:
      denoiser: A network trained with and without its condition.
      w: The strength, any real number: a scalar, or (batch,) for one an example. It may be traced.
      null: What stands for no condition, as in `classifier_free`.
      space: A kind of `prediction`, `FLOW`, `V`, `EPS`, `X`, `SCORE` or `edm()`, or its name.

    Returns:
      A denoiser that returns pairs.

    Raises:
      ValueError: w is no finite number or has more than one axis. When called: null does not fit
        the condition.
      TypeError: denoiser cannot be called.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance, prediction
    >>> tell = lambda z, logsnr, cond: cond
    >>> guided = guidance.zero_star(tell, w=1.0, null=jnp.array([2.0, 0.0]), space=prediction.EPS)
    >>> guided(jnp.zeros((1, 2)), 0.0, jnp.array([[1.0, 1.0]])).eps.tolist()
    [[1.0, 2.0]]
    """
    checks.function("denoiser", denoiser)
    kind = prediction.kind_of(space, "space")
    return ZeroStar(denoiser=denoiser, w=strength("w", w), null=null, space=kind)
