"""What a network may predict, each kind one row of two coefficients and a scale.

A prediction is a combination p = a x + b ε of the data and the noise in z_λ = α x + σ ε, made by a
network that is shown z times a scale:

| kind    |   a    |     b     | scale     | source                                               |
| ------- | ------ | --------- | --------- | ---------------------------------------------------- |
| `EPS`   |   0    |     1     | 1         | Ho et al. 2020, Equation 11                          |
| `X`     |   1    |     0     | 1         | the data itself                                      |
| `V`     |  -σ    |     α     | 1         | Salimans & Ho 2022, Appendix D                       |
| `SCORE` |   0    |   -1/σ    | 1         | ∇_z log q(z_λ|x) (Song et al. 2021, Section 3)       |
| `FLOW`  |  -1    |     1     | 1/(α + σ) | Lipman et al. 2023, Equation 23; Liu et al. 2022     |
| `edm()` | σ/(sr) |  -α s/r   | 1/r       | Karras et al. 2022, Equation 7 and Table 1           |

with s the data's standard deviation and r = sqrt(σ² + α² s²) that of z. z and p are two linear
equations for x and ε; one solution serves every kind.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.logsnr import alpha, expand, floating, sigma
from cfg_jax.diffusion.names import lookup


class Estimate(NamedTuple):
    """A network's opinion of both parts of z, and of the reverse variance if it learned that.

    Attributes:
      x: The data, of z's shape.
      eps: The noise, of z's shape.
      v: The v of the reverse variance (σ̃²)^(1-v) (σ²)^v, of z's shape, mostly within [0, 1]; None
        where nothing was learned.
    """

    x: Float[Array, "..."]
    eps: Float[Array, "..."]
    v: Float[Array, "..."] | None = None


def _one(alpha: Array, sigma: Array) -> ArrayLike:
    return 1.0


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of prediction, p = a x + b ε.

    Attributes:
      name: What recipes call it.
      coefficients: (α, σ) -> (a, b).
      scale: (α, σ) -> what z is multiplied by before the network is asked.
    """

    name: str
    coefficients: Callable[[Array, Array], tuple[ArrayLike, ArrayLike]]
    scale: Callable[[Array, Array], ArrayLike] = _one


EPS = Kind("eps", lambda a, s: (0.0, 1.0))
X = Kind("x", lambda a, s: (1.0, 0.0))
V = Kind("v", lambda a, s: (-s, a))
SCORE = Kind("score", lambda a, s: (0.0, -1.0 / s))
FLOW = Kind("flow", lambda a, s: (-1.0, 1.0), lambda a, s: 1.0 / (a + s))
"""ε - x, the velocity of z / (α + σ) = (1 - t) x + t ε, with t = σ / (α + σ)."""


@functools.cache
def edm(sigma_data: float = 0.5) -> Kind:
    """EDM's F: what its preconditioned network predicts (Karras et al. 2022, Equation 7, Table 1).

    In y = z / α and s = σ / α the paper's D(y) = c_skip y + c_out F(c_in y) is x̂; so F is
    (x - c_skip y) / c_out, and the network is shown c_in y = z / sqrt(σ² + α² σ_data²).

    Args:
      sigma_data: The data's standard deviation, positive.

    Returns:
      The kind; the same one for the same number.

    Raises:
      ValueError: sigma_data is not a positive number.

    >>> from cfg_jax import prediction
    >>> prediction.edm(0.5) is prediction.KINDS["edm"]
    True
    """
    checks.number("sigma_data", sigma_data, 0.0, ends="()")

    def deviation(a, s):
        return jnp.sqrt(jnp.square(s) + jnp.square(sigma_data * a))

    def coefficients(a, s):
        r = deviation(a, s)
        return s / (sigma_data * r), -sigma_data * a / r

    name = "edm" if sigma_data == 0.5 else f"edm({sigma_data:g})"
    return Kind(name, coefficients, lambda a, s: 1.0 / deviation(a, s))


KINDS = {kind.name: kind for kind in (EPS, X, V, SCORE, FLOW, edm(0.5))}


def kind_of(value: Any, what: str = "kind") -> Kind:
    """A kind of prediction: itself, or the one that a name means.

    Args:
      value: The kind, or its name.
      what: What it is called, for the error.

    Raises:
      ValueError: No kind has that name.
      TypeError: It is neither a name nor a kind.

    >>> from cfg_jax import prediction
    >>> prediction.kind_of("v") is prediction.V
    True
    """
    if isinstance(value, str):
        return lookup(KINDS, value, what)
    if not isinstance(value, Kind):
        raise TypeError(
            f"{what} must be one of {', '.join(KINDS)}, by name or as an object such as "
            f"prediction.V, got {checks.told(value)}"
        )
    return value


def checked(said: Any, z: Float[Array, "..."], who: str = "a denoiser") -> Any:
    """What a denoiser or its network said of z: an array of z's shape, or an `Estimate` of such.

    Raises:
      ValueError: It is something else, such as an array that only broadcasts to z's shape, or one
        of whole or complex numbers.
    """
    parts = [part for part in said if part is not None] if isinstance(said, Estimate) else [said]
    for part in parts:
        shape, dtype = getattr(part, "shape", None), getattr(part, "dtype", "float32")
        if shape != z.shape or not jnp.issubdtype(dtype, jnp.floating):
            alone = "None" if part is None else f"a {type(part).__name__}"
            got = alone if shape is None else f"shape {shape} of {dtype}"
            raise ValueError(
                f"{who} must return an array of floats of z's shape, {z.shape}, or an Estimate of "
                f"such; got {got}"
            )
    return said


def scaled(z: Float[Array, "..."], *, logsnr: ArrayLike, kind: Kind) -> Float[Array, "..."]:
    """What a network of a kind is shown of z: z times the kind's scale, in z's dtype."""
    scale = kind.scale(expand(alpha(logsnr), z), expand(sigma(logsnr), z))
    return jnp.asarray(scale * floating(z)).astype(z.dtype)


def estimate(
    p: Float[Array, "..."], z: Float[Array, "..."], *, logsnr: ArrayLike, kind: Kind | str
) -> Estimate:
    """The data and the noise that a prediction p of the given kind implies for z.

    Args:
      p: The prediction, of z's shape.
      z: z_λ of (batch, ...).
      logsnr: λ, a scalar or (batch,).
      kind: What p predicts, a kind or its name.

    Returns:
      x = (b z - σ p) / d and ε = (α p - a z) / d, with d = α b - σ a. Where λ is very negative, x
      from ε divides by a tiny α; the rounding of z is amplified as much.
    """
    signal, noise = expand(alpha(logsnr), z), expand(sigma(logsnr), z)
    a, b = kind_of(kind).coefficients(signal, noise)
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
    source: Kind | str,
    target: Kind | str,
) -> Float[Array, "..."]:
    """Turns a prediction of one kind into another.

    Args:
      p: The prediction of kind `source`, of z's shape.
      z: z_λ of (batch, ...).
      logsnr: λ, a scalar or (batch,).
      source: What p predicts, a kind or its name.
      target: What is wanted, likewise.

    Returns:
      The prediction of kind `target`, of z's shape.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.diffusion import prediction
    >>> x = prediction.convert(jnp.zeros((1, 2)), jnp.ones((1, 2)), logsnr=0.0,
    ...                        source=prediction.EPS, target=prediction.X)
    >>> [round(float(value), 4) for value in x[0]]
    [1.4142, 1.4142]
    """
    wanted = kind_of(target, "target")
    pair = estimate(p, z, logsnr=logsnr, kind=kind_of(source, "source"))
    a, b = wanted.coefficients(expand(alpha(logsnr), z), expand(sigma(logsnr), z))
    return jnp.asarray(a * pair.x + b * pair.eps)
