"""The reverse process: a `lax.scan` over the noise levels, for every solver and front.

Where a part of the denoiser switches at a level (`piecewise`), such as guidance that is limited to
a range, the scan is cut there, and each piece holds only the networks that it needs. Both z and
what the solver remembers go on across the cut.
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cfg_jax.diffusion import piecewise
from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.denoiser import Denoiser
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
    levels: Sequence[float],
) -> Float[Array, "batch ..."]:
    """Walks from noise at `levels[0]` to x, which the last step returns as it is estimated.

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
      levels: λ, ascending. The last one is where the process ends: it is reached with σ = 0, so its
        value does not matter. (Ho & Salimans 2022, Algorithm 2, draw z at λ_T = λ_max too and
        return x̂ there, less than 1e-3 away at λ_max = 20: their T is one more than the steps.)

    Returns:
      x of (batch, *shape), float32, or in the dtype of z.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    dtype = float if z is None else z.dtype

    def noise(fold):
        def draw(example_key):
            return jax.random.normal(jax.random.fold_in(example_key, fold), shape, dtype)

        return jax.vmap(draw)(keys)

    def walk(denoiser, carry, steps):
        def body(carry, step):
            t, logsnr, logsnr_next = step
            z, state = carry
            z, state = solver.step(
                denoiser,
                z,
                state,
                cond,
                lambda: noise(t + 1),
                logsnr=logsnr,
                logsnr_next=logsnr_next,
            )
            return (z, state), None

        return jax.lax.scan(body, carry, steps)[0]

    z = noise(0) if z is None else z
    grid = jnp.asarray([*levels[:-1], jnp.inf], z.dtype)
    steps = (jnp.arange(len(levels) - 1), grid[:-1], grid[1:])
    carry = (z, solver.init(z))
    for first, last in _pieces(levels[:-1], piecewise.breaks(denoiser)):
        here = piecewise.at(denoiser, levels[first])
        carry = walk(here, carry, tuple(entry[first:last] for entry in steps))
    return carry[0]


def _pieces(levels: Sequence[float], breaks: Sequence[float]) -> Iterator[tuple[int, int]]:
    """The ranges of steps that start between two breaks; a break belongs to its cleaner side."""

    def between(t: int) -> int:
        return bisect.bisect_right(breaks, levels[t])

    for _, group in itertools.groupby(range(len(levels)), key=between):
        steps = list(group)
        yield steps[0], steps[-1] + 1
