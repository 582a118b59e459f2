"""How likely data are under a denoiser: two variational bounds, and the flow's own density.

    discrete_vlb:    -log p(x) ≤ L_T + Σ_t L_{t-1} + L_0, of the ancestral sampler on a grid of λ
                     (Ho et al. 2020, "Denoising Diffusion Probabilistic Models", Equations 5 to 13)
    continuous_vlb:  -log p(x) ≤ KL(q(z_λmin|x) || N(0, I)) - E log p(x|z_λmax)
                                 + ½ ∫ E||ε - ε̂(z_λ, λ)||² dλ
                     (Kingma et al. 2021, "Variational Diffusion Models", Equations 11 and 17)
    ode_log_prob:    log p(x) by the change of variables along the probability-flow ODE
                     (Song et al. 2021, "Score-Based Generative Modeling …", Equation 39)

"Nats" count a whole example; bits/dim are nats / (entries · log 2).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks, process
from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.denoiser import Denoiser, read
from cfg_jax.diffusion.logsnr import alpha, log_alpha, log_sigma, one_minus_exp, sigma
from cfg_jax.diffusion.schedules import Schedule, stratify

Interpolation = Callable[[Float[Array, "..."], ArrayLike, Condition], Float[Array, "..."]]
"""`(z, logsnr, cond) -> v`, a network's interpolation of the reverse variance, of z's shape."""


class DiscreteVLB(NamedTuple):
    """The bound of a reverse process of N steps, and its terms.

    Attributes:
      prior: L_T, in bits/dim, (batch,).
      transitions: L_{t-1} of every step but the last, noisiest first, in bits/dim, (batch, N - 1).
      decoder: L_0, in bits/dim, (batch,).
      bits_per_dim: The bound, the sum of the above, (batch,).
      nats: The bound on -log p(x|c), (batch,).
      simple: L_simple, the mean of (ε - ε̂)² over entries and levels, (batch,).
    """

    prior: Float[Array, " batch"]
    transitions: Float[Array, "batch steps"]
    decoder: Float[Array, " batch"]
    bits_per_dim: Float[Array, " batch"]
    nats: Float[Array, " batch"]
    simple: Float[Array, " batch"]


class ContinuousVLB(NamedTuple):
    """The bound in continuous time, and its terms, each of (batch,).

    Attributes:
      prior: KL(q(z_λmin|x) || N(0, I)), in nats.
      diffusion: ½ ∫ E||ε - ε̂||² dλ, in nats.
      reconstruction: -E log p(x|z_λmax), in nats.
      nats: The bound on -log p(x|c), the sum of the above.
      bits_per_dim: The same in bits/dim.
    """

    prior: Float[Array, " batch"]
    diffusion: Float[Array, " batch"]
    reconstruction: Float[Array, " batch"]
    nats: Float[Array, " batch"]
    bits_per_dim: Float[Array, " batch"]


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


def normal_kl(
    *, shift: Float[Array, "..."], variance: ArrayLike, log_ratio: ArrayLike
) -> Float[Array, "..."]:
    """KL(N(μ, s²) || N(μ', s'²)) = ½ (s²/s'² - 1 - log(s²/s'²) + (μ - μ')²/s'²), by entry, in nats.

    Args:
      shift: μ - μ'.
      variance: s'², of the second distribution.
      log_ratio: log(s²/s'²).

    Returns:
      The divergence, of the arguments' common shape.
    """
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + jnp.square(shift) / variance)


def reverse_kl(
    error: Float[Array, "..."], *, logsnr: ArrayLike, logsnr_next: ArrayLike, v: ArrayLike
) -> Float[Array, "..."]:
    """KL(q(z_λ'|z_λ, x) || p(z_λ'|z_λ)) of one reverse step, by entry, in nats.

    p has the mean μ̃_{λ'|λ}(z_λ, x̂) and the variance (σ̃²)^(1-v) (σ²)^v.

    Args:
      error: x - x̂.
      logsnr: λ, a scalar, or of a shape that broadcasts to error's.
      logsnr_next: λ' > λ, likewise.
      v: The interpolation, a scalar or of error's shape.

    Returns:
      The divergence, of error's shape.
    """
    return normal_kl(
        shift=one_minus_exp(logsnr, logsnr_next) * alpha(logsnr_next) * error,
        variance=process.reverse_variance(logsnr=logsnr, logsnr_next=logsnr_next, v=v),
        log_ratio=2.0 * v * (log_sigma(logsnr_next) - log_sigma(logsnr)),
    )


def discretized_log_prob(
    x: Float[Array, "..."], *, mean: Float[Array, "..."], variance: ArrayLike, bins: int = 256
) -> Float[Array, "..."]:
    """Log P(x) of a Gaussian whose mass falls into the nearest of `bins` values, by entry, in nats.

        P(x) = Φ((x + h - μ) / s) - Φ((x - h - μ) / s),    h = 1 / (bins - 1)

    with the bins of -1 and 1 open to -∞ and ∞ (Ho et al. 2020, Equation 13).

    Args:
      x: Values of the grid -1, -1 + 2h, …, 1.
      mean: μ, of x's shape.
      variance: s², a scalar or of x's shape.
      bins: The number of values.

    Returns:
      log P(x), of x's shape.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.diffusion.likelihood import discretized_log_prob
    >>> p = jnp.exp(discretized_log_prob(jnp.linspace(-1, 1, 3), mean=jnp.zeros(3), variance=0.1,
    ...                                  bins=3))
    >>> round(float(p.sum()), 5)
    1.0
    """
    half, spread = 1.0 / (bins - 1), jnp.sqrt(variance)
    upper = jnp.where(x > 1.0 - half, jnp.inf, (x + half - mean) / spread)
    lower = jnp.where(x < half - 1.0, -jnp.inf, (x - half - mean) / spread)
    # Mirrored where it lies to the right, so that Φ is a tail there and no difference of ones.
    right = lower + upper > 0
    low, high = jnp.where(right, -upper, lower), jnp.where(right, -lower, upper)
    return log_ndtr(high) + jnp.log1p(-jnp.exp(log_ndtr(low) - log_ndtr(high)))


def discrete_vlb(
    denoiser: Denoiser,
    key: jax.Array,
    x: Float[Array, "batch ..."],
    cond: Condition = None,
    *,
    schedule: Schedule,
    steps: int,
    v: ArrayLike | Interpolation = 0.0,
) -> DiscreteVLB:
    """The variational bound of the ancestral sampler of `steps` steps, for data of 256 values.

        L_T = KL(q(z_λ1|x) || N(0, I)),    L_{t-1} = E KL(q(z_λ'|z_λ, x) || p(z_λ'|z_λ)),
        L_0 = -E log p(x|z_λN), a discretised Gaussian around x̂

    (Ho et al. 2020, Equations 5, 8 and 13), over the levels λ1 < … < λN of `schedule.grid(steps)`
    but the last, which stands for the data. With `schedules.LinearBeta(steps=T)` and T steps it is
    the bound of Ho et al.; a sub-grid gives that of the shorter process. Each level is visited with
    one draw of noise: an unbiased estimate at `steps` calls of the denoiser.

    Args:
      denoiser: `(z, logsnr, cond) -> eps`, clipped if the sampler clips.
      key: A JAX random key; example i's noise depends on it and i alone.
      x: Data on the 256 values of [-1, 1], (batch, ...).
      cond: The condition, or None.
      schedule: Gives the noise levels.
      steps: The number of steps N, at least 2.
      v: The reverse variance (σ̃²)^(1-v) (σ²)^v: a number in [0, 1]; or what a network learned, a
        function `(z, logsnr, cond) -> v` of z's shape (Nichol & Dhariwal 2021, Equation 15). In the
        last step, where σ̃² = 0, the σ̃² of the step before stands in, as in their code.

    Returns:
      The bound and its terms.

    Raises:
      ValueError: steps < 2, v is a number outside [0, 1], or x leaves [-1, 1].

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax import schedules
    >>> from cfg_jax.diffusion.likelihood import discrete_vlb
    >>> knows = lambda z, logsnr, cond: z / jnp.sqrt(jax.nn.sigmoid(-logsnr))  # that x = 0
    >>> bound = discrete_vlb(knows, jax.random.key(0), jnp.full((1, 8), 1 / 255),
    ...                      schedule=schedules.CosineBeta(steps=50), steps=50)
    >>> bound.transitions.shape
    (1, 49)
    """
    if steps < 2:
        raise ValueError(f"the bound needs at least 2 steps, got {steps}")
    checks.within("x", x, -1.0, 1.0)
    levels = jnp.asarray(schedule.grid(steps)[:-1], x.dtype)

    def visit(step, logsnr):
        """One noise level: z, what the denoiser makes of it, and v."""
        eps = _normal(key, step, x)
        z = process.forward(x, eps, logsnr=logsnr)
        guess = read(denoiser, z, logsnr, cond)
        share = v(z, logsnr, cond) if callable(v) else v
        return guess.x, _per_example(jnp.square(guess.eps - eps), jnp.mean), share

    def transition(_, step):
        index, low, high = step
        guess, error, share = visit(index, low)
        kl = reverse_kl(x - guess, logsnr=low, logsnr_next=high, v=share)
        return None, (_per_example(kl), error)

    index = jnp.arange(steps - 1)
    _, (kls, errors) = jax.lax.scan(transition, None, (index, levels[:-1], levels[1:]))
    guess, error, share = visit(steps - 1, levels[-1])
    least = process.reverse_variance(logsnr=levels[-2], logsnr_next=levels[-1], v=0.0)
    variance = least ** (1.0 - share) * sigma(levels[-1]) ** (2.0 * share)
    decoder = -_per_example(discretized_log_prob(x, mean=guess, variance=variance))
    prior = _prior(x, levels[0])
    nats = prior + kls.sum(0) + decoder
    return DiscreteVLB(
        prior=_bits_per_dim(prior, x),
        transitions=_bits_per_dim(kls.T, x),
        decoder=_bits_per_dim(decoder, x),
        bits_per_dim=_bits_per_dim(nats, x),
        nats=nats,
        simple=(errors.sum(0) + error) / steps,
    )


def continuous_vlb(
    denoiser: Denoiser,
    key: jax.Array,
    x: Float[Array, "batch ..."],
    cond: Condition = None,
    *,
    schedule: Schedule,
    samples: int,
    bins: int | None = None,
) -> ContinuousVLB:
    """The variational bound in continuous time, whose diffusion term no schedule changes.

        ½ ∫ E||ε - ε̂(z_λ, λ)||² dλ = ½ E_{λ ~ p(λ)} E||ε - ε̂(z_λ, λ)||² / p(λ)

    (Kingma et al. 2021, Equation 17). The schedule's ends belong to the bound; between them p(λ)
    only decides the variance of the estimate, which `schedules.Uniform` keeps small where Cosine's
    thin tails do not. Of each ||ε||² in the integrand, α_λ² (||ε||² - entries) is subtracted: it is
    zero in the mean, and cancels most of the noise of the clean end, where ε̂ tends to 0.

    Args:
      denoiser: `(z, logsnr, cond) -> eps`.
      key: A JAX random key; example i's noise depends on it and i alone.
      x: Data, (batch, ...).
      cond: The condition, or None.
      schedule: The range of λ and the proposal p(λ).
      samples: The number of λ for each example, one from each of as many equally likely intervals.
      bins: None for a density: p(x|z) is then N(z/α, e^-λ I), the bound's loosest part, tight where
        e^(-λ_max/2) is small against the details of the data. Or the number of values of discrete
        data on [-1, 1], 256 for images: p(x|z) is then proportional to q(z|x) over those values
        (Kingma et al. 2021, Section 3.3).

    Returns:
      The bound and its terms. For a density bits/dim are in the units of x; 8-bit data spread over
      [-1, 1] as (byte + noise) / 128 - 1 add 7 to it.

    Raises:
      ValueError: samples < 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    entries = math.prod(x.shape[1:])

    def visit(total, index):
        u_key, eps_key = jax.random.split(jax.random.fold_in(key, index))
        u = jax.vmap(jax.random.uniform)(_example_keys(u_key, len(x)))
        logsnr = schedule.logsnr(stratify(u, index, samples))
        eps = _normal(eps_key, 0, x)
        z = process.forward(x, eps, logsnr=logsnr)
        error = _per_example(jnp.square(read(denoiser, z, logsnr, cond).eps - eps))
        noise = alpha(logsnr) ** 2 * (_per_example(jnp.square(eps)) - entries)
        return total + 0.5 * (error - noise) * jnp.exp(-schedule.log_prob(logsnr)), None

    total, _ = jax.lax.scan(visit, jnp.zeros(len(x), x.dtype), jnp.arange(samples))
    diffusion, prior = total / samples, _prior(x, schedule.logsnr_min)
    end = _normal(key, samples, x)
    reconstruction = -_log_reconstruction(x, end, schedule.logsnr_max, bins)
    nats = prior + diffusion + reconstruction
    return ContinuousVLB(prior, diffusion, reconstruction, nats, _bits_per_dim(nats, x))


def ode_log_prob(
    denoiser: Denoiser,
    x: Float[Array, "batch ..."],
    cond: Condition = None,
    *,
    key: jax.Array | None = None,
    schedule: Schedule,
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
      schedule: Its quantiles are the steps' ends; `schedules.Uniform` spaces them evenly in λ.
      steps: The number of steps, at least 1, with 4 calls of the denoiser each.

    Returns:
      log p(x|c), the same in bits/dim (of x's units; see `continuous_vlb`), and z.

    Raises:
      ValueError: `steps` is not a whole number of at least 1.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax import schedules
    >>> from cfg_jax.diffusion.likelihood import ode_log_prob
    >>> standard = lambda z, logsnr, cond: jnp.sqrt(jax.nn.sigmoid(-logsnr)) * z  # of N(0, I)
    >>> found = ode_log_prob(standard, jnp.zeros((1, 2)), schedule=schedules.Uniform(), steps=20)
    >>> round(float(found.log_prob[0]), 4)  # -log 2π
    -1.8379
    """
    checks.steps(steps)
    levels = schedule.logsnr(jnp.linspace(0.0, 1.0, steps + 1, dtype=x.dtype))
    probe = None if key is None else _rademacher(key, x)

    def slope(state, logsnr):
        noise = sigma(logsnr)

        def flow(z):
            return 0.5 * noise * (noise * z - read(denoiser, z, logsnr, cond).eps)

        return _with_divergence(flow, state[0], probe)

    def step(state, ends):
        return _runge_kutta(slope, state, *ends), None

    start = (alpha(levels[0]) * x, jnp.zeros(len(x), x.dtype))
    (z, spread), _ = jax.lax.scan(step, start, (levels[:-1], levels[1:]))
    entries = math.prod(x.shape[1:])
    log_normal = -0.5 * (_per_example(jnp.square(z)) + entries * math.log(2.0 * math.pi))
    # `spread` is the integral from λmax down to λmin: minus the one of the equation.
    log_prob = log_normal + spread + entries * log_alpha(levels[0])
    return FlowLikelihood(log_prob, _bits_per_dim(-log_prob, x), z)


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
        return value, _per_example(along * probe)
    value, push = jax.linearize(flow, z)
    entries = math.prod(z.shape[1:])
    axes = jnp.eye(entries, dtype=z.dtype).reshape(entries, 1, *z.shape[1:])
    # Examples do not mix, so one direction serves the whole batch.
    slopes = jax.lax.map(lambda e: _per_example(e * push(jnp.broadcast_to(e, z.shape))), axes)
    return value, slopes.sum(0)


def _prior(x: Float[Array, "batch ..."], logsnr: ArrayLike) -> Float[Array, " batch"]:
    """KL(q(z_λ|x) || N(0, I)), in nats."""
    log_ratio = 2.0 * log_sigma(logsnr)
    return _per_example(normal_kl(shift=alpha(logsnr) * x, variance=1.0, log_ratio=log_ratio))


def _log_reconstruction(
    x: Float[Array, "batch ..."], eps: Float[Array, "batch ..."], logsnr: float, bins: int | None
) -> Float[Array, " batch"]:
    """Log p(x|z_λ) in nats: of a density in the mean over ε, of discrete data at z = α x + σ ε."""
    entries = math.prod(x.shape[1:])
    if bins is None:
        return jnp.full(len(x), 0.5 * entries * (logsnr - 1.0 - math.log(2.0 * math.pi)), x.dtype)
    values = jnp.linspace(-1.0, 1.0, bins, dtype=x.dtype)

    def of_example(example):
        # log q(z|value) = -½ (ε + (x - value) e^(λ/2))², up to what all values share.
        clean, noise = example
        away = noise[..., None] + (clean[..., None] - values) * math.exp(logsnr / 2.0)
        log_all = jax.nn.logsumexp(-0.5 * jnp.square(away), axis=-1)
        return jnp.sum(-0.5 * jnp.square(noise) - log_all)

    return jax.lax.map(of_example, (x, eps))  # one at a time: each is `bins` times its size


def _example_keys(key: jax.Array, batch: int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def _normal(key: jax.Array, fold: ArrayLike, x: Float[Array, "batch ..."]) -> Array:
    """Standard normal noise of x's shape, each example's from its own key."""
    keys = _example_keys(jax.random.fold_in(key, fold), len(x))
    return jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)


def _rademacher(key: jax.Array, x: Float[Array, "batch ..."]) -> Array:
    """±1 of x's shape, each example's from its own key."""
    keys = _example_keys(key, len(x))
    return jax.vmap(lambda k: jax.random.rademacher(k, x.shape[1:], x.dtype))(keys)


def _per_example(values: Float[Array, "batch ..."], reduce: Callable = jnp.sum) -> Array:
    """Sums, or reduces otherwise, over all axes but the batch's."""
    return reduce(values, axis=tuple(range(1, values.ndim)))


def _bits_per_dim(nats: Array, x: Float[Array, "batch ..."]) -> Array:
    return nats / (math.prod(x.shape[1:]) * math.log(2.0))
