"""The training loss of one network that learns to denoise with its condition and without.

    E_{x,c} E_{λ ~ p(λ)} E_{ε ~ N(0, I)}  || ε_θ(z_λ, λ, c̃) - ε ||²,    z_λ = α_λ x + σ_λ ε

where c̃ is the null with probability p_uncond, else c (Ho & Salimans 2022, Algorithm 1 and Equation
5). The norm is the mean over an example's entries, in float32.

A network that also says what the reverse variance is learns that from the variational bound, see
`hybrid`. A noisy classifier learns from the same draws, its label never hidden (Dhariwal & Nichol
2021, "Diffusion Models Beat GANs on Image Synthesis", Section 4):

    E_{x,c} E_{λ ~ p(λ)} E_{ε ~ N(0, I)}  -log p_φ(c|z_λ)
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cfg_jax.diffusion import checks, condition, process
from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.denoiser import Denoiser, read
from cfg_jax.diffusion.likelihood import reverse_kl
from cfg_jax.diffusion.logsnr import expand, log_alpha, log_sigma
from cfg_jax.diffusion.schedules import Schedule, stratify


class Draw(NamedTuple):
    """What one training example is made of, each of (batch, ...)."""

    logsnr: Float[Array, " batch"]
    eps: Float[Array, "batch ..."]
    cond: Condition


def draw(
    key: jax.Array,
    x: Float[Array, "batch ..."],
    cond: Condition,
    *,
    schedule: Schedule,
    null: Any = None,
    p_uncond: Any = 0.1,
    stratified: bool = True,
) -> Draw:
    """Draws λ, ε and the null labels of a batch; example i's draws depend on `key` and i alone.

    Args:
      key: A JAX random key.
      x: Data of (batch, ...); only its shape and dtype matter.
      cond: The condition, or None.
      schedule: p(λ).
      null: What takes the condition's place; unused where cond is None.
      p_uncond: The probability of that, in [0, 1]. A dictionary of one for each part of cond hides
        the parts independently of one another.
      stratified: Let example i's λ come from the i-th of `batch` equally likely intervals.

    Returns:
      λ, ε and the condition with nulls in it.

    Raises:
      ValueError: p_uncond is outside [0, 1], or null does not fit cond.
    """
    for probability in jax.tree.leaves(p_uncond):
        checks.within("p_uncond", probability, 0.0, 1.0)
    count = x.shape[0]
    index = jnp.arange(count)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), 3))(index)
    u = jax.vmap(jax.random.uniform)(keys[:, 0])
    logsnr = schedule.logsnr(stratify(u, index, count) if stratified else u)
    eps = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys[:, 1])
    if cond is not None:
        cond = _hidden(keys[:, 2], cond, condition.broadcast(null, cond), p_uncond)
    return Draw(logsnr, eps, cond)


def _hidden(keys: jax.Array, cond: Condition, nulls: Condition, p_uncond: Any) -> Condition:
    """The condition, each of its parts that has a p_uncond of its own hidden with that."""
    count = len(jax.tree.leaves(p_uncond))
    u = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)
    part = iter(range(count))
    return jax.tree.map(
        lambda p, own, null: condition.where(u[:, next(part)] < p, null, own), p_uncond, cond, nulls
    )


def squared_error(
    denoiser: Denoiser, x: Float[Array, "batch ..."], drawn: Draw
) -> Float[Array, " batch"]:
    """Each example's ||ε_θ(z_λ, λ, c̃) - ε||², the mean over its entries, in float32."""
    z = process.forward(x, drawn.eps, logsnr=drawn.logsnr)
    eps = read(denoiser, z, drawn.logsnr, drawn.cond).eps
    error = eps.astype(jnp.promote_types(eps.dtype, jnp.float32)) - drawn.eps
    return jnp.mean(jnp.square(error), axis=tuple(range(1, x.ndim)))


def hybrid(
    network: Callable,
    x: Float[Array, "batch ..."],
    drawn: Draw,
    *,
    schedule: Schedule,
    steps: int,
    weight: float = 1e-3,
) -> Float[Array, " batch"]:
    """Each example's L_simple + weight · L_vlb, for a network that tells the reverse variance too.

    L_vlb = steps · KL(q(z_λ'|z_λ, x) || p(z_λ'|z_λ)) in bits/dim, where λ' lies 1 / steps of u
    above λ: in the mean over λ the bound of a sampler of so many steps. Its gradient goes to v
    alone, ε̂ learns from the squared error as ever (Nichol & Dhariwal 2021, "Improved Denoising
    Diffusion Probabilistic Models", Equation 16 and Section 3.1).

    Args:
      network: `(z, logsnr, cond) -> (eps, v)`, both of z's shape; the reverse variance is
        (σ̃²)^(1-v) (σ²)^v.
      x: Data of (batch, ...).
      drawn: As `draw` makes it.
      schedule: p(λ).
      steps: The number of steps of the sampler that is bounded. The best variance depends on it:
        take as many as will be sampled with.
      weight: Of the bound; 0.001 in the paper.
    """
    logsnr = drawn.logsnr
    eps, v = network(process.forward(x, drawn.eps, logsnr=logsnr), logsnr, drawn.cond)
    simple = jnp.square(eps - drawn.eps)
    u = schedule.u(logsnr)
    cleaner = schedule.logsnr(u - jnp.minimum(1.0 / steps, 0.5 * u))  # λ' > λ near the data too
    error = jnp.exp(expand(log_sigma(logsnr) - log_alpha(logsnr), x)) * (eps - drawn.eps)  # x - x̂
    kl = reverse_kl(
        jax.lax.stop_gradient(error), logsnr=expand(logsnr, x), logsnr_next=expand(cleaner, x), v=v
    )
    each = simple + weight * steps / math.log(2.0) * kl
    return jnp.mean(each, axis=tuple(range(1, x.ndim)))


def cross_entropy(
    classifier: Callable, x: Float[Array, "batch ..."], drawn: Draw
) -> Float[Array, " batch"]:
    """Each example's -log p_φ(c|z_λ) in nats, its c being the drawn condition.

    Args:
      classifier: `(z, logsnr) -> logits` of (batch, classes).
      x: Data of (batch, ...).
      drawn: Its cond are labels in [0, classes), drawn with p_uncond = 0.
    """
    z = process.forward(x, drawn.eps, logsnr=drawn.logsnr)
    return -label_log_prob(classifier(z, drawn.logsnr), drawn.cond)


def label_log_prob(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """The log-probability that logits give each example's own label, in nats."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]
