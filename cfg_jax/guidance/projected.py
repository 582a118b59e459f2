"""Adaptive projected guidance: less of the part of guidance that only saturates.

    Δ = x̂(c) - x̂(∅), shortened to the norm r where it is longer
    Δ_∥ = <Δ, x̂(c)> x̂(c) / ‖x̂(c)‖²,    x̂' = x̂(c) + w (Δ - (1 - η) Δ_∥)

(Sadat et al. 2024, "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion
Models", Algorithm 1.)
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from cfg_jax.diffusion import checks, prediction
from cfg_jax.diffusion.denoiser import Denoiser, as_pair
from cfg_jax.guidance.base import (
    Guidance,
    amount,
    ask_both,
    combined,
    difference,
    inner,
    moved,
    norm,
    ratio,
    strength,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Projected(Guidance):
    """Adaptive projected guidance, in x̂-space; made by `projected`.

    Attributes:
      denoiser: The network, asked once for both halves.
      w: The strength, a scalar or `PerExample` of (batch,).
      null: What stands for no condition.
      eta: η, the share of the parallel part, a scalar or `PerExample` of (batch,).
      norm_threshold: r, a scalar or `PerExample` of (batch,), or None.
    """

    denoiser: Any
    w: Any
    null: Any
    eta: Any
    norm_threshold: Any

    def __call__(self, z, logsnr, cond):
        """Returns the guided pair."""
        towards, away = ask_both(self.denoiser, z, logsnr, cond, self.null)
        plain = as_pair(towards, z, logsnr)
        change = difference(towards, away, logsnr)
        parallel = ratio(inner(change.x, plain.x), inner(plain.x, plain.x), 0.0) * plain.x
        weight = amount(self.w, z) * self._shortened(change.x)
        whole = combined(lambda p, dp: p + weight * dp, plain, change)
        less = weight * (1 - amount(self.eta, z)) * parallel
        return moved(whole, -less, logsnr, prediction.X)

    def _shortened(self, change):
        """min(1, r / ‖Δ‖) for each example."""
        if self.norm_threshold is None:
            return 1.0
        return jnp.minimum(1.0, ratio(amount(self.norm_threshold, change), norm(change), 1.0))


def projected(
    denoiser: Denoiser,
    *,
    w: ArrayLike,
    null: Any,
    eta: ArrayLike = 0.0,
    norm_threshold: ArrayLike | None = None,
) -> Projected:
    """Guides with less of what is parallel to x̂(c) (APG; Sadat et al. 2024, Algorithm 1).

    Acts in x̂-space, where parallel means contrast and saturation; ε̂ moves with x̂. w is the paper's
    w of classifier-free guidance (Sadat's is 1 + w): 0 is the conditional network to the last bit.
    η = 1 without a threshold is `classifier_free`. The algorithm's reverse momentum, an average
    over the steps of a sampler, is left out: denoisers have no memory.

    Args:
      denoiser: A network trained with and without its condition.
      w: The strength, any real number: a scalar, or (batch,) for one an example. It may be traced.
      null: What stands for no condition, as in `classifier_free`.
      eta: η, the share of the parallel part that is kept, a scalar or (batch,); 0 in the paper.
      norm_threshold: r, the largest ‖Δ‖ of an example, a scalar or (batch,); None (the default)
        sets no limit. It grows with the root of the example's size.

    Returns:
      A denoiser that returns pairs.

    Raises:
      ValueError: w, eta or norm_threshold is no finite number or has more than one axis, or
        norm_threshold is negative. When called: null does not fit the condition.
      TypeError: denoiser cannot be called.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import denoiser, guidance, prediction
    >>> tell = denoiser.from_prediction(lambda z, logsnr, cond: cond, prediction.X)
    >>> guided = guidance.projected(tell, w=1.0, null=jnp.array([1.0, -3.0]))
    >>> guided(jnp.zeros((1, 2)), 0.0, jnp.array([[2.0, 0.0]])).x.tolist()
    [[2.0, 3.0]]
    """
    checks.function("denoiser", denoiser)
    if norm_threshold is not None:
        checks.within("norm_threshold", norm_threshold, 0.0, jnp.inf)
        norm_threshold = strength("norm_threshold", norm_threshold)
    return Projected(
        denoiser=denoiser,
        w=strength("w", w),
        null=null,
        eta=strength("eta", eta),
        norm_threshold=norm_threshold,
    )
