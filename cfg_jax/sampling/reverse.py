"""The reverse process: a `lax.scan` over the noise levels, for every solver and front.

Where a part of the denoiser switches at a level (`piecewise`), such as guidance that is limited to
a range, the scan is cut there, and each piece holds only the networks that it needs. Both z and
what the solver remembers go on across the cut. Levels that are traced cut nothing: there each step
chooses, by the level that it starts from.
"""

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cfg_jax.diffusion import noise, piecewise
from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.logsnr import cast_like
from cfg_jax.sampling.solver import Solver


def reverse(
    denoiser: Denoiser,
    solver: Solver,
    key: jax.Array,
    index: Int[Array, " batch"],
    cond: Condition,
    z: Float[Array, "batch ..."] | None,
    *,
    shape: tuple[int, ...],
    levels: Sequence[float] | Float[Array, "*batch levels"],
) -> Float[Array, "batch ..."]:
    """Walks from noise at the first level to x, which the last step returns as it is estimated.

    Example i draws everything from `fold_in(key, index[i])`: its first noise from fold 0 of that,
    the noise of step t from fold t + 1. Nothing depends on the batch it is part of.

    Args:
      denoiser: The (guided) denoiser.
      solver: The step.
      key: A JAX random key.
      index: Each example's number.
      cond: The condition.
      z: Noise to start from, or None to draw it.
      shape: One example's shape.
      levels: λ, ascending: numbers that are known before anything is compiled, or an array, one
        grid for all examples or one an example. The last level is where the process ends: it is
        reached with σ = 0, so its value does not matter. (Ho & Salimans 2022, Algorithm 2, draw z
        at λ_T = λ_max too and return x̂ there, less than 1e-3 away at λ_max = 20: their T is one
        more than the steps.)

    Returns:
      x of (batch, *shape), float32, or in the dtype of z. The arithmetic is float32 at least.
    """
    given = jnp.result_type(float) if z is None else z.dtype
    dtype = jnp.promote_types(given, jnp.float32)
    keys = noise.examples(key, index)

    def normal(keys, fold):
        def draw(key):
            return jax.random.normal(noise.first_and_steps(key, fold), shape, dtype)

        return jax.vmap(draw)(keys)

    z = normal(keys, 0) if z is None else z.astype(dtype)
    ends, pieces = _planned(denoiser, levels, dtype)

    def walk(at: Callable[[Any], Denoiser], carry, steps):
        def body(carry, step):
            t, logsnr, logsnr_next = step
            z, state = carry
            drawn: Any = jax.tree_util.Partial(normal, keys, t + 1)
            moved = solver.step(
                at(logsnr),
                z,
                state,
                cond,
                drawn,
                logsnr=logsnr,
                logsnr_next=logsnr_next,
            )
            return cast_like(moved, carry), None

        return jax.lax.scan(body, carry, steps)[0]

    steps = (jnp.arange(len(ends) - 1), ends[:-1], ends[1:])
    carry = (z, solver.init(z))
    for first, last, at in pieces:
        carry = walk(at, carry, tuple(entry[first:last] for entry in steps))
    return carry[0].astype(given)


def _planned(denoiser: Denoiser, levels: Any, dtype) -> tuple[Array, list[tuple]]:
    """The levels, the last one ∞, and the ranges of steps that share a denoiser, with it."""
    if isinstance(levels, (tuple, list)):
        cuts = piecewise.breaks(denoiser)
        pieces = [
            (first, last, _always(piecewise.at(denoiser, levels[first])))
            for first, last in _pieces(levels[:-1], cuts)
        ]
        return jnp.asarray([*levels[:-1], jnp.inf], dtype), pieces
    ends = jnp.moveaxis(jnp.asarray(levels, dtype), -1, 0).at[-1].set(jnp.inf)
    return ends, [(0, len(ends) - 1, lambda logsnr: piecewise.held(denoiser, logsnr))]


def _always(denoiser: Denoiser) -> Callable[[Any], Denoiser]:
    return lambda logsnr: denoiser


def _pieces(levels: Sequence[float], breaks: Sequence[float]) -> Iterator[tuple[int, int]]:
    """The ranges of steps that start between two breaks; a break belongs to its cleaner side."""

    def between(t: int) -> int:
        return bisect.bisect_right(breaks, levels[t])

    for _, group in itertools.groupby(range(len(levels)), key=between):
        steps = list(group)
        yield steps[0], steps[-1] + 1
