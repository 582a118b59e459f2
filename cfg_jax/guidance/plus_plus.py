"""CFG++: a guided step towards the data, and unconditional noise added back.

    x̂ = (z_λ - σ ε̃) / α with ε̃ = (1 + w) ε(z_λ, c) - w ε(z_λ, ∅),    ε̂ = ε(z_λ, ∅)

(Chung et al. 2024, "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models".)
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import ArrayLike

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.denoiser import Denoiser, as_pair
from cfg_jax.guidance.base import Guidance, ask_both, extrapolate, strength


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PlusPlus(Guidance):
    """The denoiser of the guided x̂ and the unconditional ε̂; made by `plus_plus`.

    Attributes:
      denoiser: The network, asked once for both halves.
      w: The strength, a scalar or `PerExample` of (batch,).
      null: What stands for no condition.
    """

    denoiser: Any
    w: Any
    null: Any

    def __call__(self, z, logsnr, cond):
        """Returns the pair, which does not make up z."""
        towards, away = ask_both(self.denoiser, z, logsnr, cond, self.null)
        guided = as_pair(extrapolate(towards, away, self.w), z, logsnr)
        return guided._replace(eps=as_pair(away, z, logsnr).eps)


def plus_plus(denoiser: Denoiser, *, w: ArrayLike, null: Any) -> PlusPlus:
    """Guides x̂ and leaves ε̂ unconditional (CFG++; Chung et al. 2024).

    Under `solvers.DDIM()` it is the paper's algorithm: z_λ' = α' x̂(ε̃) + σ' ε(∅). The guidance of x̂
    is that of ε-space (or x̂-space: it is affine). A solver that reads x̂ alone,
    such as `Ancestral` or `UniPC`, makes it plain `classifier_free`: name the solver.

    The paper's λ in [0, 1], with ε̃ = ε(∅) + λ (ε(c) - ε(∅)), is 1 + w: its range is w in [-1, 0].
    w = -1 is the unconditional network to the last bit; w = 0, no extrapolation, still is not the
    conditional one, for ε̂ is unconditional. Any other w is allowed.

    Args:
      denoiser: A network trained with and without its condition.
      w: λ - 1 of the paper, a scalar, or (batch,) for one an example. It may be traced.
      null: What stands for no condition, as in `classifier_free`.

    Returns:
      A denoiser that returns pairs which do not make up z.

    Raises:
      ValueError: w is no finite number or has more than one axis. When called: null does not fit
        the condition.
      TypeError: denoiser cannot be called.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> label = lambda z, logsnr, cond: jnp.broadcast_to(1.0 * cond[:, None], z.shape)
    >>> pair = guidance.plus_plus(label, w=-0.5, null=10)(jnp.zeros((1, 1)), 0.0, jnp.array([4]))
    >>> pair.x.tolist(), pair.eps.tolist()
    ([[-7.0]], [[10.0]])
    """
    checks.function("denoiser", denoiser)
    return PlusPlus(denoiser=denoiser, w=strength("w", w), null=null)
