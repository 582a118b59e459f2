"""Ways to sharpen what a network draws: guidance, low temperatures and truncation.

Each is a change of the denoiser, or of the noise that a solver starts from and adds. See
`temperature.py`, which compares them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scoring
from jax.scipy.special import ndtr, ndtri

from cfg_jax import guidance, sample, solvers
from cfg_jax.diffusion.denoiser import read
from cfg_jax.diffusion.logsnr import floating
from cfg_jax.sampling.defaults import choose

COLD = 1.0 / 3.0
"""The temperature that is shown."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Tempered:
    """ε / τ: the denoiser that follows the score of p(z_λ|c)^(1/τ) at every level.

    Attributes:
      denoiser: The denoiser.
      temperature: τ, positive; 1 changes nothing.
    """

    denoiser: Any
    temperature: Any

    def __call__(self, z, logsnr, cond):
        """Returns ε / τ."""
        return read(self.denoiser, z, logsnr, cond).eps / floating(self.temperature)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cooled:
    """Multiplies noise by √τ."""

    temperature: Any

    def __call__(self, n):
        """Returns √τ n."""
        return jnp.sqrt(floating(self.temperature)) * n


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Truncated:
    """Makes standard normal noise that of a normal distribution truncated to [-ψ, ψ].

    By a monotone map of each entry, not by drawing again: the same noise stays the same.

    Attributes:
      bound: ψ, positive.
    """

    bound: Any

    def __call__(self, n):
        """Returns Φ⁻¹(Φ(-ψ) + (2 Φ(ψ) - 1) Φ(n))."""
        bound = floating(self.bound)
        outside = ndtr(-bound)
        return jnp.clip(ndtri(outside + (1.0 - 2.0 * outside) * ndtr(n)), -bound, bound)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Renoised:
    """A solver whose noise is changed: what it starts from, and what it adds.

    Attributes:
      solver: The solver.
      change: `n -> n`, a callable pytree: what becomes of the noise.
    """

    solver: Any
    change: Any

    def init(self, z):
        """The solver's state, and whether z is still what it was drawn as."""
        return self.solver.init(z), jnp.ones((), bool)

    def step(self, denoiser, z, state, cond, noise, *, logsnr, logsnr_next):
        """The solver's step, of other noise."""
        own, is_noise = state
        z, own = self.solver.step(
            denoiser,
            jnp.where(is_noise, self.change(z), z),
            own,
            cond,
            lambda: self.change(noise()),
            logsnr=logsnr,
            logsnr_next=logsnr_next,
        )
        return z, (own, jnp.zeros((), bool))

    def calls(self, steps):
        """The solver's."""
        return self.solver.calls(steps)


class Way(NamedTuple):
    """A way to sharpen what a network draws.

    Attributes:
      name: What tables and figures call it.
      symbol: Of its strength.
      colour: Told apart by colour-blind readers as well.
      strengths: From the one that changes nothing on.
      shown: That of the pictures.
      guide: `(network, strength, null) -> denoiser`.
      change: `strength -> (n -> n)`, what becomes of the noise.
      flow: Whether the default solver draws, which needs no noise but the first.
    """

    name: str
    symbol: str
    colour: str
    strengths: tuple[float, ...]
    shown: float
    guide: Callable[[Any, float, Any], Any] = lambda network, strength, null: network
    change: Callable[[float], Any] = lambda strength: Cooled(temperature=1.0)
    flow: bool = False


TEMPERATURES = (1.0, 0.9, 0.75, 0.5, COLD)
BOUNDS = (np.inf, 2.5, 2.0, 1.5, 1.1)
"""Their τ_ψ are nearly the temperatures; the strengths of guidance w = 1 / τ - 1, nearly."""

WAYS = (
    Way(
        "guidance",
        "w",
        scoring.BLACK,
        strengths=(0.0, 0.1, 0.3, 1.0, 2.0),
        shown=2.0,
        guide=lambda network, w, null: guidance.classifier_free(network, w=w, null=null),
    ),
    Way(
        "score / τ",
        "τ",
        scoring.VERMILION,
        strengths=TEMPERATURES,
        shown=COLD,
        guide=lambda network, t, null: Tempered(denoiser=network, temperature=t),
    ),
    Way(
        "noise × √τ",
        "τ",
        scoring.BLUE,
        strengths=TEMPERATURES,
        shown=COLD,
        change=lambda t: Cooled(temperature=t),
    ),
    Way(
        "truncated noise",
        "ψ",
        scoring.GREEN,
        strengths=BOUNDS,
        shown=1.1,
        change=lambda bound: Truncated(bound=bound),
    ),
    Way(
        "truncated start",
        "ψ",
        scoring.ORANGE,
        strengths=BOUNDS,
        shown=1.1,
        change=lambda bound: Truncated(bound=bound),
        flow=True,
    ),
)


def sharpened(
    way: Way, strength: float, *, steps: int, v: float = 0.3, grid: Any = None
) -> dict[str, Any]:
    """How a way draws, as arguments of `Model.sample`.

    Args:
      way: The way.
      strength: Its strength.
      steps: The number of steps.
      v: Of the ancestral steps' variance.
      grid: The ancestral steps' noise levels; the default when None.
    """
    ancestral = (solvers.Ancestral(v=v), grid)
    solver, grid = choose(*((None, None) if way.flow else ancestral), steps)
    return {
        "guide": lambda network, null: way.guide(network, strength, null),
        "solver": Renoised(solver=solver, change=way.change(strength)),
        "grid": grid,
        "steps": steps,
    }


def drawn(
    way: Way, strength: float, network: Any, key: jax.Array, cond: Any, *, null: Any, **named: Any
) -> jax.Array:
    """What a way makes of a denoiser, from the noise that `sample` would draw.

    Args:
      way: The way.
      strength: Its strength.
      network: The denoiser.
      key: A JAX random key.
      cond: The condition.
      null: What stands for none.
      **named: steps, v and grid as in `sharpened`; shape, schedule and offset as in `sample`.
    """
    own = {name: named.pop(name) for name in ("steps", "v", "grid") if name in named}
    how = sharpened(way, strength, **own)
    return sample(how.pop("guide")(network, null), key, cond, **how, **named)
