"""What a training example is made of: λ, ε, and who is hidden, each from a stream of its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax import conditions
from cfg_jax.diffusion import noise
from cfg_jax.diffusion.noise import Stream
from cfg_jax.diffusion.schedules import stratify
from cfg_jax.parts import Condition, Setting


class Draw(NamedTuple):
    """A batch of training examples, each of (batch, ...).

    Attributes:
      x: The data, z of the codec.
      logsnr: λ.
      eps: ε.
      cond: What the network is shown, nulls among it.
      weight: The weight of each example's error.
    """

    x: Float[Array, "batch ..."]
    logsnr: Float[Array, " batch"]
    eps: Float[Array, "batch ..."]
    cond: Condition
    weight: Float[Array, " batch"]


def draw(
    key: jax.Array,
    x: Float[Array, "batch ..."],
    cond: Condition,
    setting: Setting,
    *,
    stratified: bool = True,
) -> Draw:
    """Draws λ ~ p(λ), ε ~ N(0, I) and who is hidden; example i's draws depend on key and i alone.

    Args:
      key: A JAX random key.
      x: Data of (batch, ...).
      cond: The condition.
      setting: p(λ), and how often each entry of the condition is hidden.
      stratified: Let example i's λ come from the i-th of `batch` equally likely intervals.

    Returns:
      The draw, of weight 1.
    """
    count = x.shape[0]
    index = jnp.arange(count)
    u = jax.vmap(jax.random.uniform)(noise.examples(key, index, Stream.LEVEL))
    logsnr = setting.schedule.logsnr(stratify(u, index, count) if stratified else u)
    keys = noise.examples(key, index, Stream.NOISE)
    eps = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)
    keys = noise.examples(key, index, Stream.HIDING)
    cond = conditions.hidden(keys, cond, setting.null, setting.p_uncond, setting.together)
    return Draw(x, logsnr, eps, cond, jnp.ones(count))


def mean(errors: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """The mean over each example's entries."""
    return jnp.mean(errors, axis=tuple(range(1, errors.ndim)))


def value_of(output: Any) -> Float[Array, "batch ..."]:
    """A network's prediction without the variance that it may have learned beside it."""
    return getattr(output, "value", output)
