"""Adam behind a clip of the gradient's norm, with warm-up and decay of the learning rate."""

import optax

from cfg_jax.diffusion import checks

DECAYS = ("constant", "cosine")

_LAST = 2**31 - 1

_LEAST, _GREATEST = 1e-30, 1e30
"""Well within float32."""
"""The last step that optax counts."""


def adam(
    learning_rate: float = 1e-4,
    warmup: int = 0,
    decay: str = "constant",
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    train_steps: int | None = None,
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015), or AdamW where weights decay (Loshchilov & Hutter 2019).

    Args:
      learning_rate: The greatest, after warm-up; positive.
      warmup: Steps of linear warm-up, not negative.
      decay: "constant", or "cosine" to zero at train_steps.
      b1: Decay of the first moment, in [0, 1).
      b2: Decay of the second moment, in [0, 1).
      eps: Added to the root of the second moment; positive.
      weight_decay: Decoupled, of all parameters, not negative; 0 is Adam.
      clip_norm: The gradient's global norm at most, positive; None clips nothing.
      train_steps: Where the decay ends; the recipe's number of steps when None.

    Returns:
      The transformation.

    Raises:
      ValueError: A value is out of range, or nothing says where the decay ends.
    """
    _check(learning_rate, warmup, decay, b1, b2, eps, weight_decay, clip_norm, train_steps)
    if decay == "cosine" and train_steps is None:
        raise ValueError("decay=cosine needs train_steps")
    after = max((train_steps or 0) - warmup, 1)
    rates = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, after),
    }
    rate = rates[decay]()
    if warmup:
        rising = optax.linear_schedule(0.0, learning_rate, warmup)
        rate = optax.join_schedules([rising, rate], [warmup])
    if weight_decay:
        descend = optax.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    else:
        descend = optax.adam(rate, b1=b1, b2=b2, eps=eps)
    return (
        descend if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), descend)
    )


def _check(learning_rate, warmup, decay, b1, b2, eps, weight_decay, clip_norm, train_steps) -> None:
    positive = {"learning_rate": learning_rate, "eps": eps}
    if clip_norm is not None:
        positive["clip_norm"] = clip_norm
    for name, value in positive.items():
        checks.number(name, value, _LEAST, _GREATEST)
    for name, value in {"b1": b1, "b2": b2}.items():
        checks.number(name, value, 0.0, 1.0, "[)")
    checks.number("weight_decay", weight_decay, 0.0, _GREATEST)
    checks.whole("warmup", warmup, 0, _LAST)
    if train_steps is not None:
        checks.whole("train_steps", train_steps, 1, _LAST)
    if decay not in DECAYS:
        raise ValueError(f"decay must be one of {', '.join(DECAYS)}; got {decay!r}")
