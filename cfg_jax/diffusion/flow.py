"""The density of data under the probability-flow ODE, by the change of variables.

dz/dλ = ½ σ (σ z - ε̂(z, λ))    (Song et al. 2021, "Score-Based Generative Modeling …", Eq. 39)
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks, noise, schedules
from cfg_jax.diffusion.condition import Condition, check_count
from cfg_jax.diffusion.denoiser import Denoiser, read
from cfg_jax.diffusion.gaussian import bits_per_dim, per_example
from cfg_jax.diffusion.logsnr import alpha, cast_like, floating, log_alpha, sigma
from cfg_jax.diffusion.schedules import Schedule


class FlowLikelihood(NamedTuple):
    """The density of data under a probability flow.

    Attributes:
      log_prob: log p(x|c), in nats, (batch,).
      bits_per_dim: -log p(x|c) in bits/dim, (batch,).
      z: Where the flow takes x, at the schedule's logsnr_min, of x's shape.
    """

    log_prob: Float[Array, " batch"]
    bits_per_dim: Float[Array, " batch"]
    z: Float[Array, "batch ..."]


def ode_log_prob(
    denoiser: Denoiser,
    x: Float[Array, "batch ..."],
    cond: Condition = None,
    *,
    key: jax.Array | None = None,
    schedule: Schedule | str,
    steps: int,
) -> FlowLikelihood:
    """The log density of x under the probability-flow ODE, by the Runge-Kutta method of order 4.

        dz/dλ = f(z, λ) = ½ σ (σ z - ε̂(z, λ))
        log p(x) = log N(z_λmin; 0, I) - ∫_{λmin}^{λmax} ∇·f dλ + entries · log α_λmax

    with z_λmax = α x (Song et al. 2021, "Score-Based Generative Modeling through Stochastic
    Differential Equations", Section 4.3 and Appendix D.2, in λ). So it is the density of x plus
    noise of variance e^-λmax. Of a guided denoiser it is the density of the flow that guidance
    makes, whether or not that is any diffusion's.

    Args:
      denoiser: `(z, logsnr, cond) -> eps`, differentiable in z.
      x: Data, (batch, ...).
      cond: The condition, or None.
      key: Of a ±1 probe for each example: ∇·f is then estimated without bias by Hutchinson's
        trace, one derivative along the probe. None computes it exactly, one derivative an entry:
        for small examples.
      schedule: Its quantiles are the steps' ends; `schedules.Uniform` spaces them evenly in λ. One
        of `schedules`, or its name.
      steps: The number of steps, at least 1, with 4 calls of the denoiser each.

    Returns:
      log p(x|c), the same in bits/dim (of x's units; see `continuous_vlb`), and z.

    Raises:
      ValueError: `steps` is not a whole number of at least 1, x is no array of numbers, or cond is
        not one an example.
      TypeError: denoiser cannot be called, key is no random key, or schedule is none.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax import schedules
    >>> from cfg_jax.diffusion.likelihood import ode_log_prob
    >>> standard = lambda z, logsnr, cond: jnp.sqrt(jax.nn.sigmoid(-logsnr)) * z  # of N(0, I)
    >>> found = ode_log_prob(standard, jnp.zeros((1, 2)), schedule=schedules.Uniform(), steps=20)
    >>> round(float(found.log_prob[0]), 4)  # -log 2π
    -1.8379
    """
    checks.function("denoiser", denoiser)
    steps, x = checks.steps(steps), floating(checks.batch("x", x))
    check_count(cond, x)
    levels = schedules.made(schedule).logsnr(jnp.linspace(0.0, 1.0, steps + 1, dtype=x.dtype))
    probe = None if key is None else _rademacher(checks.random_key(key), x)

    def slope(state, logsnr):
        spread = sigma(logsnr)

        def flow(z):
            return cast_like(0.5 * spread * (spread * z - read(denoiser, z, logsnr, cond).eps), z)

        return _with_divergence(flow, state[0], probe)

    def step(state, ends):
        return cast_like(_runge_kutta(slope, state, *ends), state), None

    start = (alpha(levels[0]) * x, jnp.zeros(len(x), x.dtype))
    (z, spread), _ = jax.lax.scan(step, start, (levels[:-1], levels[1:]))
    entries = math.prod(x.shape[1:])
    log_normal = -0.5 * (per_example(jnp.square(z)) + entries * math.log(2.0 * math.pi))
    # `spread` is the integral from λmax down to λmin: minus the one of the equation.
    log_prob = log_normal + spread + entries * log_alpha(levels[0])
    return FlowLikelihood(log_prob, bits_per_dim(-log_prob, x), z)


def _runge_kutta(slope: Callable, state: tuple, start: Array, end: Array) -> tuple:
    """One step of the classical method of order 4, for a pytree of states."""
    gap = end - start

    def ahead(share, by):
        return jax.tree.map(lambda a, b: a + share * gap * b, state, by)

    k1 = slope(state, start)
    k2 = slope(ahead(0.5, k1), start + 0.5 * gap)
    k3 = slope(ahead(0.5, k2), start + 0.5 * gap)
    k4 = slope(ahead(1.0, k3), end)
    mean = jax.tree.map(lambda a, b, c, d: (a + 2.0 * b + 2.0 * c + d) / 6.0, k1, k2, k3, k4)
    return ahead(1.0, mean)


def _with_divergence(
    flow: Callable[[Array], Array], z: Array, probe: Array | None
) -> tuple[Array, Array]:
    """f(z) and each example's ∇·f: along a probe, or exactly without one."""
    if probe is not None:
        value, along = jax.jvp(flow, (z,), (probe,))
        return value, per_example(along * probe)
    value, push = jax.linearize(flow, z)
    entries = math.prod(z.shape[1:])
    axes = jnp.eye(entries, dtype=z.dtype).reshape(entries, 1, *z.shape[1:])
    # Examples do not mix, so one direction serves the whole batch.
    slopes = jax.lax.map(lambda e: per_example(e * push(jnp.broadcast_to(e, z.shape))), axes)
    return value, slopes.sum(0)


def _rademacher(key: jax.Array, x: Float[Array, "batch ..."]) -> Array:
    """±1 of x's shape, each example's from its own key."""
    keys = noise.examples(key, jnp.arange(len(x)))
    return jax.vmap(lambda k: jax.random.rademacher(k, x.shape[1:], x.dtype))(keys)
