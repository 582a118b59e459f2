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
from cfg_jax.diffusion.condition import Noisy, augmented
from cfg_jax.diffusion.objective import Draw
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.networks import Encoder, UNet
from cfg_jax.networks.unet import joined
from cfg_jax.nn.layers import downsample
from cfg_jax.optim.averages import Average, move
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
      draw: λ, ε and the conditions with nulls among them.
      dropout: The key of the network's dropout.
    """

    x: Float[Array, "batch height width channels"]
    draw: Draw
    dropout: jax.Array


Step = Callable[[State, dict[str, Array]], tuple[State, Metrics]]

Loss = Callable[[Callable, Array, Draw], Array]
"""(network, x, draw) -> (batch,), such as `objective.squared_error`."""

Prepare = Callable[[dict[str, Array], Int[Array, ""]], Drawn]
"""(batch, number of steps made before) -> what the network is asked."""


def prepare(
    batch: dict[str, Array],
    step: Int[Array, ""],
    *,
    network: UNet | Encoder,
    schedule: Schedule,
    p_uncond: float,
    seed: int,
    small_p_uncond: float = 0.0,
    small_logsnr_min: float | None = None,
) -> Drawn:
    """Draws all that is random in one step.

    Args:
      batch: {"image": uint8 (batch, height, width, channels), "label": int32 (batch,)}, and
        "vector": float32 (batch, length) for a network that takes vectors.
      step: The number of steps made before.
      network: Tells what it takes, and what stands for none.
      schedule: p(λ).
      p_uncond: The probability that label and vector are hidden, together.
      seed: Of everything random.
      small_p_uncond: The probability that the small image is hidden, independently of that.
      small_logsnr_min: For an augmented network: its small images are noised to λ ~ p(λ), cut off
        below this.
    """
    draw_key, dropout = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    x = to_float(batch["image"])
    parts: dict[str, Any] = {part: batch[part] for part in network.takes if part != "small"}
    if isinstance(network, UNet) and network.upscale:
        small = downsample(x, network.upscale)
        parts["small"] = _noised(draw_key, small, schedule, small_logsnr_min)
    draw = objective.draw(
        draw_key,
        x,
        _apart(parts),
        schedule=schedule,
        null=_apart(network.nulls(null_logsnr=schedule.logsnr_min)),
        p_uncond={"told": p_uncond, "small": small_p_uncond},
    )
    shown = joined({**draw.cond["told"], **draw.cond["small"]})
    return Drawn(x, draw._replace(cond=shown), dropout)


def _apart(parts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of a condition by how they are hidden: what is told together, the image alone."""
    told = {part: value for part, value in parts.items() if part != "small"}
    return {"told": told, "small": {"small": parts["small"]} if "small" in parts else {}}


def _noised(
    key: jax.Array, small: Array, schedule: Schedule, logsnr_min: float | None
) -> Array | Noisy:
    """The small images, each noised to a λ of its own where the network is augmented."""
    if logsnr_min is None:
        return small
    index = jnp.arange(len(small))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, _LEVELS), i))(index)
    u = jax.vmap(jax.random.uniform)(keys) * schedule.u(logsnr_min)
    return augmented(key, small, logsnr=schedule.logsnr(u), index=index)


_LEVELS = 2**32 - 2
"""Sets the keys of the small images' noise levels apart from those of examples."""


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
    prepare: Prepare,
    loss: Loss,
    schedule: Schedule,
    averages: Sequence[Average],
    accumulate: int = 1,
    gather: Callable[[Any], Any] = lambda params: params,
    scatter: Callable[[Any], Any] = lambda gradient: gradient,
) -> Step:
    """The function (state, batch) -> (state, metrics), to be jitted.

    A step whose loss or gradient is not finite changes nothing but the counts.

    Args:
      network: The U-Net or the encoder.
      optimizer: Takes gradients to updates.
      prepare: Draws all that is random in a step, see the function of this name.
      loss: What the network descends on.
      schedule: p(λ).
      averages: The parameters' moving averages.
      accumulate: In how many parts the gradient of a batch is computed, one after another.
      gather: Lays the parameters out for the network, where the state has them split.
      scatter: Lays the gradient out as the state has the parameters.

    Returns:
      A step over batches as `prepare` takes them, and "replaced": int32 (batch,) in them.
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
        drawn = prepare(batch, state.step)
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
