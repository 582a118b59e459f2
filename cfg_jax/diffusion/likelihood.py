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
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks, noise, process, schedules
from cfg_jax.diffusion.condition import Condition, check_count
from cfg_jax.diffusion.denoiser import Denoiser, learned_v, read
from cfg_jax.diffusion.flow import FlowLikelihood, ode_log_prob
from cfg_jax.diffusion.gaussian import (
    bits_per_dim,
    discretized_log_prob,
    normal_kl,
    per_example,
    reverse_kl,
)
from cfg_jax.diffusion.logsnr import alpha, cast_like, floating, log_sigma, sigma
from cfg_jax.diffusion.schedules import Schedule, stratify

__all__ = [
    "ContinuousVLB",
    "DiscreteVLB",
    "FlowLikelihood",
    "continuous_vlb",
    "discrete_vlb",
    "discretized_log_prob",
    "normal_kl",
    "ode_log_prob",
    "reverse_kl",
]


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


def discrete_vlb(
    denoiser: Denoiser,
    key: jax.Array,
    x: Float[Array, "batch ..."],
    cond: Condition = None,
    *,
    schedule: Schedule | str,
    steps: int,
    v: ArrayLike | None = 0.0,
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
      schedule: Gives the noise levels: one of `schedules`, or its name.
      steps: The number of steps N, at least 2.
      v: The reverse variance (σ̃²)^(1-v) (σ²)^v: a number in [0, 1]; or None for the v that the
        denoiser learned (Nichol & Dhariwal 2021, Equation 15). In the last step, where σ̃² = 0, the
        σ̃² of the step before stands in, as in their code. So v = 1 decodes with the variance β_0
        there; Ho et al. 2020's "fixedlarge" decodes with that σ̃² at every v.

    Returns:
      The bound and its terms.

    Raises:
      ValueError: steps < 2, v is a number outside [0, 1], or None where the denoiser learned none,
        x leaves [-1, 1], or cond is not one an example.
      TypeError: denoiser cannot be called, key is no random key, or schedule is none.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax import schedules
    >>> from cfg_jax.diffusion.likelihood import discrete_vlb
    >>> knows = lambda z, logsnr, cond: z / jnp.sqrt(jax.nn.sigmoid(-logsnr))  # that x = 0
    >>> bound = discrete_vlb(knows, jax.random.key(0), jnp.full((1, 8), 1 / 255),
    ...                      schedule=schedules.CosineBeta(steps=50), steps=50)
    >>> bound.transitions.shape
    (1, 49)
    """
    checks.function("denoiser", denoiser)
    walked, steps = schedules.made(schedule), checks.whole("steps", steps, 2)
    checks.within("x", x, -1.0, 1.0)
    key, x = checks.random_key(key), floating(checks.batch("x", x))
    check_count(cond, x)
    levels = jnp.asarray(walked.grid(steps)[:-1], x.dtype)

    def visit(step, logsnr):
        """One noise level: z, what the denoiser makes of it, and v."""
        eps = _normal(key, step, x)
        z = process.forward(x, eps, logsnr=logsnr)
        guess = read(denoiser, z, logsnr, cond)
        share = learned_v(guess) if v is None else v
        return guess.x, per_example(jnp.square(guess.eps - eps), jnp.mean), share

    def transition(_, step):
        index, low, high = step
        guess, error, share = visit(index, low)
        kl = reverse_kl(x - guess, logsnr=low, logsnr_next=high, v=share)
        return None, (per_example(kl), error)

    index = jnp.arange(steps - 1)
    _, (kls, errors) = jax.lax.scan(transition, None, (index, levels[:-1], levels[1:]))
    guess, error, share = visit(steps - 1, levels[-1])
    least = process.reverse_variance(logsnr=levels[-2], logsnr_next=levels[-1], v=0.0)
    variance = least ** (1.0 - share) * sigma(levels[-1]) ** (2.0 * share)
    decoder = -per_example(discretized_log_prob(x, mean=guess, variance=variance))
    prior = _prior(x, levels[0])
    nats = prior + kls.sum(0) + decoder
    return DiscreteVLB(
        prior=bits_per_dim(prior, x),
        transitions=bits_per_dim(kls.T, x),
        decoder=bits_per_dim(decoder, x),
        bits_per_dim=bits_per_dim(nats, x),
        nats=nats,
        simple=(errors.sum(0) + error) / steps,
    )


def continuous_vlb(
    denoiser: Denoiser,
    key: jax.Array,
    x: Float[Array, "batch ..."],
    cond: Condition = None,
    *,
    schedule: Schedule | str,
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
      schedule: The range of λ and the proposal p(λ): one of `schedules`, or its name.
      samples: The number of λ for each example, one from each of as many equally likely intervals.
      bins: None for a density: p(x|z) is then N(z/α, e^-λ I), the bound's loosest part, tight where
        e^(-λ_max/2) is small against the details of the data. Or the number of values of discrete
        data on [-1, 1], 256 for images: p(x|z) is then proportional to q(z|x) over those values
        (Kingma et al. 2021, Section 3.3).

    Returns:
      The bound and its terms. For a density bits/dim are in the units of x; 8-bit data spread over
      [-1, 1] as (byte + noise) / 128 - 1 add 7 to it.

    Raises:
      ValueError: samples < 1, bins < 2, x is no array of numbers or leaves [-1, 1] where bins are
        given, or cond is not one an example.
      TypeError: denoiser cannot be called, key is no random key, or schedule is none.
    """
    checks.function("denoiser", denoiser)
    proposal, samples = schedules.made(schedule), checks.whole("samples", samples, 1)
    if bins is not None:
        bins = checks.whole("bins", bins, 2)
        checks.within("x", x, -1.0, 1.0)
    key, x = checks.random_key(key), floating(checks.batch("x", x))
    check_count(cond, x)
    entries = math.prod(x.shape[1:])

    def visit(total, index):
        u_key, eps_key = jax.random.split(jax.random.fold_in(key, index))
        keys = noise.examples(u_key, jnp.arange(len(x)))
        u = jax.vmap(lambda k: jax.random.uniform(k, dtype=x.dtype))(keys)
        logsnr = proposal.logsnr(stratify(u, index, samples))
        eps = _normal(eps_key, 0, x)
        z = process.forward(x, eps, logsnr=logsnr)
        error = per_example(jnp.square(read(denoiser, z, logsnr, cond).eps - eps))
        own = alpha(logsnr) ** 2 * (per_example(jnp.square(eps)) - entries)
        here = 0.5 * (error - own) * jnp.exp(-proposal.log_prob(logsnr))
        return cast_like(total + here, total), None

    total, _ = jax.lax.scan(visit, jnp.zeros(len(x), x.dtype), jnp.arange(samples))
    diffusion, prior = total / samples, _prior(x, proposal.logsnr_min)
    end = _normal(key, samples, x)
    reconstruction = -_log_reconstruction(x, end, proposal.logsnr_max, bins)
    nats = prior + diffusion + reconstruction
    return ContinuousVLB(prior, diffusion, reconstruction, nats, bits_per_dim(nats, x))


def _prior(x: Float[Array, "batch ..."], logsnr: ArrayLike) -> Float[Array, " batch"]:
    """KL(q(z_λ|x) || N(0, I)), in nats."""
    log_ratio = 2.0 * log_sigma(logsnr)
    return per_example(normal_kl(shift=alpha(logsnr) * x, variance=1.0, log_ratio=log_ratio))


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
        clean, drawn = example
        away = drawn[..., None] + (clean[..., None] - values) * math.exp(logsnr / 2.0)
        log_all = jax.nn.logsumexp(-0.5 * jnp.square(away), axis=-1)
        return jnp.sum(-0.5 * jnp.square(drawn) - log_all)

    return jax.lax.map(of_example, (x, eps))  # one at a time: each is `bins` times its size


def _normal(key: jax.Array, fold: ArrayLike, x: Float[Array, "batch ..."]) -> Array:
    """Standard normal noise of x's shape, each example's from its own key."""
    keys = noise.examples(jax.random.fold_in(key, fold), jnp.arange(len(x)))
    return jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)
