"""What our networks share: the noise level, the entries of a condition, and what is recomputed."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.networks import inlets
from cfg_jax.nn import Dtype, LevelFeatures, LogSNRFeatures, dtype_name, space_axes
from cfg_jax.nn.fields import flag, one_of
from cfg_jax.parts import Beside, Classes, Condition, Inlets, Prediction

MOST_CHANNELS = 65_536
"""XLA ends the process where it is given a billion."""

MOST_BLOCKS = 128
"""More take too long to compile."""

SIDES = {1: "the length", 2: "height and width", 3: "height and width"}
"""What is halved or cut into patches, by the number of sides."""


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("conv_general_dilated", "dot_general")


REMAT: dict[str, Callable[[Any], Any]] = {
    "none": lambda kind: kind,
    "products": functools.partial(nn.remat, policy=_is_product),
    "blocks": nn.remat,
}
"""Transformations of a block's class by what the backward pass recomputes of it."""


class Base(nn.Module):
    """A network over arrays of one to three sides, at a noise level λ.

    z is (batch, length, channels), (batch, height, width, channels) or (batch, frames, height,
    width, channels). Everything in a network has a name of its own, so that parameters are the same
    with and without remat.

    Attributes:
      level_features: `(logsnr, channels) -> features`, what the network is told of the noise level.
      dropout: The rate inside blocks, in [0, 1).
      dtype: Of the activations: "float32", "bfloat16" or "float16"; parameters and the result are
        float32.
      remat: What the backward pass recomputes instead of keeping: "none"; all of a block but its
        convolutions and matrix products, "products"; all of it, "blocks".

    Raises:
      ValueError: A field is out of its range.
    """

    level_features: LevelFeatures = LogSNRFeatures()
    dropout: float = 0.0
    dtype: Dtype = "float32"
    remat: str = "none"

    def __post_init__(self):
        self.dtype = dtype_name(self.dtype)
        one_of("remat", self.remat, REMAT)
        if not callable(self.level_features):
            raise ValueError(
                "level_features must be (logsnr, channels) -> features, such as LogSNRFeatures(), "
                f"got {self.level_features!r}"
            )
        if not isinstance(self.dropout, int | float) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")
        super().__post_init__()

    @property
    def shown(self) -> Inlets:
        """The inlets of the entries that the network is shown."""
        return ()

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of the entries that the network takes in its condition."""
        return tuple(name for name, _ in self.shown)

    @property
    def who(self) -> str:
        """What messages call it."""
        return f"the {type(self).__name__}"

    @nn.nowrap
    def inputs(self, shape: tuple[int, ...]) -> tuple[Any, Any, Condition]:
        """z, λ and condition of one example of (*sides, channels), in shapes and dtypes."""
        z = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        return z, jax.ShapeDtypeStruct((1,), jnp.float32), inlets.spec(self.shown)

    @nn.nowrap
    def shapes(self, shape: tuple[int, ...]) -> Any:
        """The shapes of its variables, for examples of (*sides, channels).

        Raises:
          ValueError: It cannot take that size.
        """
        return jax.eval_shape(self.init, jax.random.key(0), *self.inputs(shape))

    @nn.nowrap
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where the network cannot take examples of (*sides, channels)."""
        if len(shape) - 1 not in SIDES:
            raise ValueError(
                f"{self.who} takes (length, channels), (height, width, channels) or "
                f"(frames, height, width, channels); got {shape}"
            )

    @nn.nowrap
    def check_multiples(self, shape: tuple[int, ...], factor: int, does: str) -> None:
        """Raises ValueError unless the sides of space are multiples of a factor.

        Args:
          shape: (*sides, channels), of one to three sides.
          factor: What must divide the sides.
          does: What the network does with them, such as "halves {} twice".
        """
        sides = [shape[axis - 1] for axis in space_axes(len(shape) + 1)]
        if any(side % factor or not side for side in sides):
            raise ValueError(
                f"{self.who} {does.format(SIDES[len(shape) - 1])}: it needs multiples of {factor}; "
                f"got {'×'.join(map(str, sides))}"
            )

    @nn.nowrap
    def embedded_level(
        self, logsnr: Any, batch: int, channels: int, width: int
    ) -> Float[Array, "batch _"]:
        """The embedding of the noise level, of so many features; float32, not activated yet."""
        levels = jnp.broadcast_to(jnp.asarray(logsnr), (batch,))
        return inlets.dense_layers("level", self.level_features(levels, channels), width)


class Predictor(Base):
    """A network that predicts something of z's shape, shown the entries that `inlets` name.

    Attributes:
      inlets: (name, inlet) pairs; None for no entries.
      learned_variance: Whether the network also says where between its bounds the reverse variance
        lies (Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", Equation
        15), and returns a `parts.Prediction`.

    The other attributes are those of `Base`.
    """

    inlets: Inlets | None = None
    learned_variance: bool = False

    def __post_init__(self):
        flag("learned_variance", self.learned_variance)
        self.inlets = None if self.inlets is None else inlets.checked(self.inlets)
        for name, inlet in self.shown:
            if isinstance(inlet, Classes) and hasattr(type(self), name):
                raise ValueError(f"inlets: classes cannot be named {name!r}, which is a field")
        super().__post_init__()

    @property
    def shown(self) -> Inlets:
        """The inlets of the entries that the network is shown."""
        return self.inlets or ()

    @nn.nowrap
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where the network cannot take examples of (*sides, channels)."""
        super().check(shape)
        for name, inlet in self.shown:
            if isinstance(inlet, Beside) and len(inlet.shape) != len(shape):
                raise ValueError(
                    f"{name!r} has shape {inlet.shape}, which cannot be laid beside {shape}"
                )

    @nn.nowrap
    def outputs(self, channels: int) -> int:
        """How many channels it ends with, for z of so many."""
        return channels * (2 if self.learned_variance else 1)

    @nn.nowrap
    def predicted(
        self, h: Float[Array, "batch *sides _"]
    ) -> Float[Array, "batch *sides _"] | Prediction:
        """What the network returns, given its last activations, of `outputs` channels."""
        h = h.astype(jnp.float32)
        if not self.learned_variance:
            return h
        value, v = jnp.split(h, 2, axis=-1)
        return Prediction(value, 0.5 * (v + 1.0))
