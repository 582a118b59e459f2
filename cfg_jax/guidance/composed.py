"""Several conditions at once, each with a weight of its own, by one batched call of one network.

    ε̃(z_λ, c) = ε(z_λ, c) + Σ_i w_i (ε(z_λ, c_i) - ε(z_λ, ∅))

(Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models", Algorithm 1,
where c = ∅.)
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, ArrayLike

from cfg_jax.diffusion import checks, condition
from cfg_jax.diffusion.condition import Condition, PerExample
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.guidance.base import Guidance, amount, ask, combined, strength


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Composed(Guidance):
    """The denoiser ε(c) + Σ_i w_i (ε(c_i) - ε(∅)); made by `composed`.

    Attributes:
      denoiser: The network, asked once for everything.
      conds: The c_i, each `PerExample`.
      ws: The w_i, each a scalar or `PerExample` of (batch,).
      null: What stands for no condition.
    """

    denoiser: Any
    conds: tuple[Any, ...]
    ws: tuple[Any, ...]
    null: Any

    def __call__(self, z, logsnr, cond):
        """Returns the guided ε, or the guided pair where the network returns pairs."""
        others = [condition.broadcast(other, cond) for other in (self.null, *self.conds)]
        plain, null, *parts = ask(self.denoiser, z, logsnr, cond, *others)

        def combine(plain, null, *parts):
            weighted = zip(self.ws, parts, strict=True)
            return plain + sum(amount(w, z) * (part - null) for w, part in weighted)

        return combined(combine, plain, null, *parts)


def composed(
    denoiser: Denoiser,
    *,
    conds: Sequence[Condition],
    ws: Sequence[ArrayLike] | Array,
    null: Any,
) -> Composed:
    """Adds further conditions to the one that is sampled (Liu et al. 2022, Algorithm 1).

    ε̃ = ε(c) + Σ_i w_i (ε(c_i) - ε(∅)). Acts in ε-space; being affine with coefficients that sum to
    one, the same combination of x̂ belongs to it. Every w_i counts like w: all 0 is the plain
    conditional network, and c itself among the conditions with weight w is `classifier_free`. The
    paper's algorithm is that of c = ∅ (sample with the null as the condition), where a weight of 1
    already conditions on c_i; a negative weight is the paper's negation. All conditions are
    evaluated in one call, of n + 2 times the batch.

    Args:
      denoiser: A network trained with and without its condition.
      conds: c_1 … c_n: for each a pytree like the condition's, (batch, ...).
      ws: w_1 … w_n, any real numbers: each a scalar, or (batch,) for one an example. They may be
        traced.
      null: What stands for no condition, as in `classifier_free`.

    Returns:
      A denoiser.

    Raises:
      ValueError: There is no condition, conds and ws differ in number, or a weight is no finite
        number or has more than one axis. When called: a condition or null does not fit.
      TypeError: denoiser cannot be called, or conds or ws is no sequence.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> label = lambda z, logsnr, cond: jnp.broadcast_to(1.0 * cond[:, None], z.shape)
    >>> both = guidance.composed(label, conds=[jnp.array([4]), jnp.array([6])], ws=[1.0, 0.5],
    ...                          null=10)
    >>> both(jnp.zeros((1, 1)), 0.0, jnp.array([1])).tolist()
    [[-7.0]]
    """
    checks.function("denoiser", denoiser)
    for name, value in (("conds", conds), ("ws", ws)):
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        if not listed and not getattr(value, "ndim", 0):
            raise TypeError(f"{name} must be a sequence, got {checks.told(value)}")
    if not len(conds) or len(conds) != len(ws):
        raise ValueError(
            f"composed needs one weight for each of at least one condition, "
            f"got {len(conds)} conditions and {len(ws)} weights"
        )
    return Composed(
        denoiser=denoiser,
        conds=tuple(PerExample(condition.arrays("conds", cond)) for cond in conds),
        ws=tuple(strength(f"ws[{i}]", w) for i, w in enumerate(ws)),
        null=null,
    )
