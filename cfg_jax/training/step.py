"""One training step: draw λ, ε and nulls, ask the network for ε, descend, average.

Everything random is a function of (seed, step, example): the key is folded with the step here, and
with the example's place in the global batch in `objective.draw`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cfg_jax.data.images import to_float
from cfg_jax.diffusion import objective
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.models import UNet
from cfg_jax.training.state import State

BINS = 10
"""The range of λ is split into so many equal parts, and the loss logged for each."""


class Metrics(NamedTuple):
    """What one step measured.

    Attributes:
      loss: The mean over the batch.
      grad_norm: The gradient's global norm, before clipping.
      bin_loss: The sum of the losses of the examples in each part of λ's range.
      bin_count: The number of them.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    bin_loss: Float[Array, " bins"]
    bin_count: Int[Array, " bins"]


Step = Callable[[State, dict[str, Array]], tuple[State, Metrics]]


def make_step(
    network: UNet,
    optimizer: optax.GradientTransformation,
    *,
    schedule: Schedule,
    p_uncond: float,
    ema: float,
    seed: int,
) -> Step:
    """The function (state, batch) -> (state, metrics), jitted, its state donated.

    Args:
      network: The U-Net; its number of classes is the null label.
      optimizer: Takes gradients to updates.
      schedule: p(λ).
      p_uncond: The probability that a label is hidden.
      ema: The decay of the parameters' moving average.
      seed: Of everything random.

    Returns:
      A step over batches {"image": uint8 (batch, height, width, channels), "label": int32
      (batch,)}.
    """

    def step(state: State, batch: dict[str, Array]) -> tuple[State, Metrics]:
        draw_key, dropout_key = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), state.step)
        )
        x = to_float(batch["image"])
        drawn = objective.draw(
            draw_key,
            x,
            batch["label"] if network.num_classes else None,
            schedule=schedule,
            null=network.num_classes,
            p_uncond=p_uncond,
        )

        def loss_of(params):
            def denoiser(z, logsnr, cond):
                rngs = {"dropout": dropout_key}
                return network.apply(params, z, logsnr, cond, train=True, rngs=rngs)

            losses = objective.squared_error(denoiser, x, drawn)
            return losses.mean(), losses

        (loss, losses), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = State(
            step=state.step + 1,
            params=params,
            ema=_average(state.ema, params, ema, state.step),
            opt_state=opt_state,
        )
        return new, Metrics(loss, optax.tree.norm(gradient), *_bins(drawn.logsnr, losses, schedule))

    return jax.jit(step, donate_argnums=0)


def _average(ema: Any, params: Any, decay: float, step: Int[Array, ""]) -> Any:
    """The moving average, over a window that grows with the steps until `decay` bounds it."""
    share = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: a + share * (p - a), ema, params)


def _bins(logsnr: Array, losses: Array, schedule: Schedule) -> tuple[Array, Array]:
    """Sums and counts of the losses in equal parts of λ's range."""
    width = (schedule.logsnr_max - schedule.logsnr_min) / BINS
    place = jnp.clip((logsnr - schedule.logsnr_min) / width, 0, BINS - 1).astype(jnp.int32)
    return (
        jax.ops.segment_sum(losses, place, BINS),
        jax.ops.segment_sum(jnp.ones_like(place), place, BINS),
    )
