"""One training step: draw λ, ε and nulls, ask the network, descend, average.

Everything random is a function of (seed, step, example): the key is folded with the step here, and
with the example's place in the global batch in `objective.draw`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cfg_jax.data.images import to_float
from cfg_jax.diffusion import objective
from cfg_jax.diffusion.objective import Draw
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.models import Encoder, UNet
from cfg_jax.training.averages import Average, move
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
      skipped: How many steps were skipped so far, this one included.
      replaced: How many of the batch's examples stand in for unreadable ones.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    bin_loss: Float[Array, " bins"]
    bin_count: Int[Array, " bins"]
    skipped: Int[Array, ""]
    replaced: Int[Array, ""]


class Drawn(NamedTuple):
    """A batch made ready for the network.

    Attributes:
      x: Images in [-1, 1], (batch, height, width, channels).
      draw: λ, ε and the labels with nulls among them.
      dropout: The key of the network's dropout.
    """

    x: Float[Array, "batch height width channels"]
    draw: Draw
    dropout: jax.Array


Step = Callable[[State, dict[str, Array]], tuple[State, Metrics]]

Loss = Callable[[Callable, Array, Draw], Array]
"""(network, x, draw) -> (batch,), as `objective.squared_error` and `objective.cross_entropy`."""


def prepare(
    batch: dict[str, Array],
    step: Int[Array, ""],
    *,
    network: UNet | Encoder,
    schedule: Schedule,
    p_uncond: float,
    seed: int,
) -> Drawn:
    """Draws all that is random in one step.

    Args:
      batch: {"image": uint8 (batch, height, width, channels), "label": int32 (batch,)}.
      step: The number of steps made before.
      network: Its number of classes is the null label.
      schedule: p(λ).
      p_uncond: The probability that a label is hidden.
      seed: Of everything random.
    """
    draw_key, dropout = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    x = to_float(batch["image"])
    draw = objective.draw(
        draw_key,
        x,
        batch["label"] if network.num_classes else None,
        schedule=schedule,
        null=network.num_classes,
        p_uncond=p_uncond,
    )
    return Drawn(x, draw, dropout)


def losses(
    network: UNet | Encoder, params: Any, drawn: Drawn, loss: Loss
) -> Float[Array, " batch"]:
    """Each example's training loss."""
    rngs = {"dropout": drawn.dropout}
    asked = functools.partial(network.apply, params, train=True, rngs=rngs)
    return loss(asked, drawn.x, drawn.draw)


def make_step(
    network: UNet | Encoder,
    optimizer: optax.GradientTransformation,
    *,
    loss: Loss,
    schedule: Schedule,
    p_uncond: float,
    averages: Sequence[Average],
    seed: int,
    accumulate: int = 1,
    gather: Callable[[Any], Any] = lambda params: params,
    scatter: Callable[[Any], Any] = lambda gradient: gradient,
) -> Step:
    """The function (state, batch) -> (state, metrics), to be jitted.

    A step whose loss or gradient is not finite changes nothing but the counts.

    Args:
      network: The U-Net, its number of classes being the null label; or the encoder.
      optimizer: Takes gradients to updates.
      loss: What the network descends on.
      schedule: p(λ).
      p_uncond: The probability that a label is hidden.
      averages: The parameters' moving averages.
      seed: Of everything random.
      accumulate: In how many parts the gradient of a batch is computed, one after another.
      gather: Lays the parameters out for the network, where the state has them split.
      scatter: Lays the gradient out as the state has the parameters.

    Returns:
      A step over batches {"image": uint8 (batch, height, width, channels), "label": int32
      (batch,), "replaced": int32 (batch,)}.
    """

    def gradient_of(params: Any, drawn: Drawn) -> tuple[Array, Any]:
        def mean(params):
            each = losses(network, params, drawn, loss)
            return each.mean(), each

        (_, each), gradient = jax.value_and_grad(mean, has_aux=True)(params)
        return each, scatter(gradient)

    def zeros(params: Any) -> Any:
        return scatter(jax.tree.map(jnp.zeros_like, params))

    def step(state: State, batch: dict[str, Array]) -> tuple[State, Metrics]:
        drawn = prepare(
            batch, state.step, network=network, schedule=schedule, p_uncond=p_uncond, seed=seed
        )
        params = gather(state.params)
        if accumulate == 1:
            each, gradient = gradient_of(params, drawn)
        else:
            each, gradient = _in_parts(gradient_of, params, drawn, accumulate, zeros(params))
        mean, norm = each.mean(), optax.tree.norm(gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        moved = [
            move(average, ema, params, state.step + 1)
            for average, ema in zip(averages, state.ema, strict=True)
        ]
        finite = jnp.isfinite(mean) & jnp.isfinite(norm)
        changed = jax.tree.map(
            functools.partial(jnp.where, finite),
            (params, tuple(moved), opt_state),
            (state.params, state.ema, state.opt_state),
        )
        skipped = state.skipped + (~finite).astype(jnp.int32)
        bins = _bins(drawn.draw.logsnr, each, schedule)
        measured = Metrics(mean, norm, *bins, skipped, batch["replaced"].sum())
        return State(state.step + 1, skipped, *changed), measured

    return step


def _in_parts(
    gradient_of: Callable, params: Any, drawn: Drawn, parts: int, zeros: Any
) -> tuple[Array, Any]:
    """Losses and mean gradient of a batch, computed in so many parts one after another.

    Part m has the examples m, m + parts, m + 2 parts, …: each device finds its share of every part
    within its share of the batch.
    """
    apart = jax.tree.map(
        lambda a: jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0), (drawn.x, drawn.draw)
    )

    def body(total, part):
        x, draw, number = part
        key = jax.random.fold_in(drawn.dropout, number)
        each, gradient = gradient_of(params, Drawn(x, draw, key))
        return jax.tree.map(lambda t, g: t + g / parts, total, gradient), each

    gradient, each = jax.lax.scan(body, zeros, (*apart, jnp.arange(parts)))
    return jnp.moveaxis(each, 0, 1).reshape(-1), gradient


def _bins(logsnr: Array, losses: Array, schedule: Schedule) -> tuple[Array, Array]:
    """Sums and counts of the losses in equal parts of λ's range."""
    width = (schedule.logsnr_max - schedule.logsnr_min) / BINS
    place = jnp.clip((logsnr - schedule.logsnr_min) / width, 0, BINS - 1).astype(jnp.int32)
    return (
        jax.ops.segment_sum(losses, place, BINS),
        jax.ops.segment_sum(jnp.ones_like(place), place, BINS),
    )
