"""One training step: draw what is random, ask the network, descend, average.

Everything random is a function of (seed, step, example): the key is folded with the step here, and
with the example's place in the global batch in its own stream, see `diffusion.noise`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cfg_jax import conditions
from cfg_jax.blueprint import Blueprint
from cfg_jax.data.samples import to_float
from cfg_jax.diffusion import noise
from cfg_jax.diffusion.noise import Stream
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.optim.averages import Average, move
from cfg_jax.parts import Ask, Setting, through
from cfg_jax.training.state import State

BINS = 10
"""The range of λ is split into so many equal parts, and the loss logged for each."""


class Frozen(NamedTuple):
    """What a step reads and never changes: neither donated, averaged, nor in the optimiser.

    Attributes:
      objective: The objective, a teacher's parameters among its leaves.
      codec: The codec's parameters; {} without.
      condition: The parameters of each conditioner that has some, by entries' names.
    """

    objective: Any
    codec: Any
    condition: Mapping[str, Any]


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
      draw: What the objective drew: a pytree of (batch, ...) arrays.
      dropout: The key of the network's dropout.
    """

    draw: Any
    dropout: jax.Array


Step = Callable[[State, Frozen, dict[str, Array]], tuple[State, Metrics]]

Prepare = Callable[[Frozen, dict[str, Array], Int[Array, ""]], Drawn]
"""(frozen, batch, number of steps made before) -> what the network is asked."""


def prepare(
    frozen: Frozen,
    batch: dict[str, Array],
    step: Int[Array, ""],
    *,
    blueprint: Blueprint,
    seed: int,
) -> Drawn:
    """Makes a batch ready: its condition, its z, and all that is random in one step.

    Args:
      frozen: The objective, and parameters that are not trained.
      batch: {"x": (batch, ...), …} as the data yield it.
      step: The number of steps made before.
      blueprint: The model that is trained.
      seed: Random seed.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    x = to_float(batch["x"])
    cond = conditions.read(blueprint.conditioners, frozen.condition, batch, x)
    keys = noise.examples(key, jnp.arange(len(x)))
    cond = conditions.shown(blueprint.conditioners, keys, cond, blueprint.schedule, training=True)
    z = through(blueprint.codec, "encode", frozen.codec, x)
    draw = frozen.objective.draw(key, z, cond, setting(blueprint))
    return Drawn(draw, noise.stream(key, Stream.DROPOUT))


def setting(blueprint: Blueprint) -> Setting:
    """What the objective may draw from."""
    made = blueprint.conditioners
    return Setting(
        blueprint.schedule,
        conditions.hidden_null(made),
        {name: conditioner.p_uncond for name, conditioner in made},
        {name: conditioner.guided for name, conditioner in made},
    )


def asker(blueprint: Blueprint, params: Any, frozen: Frozen, dropout: jax.Array) -> Ask:
    """The network in training: `(z, logsnr, cond) -> prediction`, shown what it takes."""
    network = blueprint.network
    takes = tuple(network.takes)
    fields = inspect.signature(type(network).__call__).parameters
    training = {"train": True} if "train" in fields else {}

    def ask(z: Array, logsnr: Any, cond: Any) -> Any:
        logsnr = jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1])
        shown = {name: cond[name] for name in takes}
        shown = conditions.encoded(blueprint.conditioners, params, frozen.condition, shown)
        return network.apply(params, z, logsnr, shown, **training, rngs={"dropout": dropout})

    return ask


def losses(
    blueprint: Blueprint, params: Any, frozen: Frozen, drawn: Drawn
) -> Float[Array, " batch"]:
    """Each example's training loss."""
    return frozen.objective.losses(asker(blueprint, params, frozen, drawn.dropout), drawn.draw)


def make_step(
    blueprint: Blueprint,
    optimizer: optax.GradientTransformation,
    *,
    prepare: Prepare,
    averages: Sequence[Average],
    accumulate: int = 1,
    gather: Callable[[Any], Any] = lambda params: params,
    scatter: Callable[[Any], Any] = lambda gradient: gradient,
) -> Step:
    """The function (state, frozen, batch) -> (state, metrics), to be jitted.

    A step whose loss or gradient is not finite changes nothing but the counts.

    Args:
      blueprint: The model that is trained.
      optimizer: Takes gradients to updates.
      prepare: Draws all that is random in a step, see the function of this name.
      averages: The parameters' moving averages.
      accumulate: In how many parts the gradient of a batch is computed, one after another.
      gather: Lays the parameters out for the network, where the state has them split.
      scatter: Lays the gradient out as the state has the parameters.

    Returns:
      A step over batches as `prepare` takes them, and "replaced": int32 (batch,) in them.
    """

    def gradient_of(params: Any, frozen: Frozen, drawn: Drawn) -> tuple[Array, Any]:
        def mean(params):
            each = losses(blueprint, params, frozen, drawn)
            return each.mean(), each

        (_, each), gradient = jax.value_and_grad(mean, has_aux=True)(params)
        return each, scatter(gradient)

    def zeros(params: Any) -> Any:
        return scatter(jax.tree.map(jnp.zeros_like, params))

    def step(state: State, frozen: Frozen, batch: dict[str, Array]) -> tuple[State, Metrics]:
        drawn = prepare(frozen, batch, state.step)
        params = gather(state.params)
        descend = functools.partial(gradient_of, params, frozen)
        if accumulate == 1:
            each, gradient = descend(drawn)
        else:
            each, gradient = _in_parts(descend, drawn, accumulate, zeros(params))
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
        bins = _bins(getattr(drawn.draw, "logsnr", None), each, blueprint.schedule)
        measured = Metrics(mean, norm, *bins, skipped, batch["replaced"].sum())
        return State(state.step + 1, skipped, *changed), measured

    return step


def _in_parts(
    descend: Callable[[Drawn], tuple[Array, Any]], drawn: Drawn, parts: int, zeros: Any
) -> tuple[Array, Any]:
    """Losses and mean gradient of a batch, computed in so many parts one after another.

    Part m has the examples m, m + parts, m + 2 parts, …: each device finds its share of every part
    within its share of the batch.
    """
    apart = jax.tree.map(
        lambda a: jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0), drawn.draw
    )

    def body(total, part):
        draw, number = part
        each, gradient = descend(Drawn(draw, jax.random.fold_in(drawn.dropout, number)))
        return jax.tree.map(lambda t, g: t + g / parts, total, gradient), each

    gradient, each = jax.lax.scan(body, zeros, (apart, jnp.arange(parts)))
    return jnp.moveaxis(each, 0, 1).reshape(-1), gradient


def _bins(logsnr: Array | None, losses: Array, schedule: Schedule) -> tuple[Array, Array]:
    """Sums and counts of the losses in equal parts of λ's range; zeros where nothing has a λ."""
    if logsnr is None:
        return jnp.zeros(BINS), jnp.zeros(BINS, jnp.int32)
    width = (schedule.logsnr_max - schedule.logsnr_min) / BINS
    place = jnp.clip((logsnr - schedule.logsnr_min) / width, 0, BINS - 1).astype(jnp.int32)
    return (
        jax.ops.segment_sum(losses, place, BINS),
        jax.ops.segment_sum(jnp.ones_like(place), place, BINS),
    )
