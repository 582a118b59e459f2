"""What a network may predict, each kind one row of two coefficients.

A prediction is a combination p = a x + b ε of the data and the noise in z_λ = α x + σ ε:

| kind    |  a  |   b   | source                                                         |
| ------- | --- | ----- | -------------------------------------------------------------- |
| `EPS`   |  0  |   1   | Ho et al. 2020, Equation 11                                    |
| `X`     |  1  |   0   | the data itself                                                |
| `V`     | -σ  |   α   | Salimans & Ho 2022, Appendix D                                 |
| `SCORE` |  0  | -1/σ  | ∇_z log q(z_λ|x) (Song et al. 2021, "Score-based …", Section 3) |

z and p are two linear equations for x and ε; one solution serves every kind.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion.logsnr import alpha, expand, sigma


class Estimate(NamedTuple):
    """A network's opinion of both parts of z: the data `x` and the noise `eps`, of z's shape."""

    x: Float[Array, "..."]
    eps: Float[Array, "..."]


class Kind(NamedTuple):
    """A kind of prediction, p = a(α, σ) x + b(α, σ) ε."""

    name: str
    coefficients: Callable[[Array, Array], tuple[ArrayLike, ArrayLike]]


EPS = Kind("eps", lambda a, s: (0.0, 1.0))
X = Kind("x", lambda a, s: (1.0, 0.0))
V = Kind("v", lambda a, s: (-s, a))
SCORE = Kind("score", lambda a, s: (0.0, -1.0 / s))

KINDS = {kind.name: kind for kind in (EPS, X, V, SCORE)}


def estimate(
    p: Float[Array, "..."], z: Float[Array, "..."], *, logsnr: ArrayLike, kind: Kind
) -> Estimate:
    """The data and the noise that a prediction p of the given kind implies for z.

    Args:
      p: The prediction, of z's shape.
      z: z_λ of (batch, ...).
      logsnr: λ, a scalar or (batch,).
      kind: What p predicts.

    Returns:
      x = (b z - σ p) / d and ε = (α p - a z) / d, with d = α b - σ a. Where λ is very negative, x
      from ε divides by a tiny α; the rounding of z is amplified as much.
    """
    signal, noise = expand(alpha(logsnr), z), expand(sigma(logsnr), z)
    a, b = kind.coefficients(signal, noise)
    d = signal * b - noise * a
    return Estimate(
        x=jnp.asarray((b / d) * z - (noise / d) * p),
        eps=jnp.asarray((signal / d) * p - (a / d) * z),
    )


def convert(
    p: Float[Array, "..."],
    z: Float[Array, "..."],
    *,
    logsnr: ArrayLike,
    source: Kind,
    target: Kind,
) -> Float[Array, "..."]:
    """Turns a prediction of one kind into another.

    Args:
      p: The prediction of kind `source`, of z's shape.
      z: z_λ of (batch, ...).
      logsnr: λ, a scalar or (batch,).
      source: What p predicts.
      target: What is wanted.

    Returns:
      The prediction of kind `target`, of z's shape.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.diffusion import prediction
    >>> x = prediction.convert(jnp.zeros((1, 2)), jnp.ones((1, 2)), logsnr=0.0,
    ...                        source=prediction.EPS, target=prediction.X)
    >>> [round(float(value), 4) for value in x[0]]
    [1.4142, 1.4142]
    """
    x, eps = estimate(p, z, logsnr=logsnr, kind=source)
    a, b = target.coefficients(expand(alpha(logsnr), z), expand(sigma(logsnr), z))
    return jnp.asarray(a * x + b * eps)
