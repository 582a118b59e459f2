"""What a training example is made of: λ, ε, and who is hidden, each from a stream of its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax import conditions
from cfg_jax.diffusion import noise, process
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
      added: What is added to ε where z_λ is made, and not where the target is; None for nothing.
    """

    x: Float[Array, "batch ..."]
    logsnr: Float[Array, " batch"]
    eps: Float[Array, "batch ..."]
    cond: Condition
    weight: Float[Array, " batch"]
    added: Any = None

    @property
    def z(self) -> Float[Array, "batch ..."]:
        """z_λ as the network is shown it."""
        eps = self.eps if self.added is None else self.eps + self.added
        return process.forward(self.x, eps, logsnr=self.logsnr)


class Losses(NamedTuple):
    """What an objective returns that measures more than its loss.

    Attributes:
      each: Each example's loss.
      measured: What else is known of each example, (batch, ...) by name; the mean is logged, unless
        the objective's own `after(variables, measured, key) -> variables, logged` says otherwise.
    """

    each: Float[Array, " batch"]
    measured: dict[str, Array]


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
    eps = normal(key, x, Stream.NOISE)
    keys = noise.examples(key, index, Stream.HIDING)
    cond = conditions.hidden(keys, cond, setting.null, setting.p_uncond, setting.together)
    return Draw(x, logsnr, eps, cond, jnp.ones(count))


def normal(
    key: jax.Array, x: Float[Array, "batch ..."], name: Stream, shape: tuple[int, ...] | None = None
) -> Float[Array, "batch ..."]:
    """N(0, I) of a stream for each example of x, of its shape and dtype.

    Args:
      key: A JAX random key.
      x: Data of (batch, ...).
      name: The stream.
      shape: One example's shape; that of x when None.
    """
    keys = noise.examples(key, jnp.arange(len(x)), name)
    shape = x.shape[1:] if shape is None else shape
    return jax.vmap(lambda k: jax.random.normal(k, shape, x.dtype))(keys)


def mean(errors: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """The mean over each example's entries."""
    return jnp.mean(errors, axis=tuple(range(1, errors.ndim)))
