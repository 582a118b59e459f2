"""The type of a solver: what takes z from one noise level to the next, cleaner one.

A solver is a frozen dataclass, its knobs leaves of a pytree, its order static. What it remembers
from step to step (a multistep method its last estimates, most others nothing) is a state, a pytree
that the scan over the levels carries. The last step of a reverse process goes to λ' = ∞, where
α = 1 and σ = 0: every solver returns x̂ itself there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.logsnr import expand, floating

Kind = TypeVar("Kind", bound=type)

Noise = Callable[[], Float[Array, "..."]]
"""Draws standard normal noise of z's shape; a step calls it at most once."""

LONGEST = 4.5
"""The longest step in λ that is taken with an order above 1: s = σ/α falls to a tenth.

Over a longer one the slope at either end, or a line through earlier estimates, says nothing of the
way between, and what is added to a step of order 1 stays in the picture as noise.
"""


def register(kind: Kind) -> Kind:
    """Registers a frozen dataclass as a pytree, its fields leaves but those marked static.

    As `jax.tree_util.register_dataclass` does; but what JAX puts together again is not checked as
    what a person makes: a gradient by a knob, or an axis in its place, has no range.

    >>> import jax
    >>> from cfg_jax import solvers
    >>> jax.grad(lambda solver: -4.0 * solver.eta)(solvers.DDIM(eta=0.5)).eta.item()
    -4.0
    """
    fields = dataclasses.fields(kind)
    static = tuple(field.name for field in fields if field.metadata.get("static"))
    leaves = tuple(field.name for field in fields if not field.metadata.get("static"))

    def flatten(made):
        held = tuple(getattr(made, name) for name in leaves)
        return held, tuple(getattr(made, name) for name in static)

    def flatten_with_keys(made):
        held, fixed = flatten(made)
        keys = (jax.tree_util.GetAttrKey(name) for name in leaves)
        return tuple(zip(keys, held, strict=True)), fixed

    def unflatten(fixed, held):
        made: Any = object.__new__(kind)
        for name, value in zip((*static, *leaves), (*fixed, *held), strict=True):
            object.__setattr__(made, name, value)
        return made

    jax.tree_util.register_pytree_with_keys(kind, flatten_with_keys, unflatten, flatten)
    return kind


def check_knob(name: str, value: Any, low: float, high: float) -> None:
    """Raises ValueError unless a knob is a number or an array, in [low, high] if it is known."""
    if isinstance(value, (tuple, list)):
        raise ValueError(f"{name} must be a number or an array, got {checks.told(value)}")
    checks.within(name, value, low, high)


def scalar(name: str, value: Any) -> Float[Array, ""]:
    """A knob as it is in a step: one number, whatever axes a transformation took from it.

    Raises:
      ValueError: It still has axes.
    """
    value = floating(value)
    if value.ndim:
        raise ValueError(f"{name} must be one number, got shape {value.shape}")
    return value


def fresh(noise: Noise, scale: Float[Array, "..."]) -> Float[Array, "..."]:
    """Noise times a scale, drawn only where the scale is not 0 or its derivative is asked for.

    Args:
      noise: Draws noise of z's shape; whatever it draws from that is traced, it holds as leaves.
      scale: Not negative, a scalar or (batch,).

    Returns:
      The scaled noise, of z's shape.
    """
    held = noise if isinstance(noise, jax.tree_util.Partial) else jax.tree_util.Partial(noise)
    return _scaled(scale, held)


@jax.custom_jvp
def _scaled(scale, noise):
    like = jax.eval_shape(noise)

    def drawn():
        return _times(scale, noise())

    return jax.lax.cond(jnp.any(scale > 0), drawn, lambda: jnp.zeros(like.shape, like.dtype))


@_scaled.defjvp
def _scaled_jvp(primals, tangents):
    (scale, noise), (by_scale, _) = primals, tangents
    drawn = noise()
    return _times(scale, drawn), _times(by_scale, drawn)


def _times(scale, drawn):
    return (expand(scale, drawn) * drawn).astype(drawn.dtype)


@runtime_checkable
class Solver(Protocol):
    """One step of a reverse process, and what it remembers.

    A class that says `reads_eps = False` reads x̂ alone, and not ε̂.
    """

    def init(self, z: Float[Array, "..."]) -> Any:
        """The state before the first step; its shapes and dtypes stay."""

    def step(
        self,
        denoiser: Denoiser,
        z: Float[Array, "..."],
        state: Any,
        cond: Condition,
        noise: Noise,
        *,
        logsnr: ArrayLike,
        logsnr_next: ArrayLike,
    ) -> tuple[Float[Array, "..."], Any]:
        """Takes one step.

        Args:
          denoiser: The (guided) denoiser.
          z: z_λ of (batch, ...).
          state: From `init`, or from the step before.
          cond: The condition.
          noise: Draws noise of z's shape.
          logsnr: λ, a scalar or (batch,).
          logsnr_next: λ' > λ, likewise; ∞ for the last step, which is all examples' last.

        Returns:
          z_λ', or x̂ where λ' = ∞; and the next step's state.
        """

    def calls(self, steps: int) -> int:
        """How often `steps` steps call the denoiser at most, the last to λ' = ∞."""
