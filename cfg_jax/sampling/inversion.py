"""Inversion: the noise from which the deterministic DDIM sampler makes a given x.

One step of the sampler is z_λ' = α' x̂(z_λ, λ) + σ' ε̂(z_λ, λ) = (α'/α) (z_λ - σ ε̂) + σ' ε̂. Solved
for z_λ with ε̂ held fixed it is

    z_λ = (α/α') (z_λ' - σ' ε̂) + σ ε̂

(Song et al. 2021, "Denoising Diffusion Implicit Models", Section 4.3). The explicit inverse takes
ε̂ where it already is, at (z_λ', λ') (Mokady et al. 2023, "Null-text Inversion …", Section 3.1); the
exact one finds the z_λ that the sampler's step takes to z_λ' (Pan et al. 2023, "Effective Real
Image Editing with Accelerated Iterative Diffusion Inversion", Section 3). The sampler ends with
x = x̂(z_λ, λ) at its last finite λ; there z_λ' = x with σ' = 0, and the explicit inverse, having no
level λ' = ∞ to ask at, asks at (α x, λ).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.condition import Condition, check_count
from cfg_jax.diffusion.denoiser import Denoiser, read
from cfg_jax.diffusion.logsnr import alpha, cast_like, floating, sigma
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.sampling import arguments, grids
from cfg_jax.sampling.fronts import sample
from cfg_jax.sampling.solvers import DDIM


class Inversion(NamedTuple):
    """What an inversion found, and how well.

    Attributes:
      z: Noise at the schedule's first level, of x's shape: what `sample` takes as `z`.
      error: The largest |x - sample(z)| of each example, (batch,).
    """

    z: Float[Array, "batch ..."]
    error: Float[Array, " batch"]


def invert(
    denoiser: Denoiser,
    x: Float[Array, "batch ..."],
    cond: Condition = None,
    *,
    schedule: Schedule | str,
    steps: Any,
    grid: grids.Grid | str | None = None,
    exact: bool = False,
    tolerance: float = 1e-5,
    iterations: int = 100,
) -> Inversion:
    """Finds z with `sample(denoiser, …, z=z, solver=solvers.DDIM(), grid=grid, steps=steps)` = x.

    Strong guidance with few steps can take several z to one x, or none: the error tells.

    Args:
      denoiser: `(z, logsnr, cond) -> eps`, guided or not: the one that shall make x again, or that
        with another condition shall edit it.
      x: Data, (batch, ...); whole numbers count as floats.
      cond: The condition to invert under, a pytree of (batch, ...) arrays, or None.
      schedule: Gives the noise levels.
      steps: The number of steps, at least 1.
      grid: `(schedule, steps) -> levels`; `schedule.grid(steps)`, as published, when None.
      exact: Solve every step for its z_λ, instead of taking ε̂ from the cleaner level. The explicit
        inverse calls the denoiser once a step, the exact one a few times more.
      tolerance: The exact inverse is done with a step when no entry of z_λ moves more than this, a
        number of at least 0.
      iterations: The most iterations the exact inverse spends on a step, at least 1. float32 may
        not reach a tolerance below some 1e-6, most of all between two very noisy levels.

    Returns:
      The noise, and the error of the sampler's way back to x.

    Raises:
      ValueError: `steps` is not a whole number of at least 1, the condition does not fit x, x is no
        array of numbers, or another argument is out of range.
      TypeError: denoiser cannot be called, or schedule or grid is none.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import mixtures, schedules
    >>> from cfg_jax.sampling.inversion import invert
    >>> data = mixtures.gaussian_mixture([[[-1.0, 0.0]], [[1.0, 0.0]]], 0.3)
    >>> found = invert(data, jnp.array([[0.8, 0.1]]), jnp.array([1]), exact=True,
    ...                schedule=schedules.Cosine(logsnr_min=-10.0, logsnr_max=10.0), steps=20)
    >>> bool(found.error[0] < 1e-3)
    True
    """
    checks.function("denoiser", denoiser)
    checks.truth("exact", exact)
    checks.within("tolerance", tolerance, 0.0, jnp.inf)
    iterations = checks.whole("iterations", iterations, 1)
    x = checks.batch("x", x)
    check_count(cond, x)
    given, x = jnp.result_type(x, float), floating(x)
    grid = grids.UniformU() if grid is None else grid
    _, known = arguments.walk(schedule, DDIM(), grid, steps, len(x), x.dtype)
    levels = jnp.asarray([*known[:-1], jnp.inf], x.dtype)

    def back(z_next, ends):
        logsnr, logsnr_next = ends
        z = _explicit(denoiser, z_next, cond, logsnr=logsnr, logsnr_next=logsnr_next)
        if exact:
            z = _solve(denoiser, z.astype(x.dtype), z_next, cond, ends, tolerance, iterations)
        return z.astype(x.dtype), None

    z, _ = jax.lax.scan(back, x, (levels[:-1], levels[1:]), reverse=True)
    again = sample(
        denoiser,
        jax.random.key(0),  # draws nothing: the noise is given, and DDIM with η = 0 adds none
        cond,
        shape=x.shape[1:],
        schedule=schedule,
        solver=DDIM(),
        grid=grid,
        steps=steps,
        z=z,
    )
    error = jnp.max(jnp.abs(x - again), axis=tuple(range(1, x.ndim)))
    return Inversion(z.astype(given), error.astype(given))


def _explicit(
    denoiser: Denoiser, z_next: Array, cond: Condition, *, logsnr: Array, logsnr_next: Array
) -> Array:
    """(α/α') (z_λ' - σ' ε̂) + σ ε̂ with ε̂ of the cleaner end, or of (α x, λ) where that is x."""
    of_data = jnp.isposinf(logsnr_next)
    near = jnp.where(of_data, logsnr, logsnr_next)
    eps = read(denoiser, jnp.where(of_data, alpha(logsnr) * z_next, z_next), near, cond).eps
    scale = alpha(logsnr) / alpha(logsnr_next)
    return scale * (z_next - sigma(logsnr_next) * eps) + sigma(logsnr) * eps


def _solve(
    denoiser: Denoiser,
    z: Array,
    z_next: Array,
    cond: Condition,
    ends: tuple[Array, Array],
    tolerance: ArrayLike,
    iterations: int,
) -> Array:
    """The fixed point of z ← z + γ (z_λ' - step(z)): where the sampler's step leads to z_λ'.

    γ = α/α' makes it the iteration of the explicit inverse, which creeps where the levels are far
    apart. γ = 1 / (α α' + σ σ') is the inverse of the step for data of unit variance, whose v is 0:
    that starts, and then each example takes the secant of its last move (Barzilai & Borwein 1988,
    "Two-Point Step Size Gradient Methods"), apt because the slope of ε̂ is symmetric wherever ε̂
    is a multiple of a score. An example that has arrived stays, so none depends on its batch.
    """
    logsnr, logsnr_next = ends
    first = 1.0 / (alpha(logsnr) * alpha(logsnr_next) + sigma(logsnr) * sigma(logsnr_next))

    def residual(z):
        pair = read(denoiser, z, logsnr, cond)
        return z_next - (alpha(logsnr_next) * pair.x + sigma(logsnr_next) * pair.eps)

    def dot(a, b):
        return jnp.sum(a * b, axis=tuple(range(1, z.ndim)), keepdims=True)

    def moving(move):
        axes = tuple(range(1, z.ndim))
        return jnp.max(jnp.abs(move), axis=axes, keepdims=True) > tolerance

    def unfinished(state):
        count, _, left, rate = state
        return (count < iterations) & jnp.any(moving(rate * left))

    def improve(state):
        count, z, left, rate = state
        move = jnp.where(moving(rate * left), rate * left, 0.0)
        z = z + move
        left_now = residual(z)
        change = dot(move, left - left_now)
        secant = jnp.abs(dot(move, move) / jnp.where(change == 0.0, 1.0, change))
        secant = jnp.clip(secant, 0.1 * first, 10.0 * first)
        improved = (count + 1, z, left_now, jnp.where(change == 0.0, rate, secant))
        return cast_like(improved, state)

    rate = jnp.full((len(z),) + (1,) * (z.ndim - 1), first, z.dtype)
    started = (jnp.int32(0), z, residual(z).astype(z.dtype), rate)
    return jax.lax.while_loop(unfinished, improve, started)[1]
