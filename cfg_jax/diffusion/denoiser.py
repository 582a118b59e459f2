"""A denoiser, `(z, logsnr, cond) -> eps`, and the adapters that make one of any network.

A denoiser is any callable whose parameters are the leaves of a pytree: a
`jax.tree_util.Partial(apply, params)`, a module of a library that registers its modules with JAX,
or a plain function without parameters. So it travels through jit, pmap and grad as an argument, and
new parameters never compile anything anew.

Most denoisers return ε alone. One whose opinions of x and ε do not follow from each other returns
the pair (`Estimate`); `read` makes the pair of either.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import prediction
from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.logsnr import alpha, expand, floating, sigma
from cfg_jax.diffusion.prediction import Estimate


@runtime_checkable
class Denoiser(Protocol):
    """Estimates the noise in z."""

    def __call__(
        self, z: Float[Array, "..."], logsnr: ArrayLike, cond: Condition
    ) -> Float[Array, "..."] | Estimate:
        """Estimates ε given z_λ of (batch, ...), λ (a scalar or (batch,)) and the condition."""


def read(
    denoiser: Denoiser, z: Float[Array, "..."], logsnr: ArrayLike, cond: Condition
) -> Estimate:
    """Calls a denoiser and returns both x̂ and ε̂, each of z's shape."""
    output = denoiser(z, logsnr, cond)
    if isinstance(output, Estimate):
        return output
    return prediction.estimate(output, z, logsnr=logsnr, kind=prediction.EPS)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class FromPrediction:
    """The denoiser of a network that predicts something other than ε.

    Attributes:
      network: `(z, logsnr, cond) -> p`.
      kind: What p predicts: `prediction.EPS`, `X`, `V` or `SCORE`.
    """

    network: Any
    kind: prediction.Kind = dataclasses.field(metadata={"static": True})

    def __call__(self, z, logsnr, cond):
        """Returns the `Estimate` that the network's prediction implies."""
        p = self.network(z, logsnr, cond)
        return prediction.estimate(p, z, logsnr=logsnr, kind=self.kind)


def from_prediction(network: Any, kind: prediction.Kind) -> FromPrediction:
    """Makes a denoiser of a network that predicts x, v or the score.

    Args:
      network: `(z, logsnr, cond) -> p`, p of z's shape.
      kind: What p predicts: `prediction.X`, `prediction.V`, `prediction.SCORE` or `prediction.EPS`.

    Returns:
      A denoiser.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import prediction
    >>> from cfg_jax.diffusion import denoiser
    >>> knows_x = denoiser.from_prediction(lambda z, logsnr, cond: jnp.ones_like(z), prediction.X)
    >>> denoiser.read(knows_x, jnp.zeros((1, 2)), 0.0, None).x.tolist()
    [[1.0, 1.0]]
    """
    return FromPrediction(network=network, kind=kind)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped:
    """A denoiser whose x̂ stays within [-bound, bound]; ε̂ moves so that both still make up z.

    Attributes:
      denoiser: The denoiser whose x̂ is clipped.
      bound: The largest |x̂|.
    """

    denoiser: Any
    bound: ArrayLike = 1.0

    def __call__(self, z, logsnr, cond):
        """Returns the clipped `Estimate`."""
        raw = read(self.denoiser, z, logsnr, cond)
        bound = floating(self.bound)
        x = jnp.clip(raw.x, -bound, bound)
        # Moving ε̂ by what x̂ moved leaves it untouched, to the last bit, wherever nothing was
        # clipped.
        moved = expand(alpha(logsnr), z) * (raw.x - x) / expand(sigma(logsnr), z)
        return Estimate(x=x, eps=raw.eps + moved)


def clipped(denoiser: Denoiser, bound: ArrayLike = 1.0) -> Clipped:
    """Keeps a denoiser's x̂ within the range of the data.

    Acts in data space, on whatever it wraps: around a guided denoiser it clips the guided x̂, which
    is the usual place.

    Args:
      denoiser: Any denoiser, guided or not.
      bound: The largest |x̂|; data in [-1, 1] want 1.

    Returns:
      A denoiser that returns the pair (x̂, ε̂) with z = α x̂ + σ ε̂.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.diffusion.denoiser import clipped
    >>> zero = lambda z, logsnr, cond: jnp.zeros_like(z)
    >>> clipped(zero)(jnp.full((1, 1), 5.0), 0.0, None).x.tolist()
    [[1.0]]
    """
    return Clipped(denoiser=denoiser, bound=bound)
