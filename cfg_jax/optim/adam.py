"""Adam behind a clip of the gradient's norm, with warm-up and decay of the learning rate."""

import math

import optax

DECAYS = ("constant", "cosine")


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
    _check(learning_rate, warmup, decay, b1, b2, eps, weight_decay, clip_norm)
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


def _check(learning_rate, warmup, decay, b1, b2, eps, weight_decay, clip_norm) -> None:
    positive = {"learning_rate": learning_rate, "eps": eps, "clip_norm": clip_norm}
    for name, value in positive.items():
        if value is not None and not 0.0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, got {value}")
    for name, value in {"b1": b1, "b2": b2}.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} must lie in [0, 1), got {value}")
    for name, value in {"warmup": warmup, "weight_decay": weight_decay}.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")
    if decay not in DECAYS:
        raise ValueError(f"decay must be one of {', '.join(DECAYS)}; got {decay!r}")
