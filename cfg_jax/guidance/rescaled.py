"""Guidance that keeps the contrast of the conditional prediction.

    p̃ = (1 + w) p(c) - w p(∅),    p' = φ p̃ std(p(c)) / std(p̃) + (1 - φ) p̃

(Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", Section 3.4,
Equations 15 and 16; std is over all of an example.)
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
    extrapolate,
    moved,
    norm,
    prediction_of,
    ratio,
    strength,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rescaled(Guidance):
    """Classifier-free guidance, its standard deviation matched; made by `rescaled`.

    Attributes:
      denoiser: The network, asked once for both halves.
      w: The strength, a scalar or `PerExample` of (batch,).
      null: What stands for no condition.
      phi: The share of the rescaled prediction, a scalar or `PerExample` of (batch,).
      space: The kind of prediction whose standard deviation is matched.
    """

    denoiser: Any
    w: Any
    null: Any
    phi: Any
    space: prediction.Kind = dataclasses.field(metadata={"static": True})

    def __call__(self, z, logsnr, cond):
        """Returns the guided and rescaled pair."""
        towards, away = ask_both(self.denoiser, z, logsnr, cond, self.null)
        guided = as_pair(extrapolate(towards, away, self.w), z, logsnr)
        p = prediction_of(guided, logsnr, self.space)
        plain = prediction_of(as_pair(towards, z, logsnr), logsnr, self.space)
        change = ratio(_spread(plain), _spread(p), 1.0) - 1
        return moved(guided, amount(self.phi, z) * change * p, logsnr, self.space)


def _spread(p):
    """The standard deviation of each example, times a constant; 0 where it is but rounding."""
    deviation = norm(p - jnp.mean(p, axis=tuple(range(1, p.ndim)), keepdims=True))
    return jnp.where(deviation > 8 * jnp.finfo(p.dtype).eps * norm(p), deviation, 0.0)


def rescaled(
    denoiser: Denoiser,
    *,
    w: ArrayLike,
    null: Any,
    phi: ArrayLike,
    space: prediction.Kind | str = prediction.V,
) -> Rescaled:
    """Guides, then scales each example back to the conditional prediction's standard deviation.

    p' = p̃ (1 + φ (std(p(c)) / std(p̃) - 1)) (Lin et al. 2023, Equations 15 and 16). It is not
    invariant to the space, and acts in the one that `space` names: the paper's is the network's own
    prediction, v. φ = 0 is `classifier_free`; w = 0 is the conditional network. A guided prediction
    that is constant over an example, but for rounding, is left as it is.

    Args:
      denoiser: A network trained with and without its condition.
      w: The paper's guidance strength (s = 1 + w elsewhere, in that paper too), any real number: a
        scalar, or (batch,) for one an example. It may be traced.
      null: What stands for no condition, as in `classifier_free`.
      phi: φ in [0, 1], a scalar or (batch,); 0.7 in the paper.
      space: A kind of `prediction`, `V`, `FLOW`, `EPS`, `X`, `SCORE` or `edm()`, or its name. A
        network of one kind acts as well in another.

    Returns:
      A denoiser that returns pairs.

    Raises:
      ValueError: w or phi is no finite number or has more than one axis, or phi lies outside
        [0, 1]. When called: null does not fit the condition.
      TypeError: denoiser cannot be called.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance, prediction
    >>> scale = lambda z, logsnr, cond: cond[:, None] * z
    >>> guided = guidance.rescaled(scale, w=1.0, null=1.0, phi=1.0, space=prediction.EPS)
    >>> guided(jnp.array([[1.0, -1.0]]), 0.0, jnp.array([4.0])).eps.round().tolist()
    [[4.0, -4.0]]
    """
    checks.function("denoiser", denoiser)
    checks.within("phi", phi, 0.0, 1.0)
    return Rescaled(
        denoiser=denoiser,
        w=strength("w", w),
        null=null,
        phi=strength("phi", phi),
        space=prediction.kind_of(space, "space"),
    )
