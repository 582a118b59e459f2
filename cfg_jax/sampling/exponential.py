"""Exponential integrals of a polynomial through estimates of the data, at given half log-SNRs.

The flow's exact solution (Lu et al. 2022b, "DPM-Solver++", Proposition 4.1), with ℓ = λ/2,

    z' = (σ'/σ) z + α' ∫_ℓ^ℓ' e^(ℓ''-ℓ') x̂(ℓ'') dℓ'',

leaves one unknown: x̂ along the way. Multistep methods put a polynomial through the estimates that
they have. In u = ℓ'' - ℓ and h = ℓ' - ℓ all they need are the moments

    m_k(h) = ∫_0^h e^(u-h) u^k du = h^k - k m_{k-1} = k! h^(k+1) φ_{k+1}(-h),    m_0 = 1 - e^(-h).
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cfg_jax.diffusion.logsnr import expand

_TERMS = 18
"""Of the power series where h < 1: enough for float64."""


def moments(h: Float[Array, "..."], count: int) -> list[Float[Array, "..."]]:
    """m_0(h) to m_{count-1}(h), for h ≥ 0 of any shape and either size without cancellation.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.sampling.exponential import moments
    >>> [round(float(m), 6) for m in moments(jnp.asarray(1.0), 2)]
    [0.632121, 0.367879]
    """
    near, far = jnp.minimum(h, 1.0), jnp.maximum(h, 1.0)
    powers = (-near)[..., None] ** jnp.arange(_TERMS)
    found = [-jnp.expm1(-h)]
    recursive = -jnp.expm1(-far)
    for k in range(1, count):
        terms = [math.factorial(k) / math.factorial(j + k + 1) for j in range(_TERMS)]
        series = near ** (k + 1) * jnp.sum(jnp.asarray(terms, h.dtype) * powers, -1)
        recursive = far**k - k * recursive
        found.append(jnp.where(h < 1.0, series, recursive))
    return found


def integral(
    moments: Sequence[Float[Array, "..."]],
    nodes: Sequence[Float[Array, "..."]],
    values: Sequence[Float[Array, "..."]],
    known: int | Int[Array, "..."],
) -> Float[Array, "..."]:
    """∫_0^h e^(u-h) p(u) du, p the polynomial through the first `known` nodes, in Newton's form.

    Args:
      moments: m_0(h), m_1(h), …, as many as there are nodes, each a scalar or (batch,).
      nodes: u_0, u_1, …, likewise, all different, those that are not known too. Where two are one,
        for floating point cannot tell them apart, the difference of their values counts as 0.
      values: p at the nodes, each (batch, ...).
      known: How many nodes count, at least 1; it may be traced, and (batch,).

    Returns:
      The integral, of a value's shape.
    """
    differences = list(values)
    zero = jnp.zeros_like(moments[0])
    basis = [jnp.ones_like(moments[0])]  # Π_{i<j} (u - u_i), its coefficients from u^0 on
    total = expand(moments[0], values[0]) * differences[0]
    for j in range(1, len(nodes)):
        differences = [
            _quotient(differences[i + 1] - differences[i], nodes[i + j] - nodes[i])
            for i in range(len(differences) - 1)
        ]
        raised, same = [zero, *basis], [*basis, zero]  # u · basis, and basis
        basis = [up - nodes[j - 1] * low for up, low in zip(raised, same, strict=True)]
        weight = sum(c * m for c, m in zip(basis, moments[: j + 1], strict=True))
        total = total + expand(jnp.where(j < known, weight, 0.0), values[0]) * differences[0]
    return total


def _quotient(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """The quotient a / b of (batch, ...) and a scalar or (batch,); 0 where b is 0."""
    b = expand(b, a)
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))
