"""The reverse process: one `lax.scan` over the noise levels, for every solver and front."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.sampling.solvers import Solver


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
        value does not matter (Ho & Salimans 2022, Algorithm 2, last line).

    Returns:
      x of (batch, *shape), float32.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)

    def noise(fold):
        def draw(example_key):
            return jax.random.normal(jax.random.fold_in(example_key, fold), shape)

        return jax.vmap(draw)(keys)

    def body(z, step):
        t, logsnr, logsnr_next = step
        z = solver.step(
            denoiser, z, cond, lambda: noise(t + 1), logsnr=logsnr, logsnr_next=logsnr_next
        )
        return z, None

    z = noise(0) if z is None else z
    grid = jnp.asarray([*levels[:-1], jnp.inf], z.dtype)
    x, _ = jax.lax.scan(body, z, (jnp.arange(len(levels) - 1), grid[:-1], grid[1:]))
    return x
