"""Kinds of a user's own, for tests of recipes: named by their import paths."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import optax
from flax import nnx

from cfg_jax.objectives import Uniform
from cfg_jax.parts import Conditioner
from cfg_jax.sampling.grids import Karras

UNIFORM, KARRAS = Uniform(), Karras()

CALLED = []
"""What ran that no recipe may run."""


class Net(nn.Module):
    """A network of a user's own.

    Attributes:
      width: How wide it is. More is slower.
      dtype: Of the activations,
        on two lines.
    """

    width: int
    sizes: tuple[int, ...] = (1, 2)
    dtype: Any = jnp.bfloat16
    act: Callable = nn.silu
    num_classes: int = 0

    def __call__(self, z, logsnr, cond):
        return z


class NNXNet(nnx.Module):
    """An NNX network.

    Args:
      width: How wide it is.
    """

    takes = ("label",)

    def __init__(self, width: int = 8, num_classes: int = 0, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(1, width, rngs=rngs)

    def __call__(self, z, logsnr, cond):
        return z


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words(Conditioner):
    """Words.

    Attributes:
      length: How many.
    """

    length: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")


@dataclasses.dataclass(frozen=True)
class Everything:
    """An objective with fields of all sorts."""

    rate: float
    count: int = 3
    is_on: bool = False
    title: str = "x"
    pair: tuple[int, str] = (1, "a")
    maybe: float | None = 0.5
    low: float | None = None
    anything: Any = None
    weight: Any = UNIFORM
    inner: Any = KARRAS
    share: float = 0.5
    hidden: int = dataclasses.field(default=0, metadata={"recipe": False})

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"count must not be negative, got {self.count}")
        if self.share > 1:
            raise TypeError("too large a share")

    def draw(self, key, x, cond, setting):
        return x

    def losses(self, ask, draw):
        return draw


def descend(learning_rate: float, momentum: float | None = None) -> optax.GradientTransformation:
    """Descends."""
    return optax.sgd(learning_rate, momentum=momentum)


def unsaid(learning_rate=1.0):
    CALLED.append("unsaid")
    return optax.sgd(learning_rate)


def liar() -> optax.GradientTransformation:
    return {}


def dictionary(a: int = 1) -> dict:
    CALLED.append("dictionary")
    return {"a": a}


class Thing(dict):
    def __init__(self):
        CALLED.append("Thing")


def favour(logsnr, power: float = 2.0):
    """A weighting.

    Args:
      logsnr: λ.
      power: Its power.
    """
    return jnp.exp(logsnr) ** power


NUMBER = 3
