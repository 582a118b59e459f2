"""The training loss of one network that learns to denoise with its condition and without.

    E_{x,c} E_{λ ~ p(λ)} E_{ε ~ N(0, I)}  || ε_θ(z_λ, λ, c̃) - ε ||²,    z_λ = α_λ x + σ_λ ε

where c̃ is the null with probability p_uncond, else c (Ho & Salimans 2022, Algorithm 1 and Equation
5). The norm is the mean over an example's entries, in float32.

A noisy classifier learns from the same draws, its label never hidden (Dhariwal & Nichol 2021,
"Diffusion Models Beat GANs on Image Synthesis", Section 4):

    E_{x,c} E_{λ ~ p(λ)} E_{ε ~ N(0, I)}  -log p_φ(c|z_λ)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks, condition, process
from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.denoiser import Denoiser, read
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
    p_uncond: float = 0.1,
    stratified: bool = True,
) -> Draw:
    """Draws λ, ε and the null labels of a batch; example i's draws depend on `key` and i alone.

    Args:
      key: A JAX random key.
      x: Data of (batch, ...); only its shape and dtype matter.
      cond: The condition, or None.
      schedule: p(λ).
      null: What takes the condition's place; unused where cond is None.
      p_uncond: The probability of that, in [0, 1].
      stratified: Let example i's λ come from the i-th of `batch` equally likely intervals.

    Returns:
      λ, ε and the condition with nulls in it.

    Raises:
      ValueError: p_uncond is outside [0, 1], or null does not fit cond.
    """
    checks.within("p_uncond", p_uncond, 0.0, 1.0)
    count = x.shape[0]
    index = jnp.arange(count)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), 3))(index)
    u = jax.vmap(jax.random.uniform)(keys[:, 0])
    logsnr = schedule.logsnr(stratify(u, index, count) if stratified else u)
    eps = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys[:, 1])
    if cond is not None:
        dropped = jax.vmap(jax.random.uniform)(keys[:, 2]) < p_uncond
        cond = condition.where(dropped, condition.broadcast(null, cond), cond)
    return Draw(logsnr, eps, cond)


def squared_error(
    denoiser: Denoiser, x: Float[Array, "batch ..."], drawn: Draw
) -> Float[Array, " batch"]:
    """Each example's ||ε_θ(z_λ, λ, c̃) - ε||², the mean over its entries, in float32."""
    z = process.forward(x, drawn.eps, logsnr=drawn.logsnr)
    eps = read(denoiser, z, drawn.logsnr, drawn.cond).eps
    error = eps.astype(jnp.promote_types(eps.dtype, jnp.float32)) - drawn.eps
    return jnp.mean(jnp.square(error), axis=tuple(range(1, x.ndim)))


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
    log_probs = jax.nn.log_softmax(classifier(z, drawn.logsnr))
    return -jnp.take_along_axis(log_probs, drawn.cond[:, None], axis=1)[:, 0]
