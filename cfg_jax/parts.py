"""The four types that make a model: what general rooms know of networks, conditions and codecs.

A `Network` predicts from z, λ and a condition; a `Conditioner` makes one named entry of a
condition; a `Codec` goes between data and z; an `Objective` is what training descends on. Each is a
frozen dataclass or a Flax module, static and hashable: its parameters, where it has any, travel
apart from it, in the model.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks

Condition = dict[str, Any]
"""Entries by name, each a pytree of (batch, ...) arrays."""

Spec = Any
"""A pytree of `jax.ShapeDtypeStruct` without the batch axis."""


class Prediction(NamedTuple):
    """What a network says that also learned the reverse variance, each of z's shape.

    Attributes:
      value: The prediction: ε̂, x̂, v̂, …, as the objective's target is.
      v: The v of the reverse variance (σ̃²)^(1-v) (σ²)^v, mostly within [0, 1].
    """

    value: Float[Array, "batch ..."]
    v: Float[Array, "batch ..."]


@runtime_checkable
class Network(Protocol):
    """A Flax Linen module that predicts from z, λ and a condition.

    Its `takes` are the names of the entries that it wants in the condition. One that can predict a
    single thing says `predicts`, a name of `prediction.KINDS`; any other learns whatever the
    objective's target is. A network with a field `inlets` is told, when a recipe makes it, how each
    entry is shown, see `Inlet`.
    """

    def __call__(
        self, z: Float[Array, "batch ..."], logsnr: Float[Array, " batch"], cond: Condition
    ) -> Float[Array, "batch ..."] | Prediction:
        """The prediction, of z's shape; `train` is passed by keyword if the signature has it."""


@dataclasses.dataclass(frozen=True)
class Classes:
    """One of `count` classes: int32 (batch,) in [0, count), the null among them if there is one."""

    count: int

    @property
    def spec(self) -> Spec:
        """One example's shapes and dtypes."""
        return jax.ShapeDtypeStruct((), jnp.int32)


@dataclasses.dataclass(frozen=True)
class Vector:
    """A vector: float32 (batch, length), all zeros for none."""

    length: int

    @property
    def spec(self) -> Spec:
        """One example's shapes and dtypes."""
        return jax.ShapeDtypeStruct((self.length,), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Beside:
    """An array of z's dimension, resized to z and laid beside it along the channels.

    Attributes:
      shape: One example's shape.
      noised: Whether it comes as a `condition.Noisy`, and the network is told its noise level.
    """

    shape: tuple[int, ...]
    noised: bool = False

    @property
    def spec(self) -> Spec:
        """One example's shapes and dtypes."""
        from cfg_jax.diffusion.condition import Noisy

        array = jax.ShapeDtypeStruct(self.shape, jnp.float32)
        return Noisy(array, jax.ShapeDtypeStruct((), jnp.float32)) if self.noised else array


class Attended(NamedTuple):
    """A sequence to attend to, and which of its places there are.

    Attributes:
      vectors: float32 (batch, length, width).
      mask: bool (batch, length): the places that are attended to, one at least.
    """

    vectors: Any
    mask: Any


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A sequence of vectors to attend to: float32 (batch, length, width).

    Attributes:
      length: Places.
      width: Length of each vector.
      masked: Whether it comes as an `Attended`, which says what is padding.
    """

    length: int
    width: int
    masked: bool = False

    @property
    def spec(self) -> Spec:
        """One example's shapes and dtypes."""
        vectors = jax.ShapeDtypeStruct((self.length, self.width), jnp.float32)
        mask = jax.ShapeDtypeStruct((self.length,), jnp.bool_)
        return Attended(vectors, mask) if self.masked else vectors


Inlet = Classes | Vector | Beside | Sequence
"""How a network is shown an entry; anything else with a `spec` is for a network of one's own."""

Inlets = tuple[tuple[str, Any], ...]
"""The inlets by their entries' names."""


class Facts(NamedTuple):
    """What is known of the data when a model is put together.

    Attributes:
      shape: One example's shape, such as (height, width, channels), channels last.
      class_names: The names of the classes, in the order of their labels; empty without labels.
      arrays: Shape and dtype of each further array that an example has, by name.
      texts: The names of the texts that an example has.
      rate: Samples of a sound or frames of a video a second; 0 where that is unknown.
      dtype: Of the examples as the data hold them: uint8 for pictures, int16 for sounds.
    """

    shape: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    arrays: Mapping[str, jax.ShapeDtypeStruct] = {}
    texts: tuple[str, ...] = ()
    rate: int = 0
    dtype: str = "uint8"


BOUND = {"recipe": False}
"""Metadata of a kind's field that `bind` fills in, and no recipe says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioner:
    """One named entry of a condition; a base for conditioners, which say what is particular.

    Attributes:
      p_uncond: The probability that training hides the entry, in [0, 1].
      guided: Whether guidance compares with a network that is not shown this entry. Entries that
        guidance hides together, training hides together too.
    """

    p_uncond: float = 0.0
    guided: bool = True

    def __post_init__(self):
        checks.number("p_uncond", self.p_uncond, 0.0, 1.0)
        checks.truth("guided", self.guided)

    def bind(self, name: str, facts: Facts) -> "Conditioner":
        """The conditioner with what it left open filled in from the data.

        Raises:
          ValueError: The data cannot make this entry.
        """
        return self

    @property
    def inlet(self) -> Any:
        """How the network is shown the entry."""
        raise NotImplementedError

    @property
    def null(self) -> Any:
        """What stands for none: the entry without its batch axis; None where there is none."""
        raise NotImplementedError

    @property
    def encoder(self) -> Any:
        """A Flax module whose variables `encoded` gets as "encoder"; or None."""
        return None

    def begun(self, key: jax.Array) -> Any:
        """The encoder's variables before training; None where it is not trained along."""
        return None

    def frozen(self) -> Mapping[str, Any]:
        """What it needs beside the data and never changes, read once when training starts."""
        return {}

    def learned(self, texts: Iterable[str]) -> Mapping[str, Any]:
        """What it learns from all texts of its name in the data, kept as `frozen`."""
        return {}

    def encoded(self, params: Mapping[str, Any], entry: Any) -> Any:
        """What the encoder makes of an entry or of nulls, outside the loop over λ."""
        return entry

    def read(self, params: Any, batch: Mapping[str, Array], x: Array) -> Any:
        """The entry of a batch of training, traced.

        Args:
          params: What `frozen` returned.
          batch: Arrays of (batch, ...) by their names in the data.
          x: The data of the batch, as the codec's `encode` takes it.
        """
        raise NotImplementedError

    def shown(self, keys: jax.Array, entry: Any, schedule: Any) -> Any:
        """What the network is shown of an entry in training: the entry, unless that is random.

        Args:
          keys: One an example.
          entry: From `read`.
          schedule: p(λ).
        """
        return entry

    def given(self, value: Any, params: Any = None) -> Any:
        """The entry of what a person gives, checked where it is not traced.

        Raises:
          ValueError: It is no such entry.
        """
        raise NotImplementedError

    def sampled(self, keys: jax.Array, entry: Any, schedule: Any) -> Any:
        """What the network is shown of an entry of `given` in sampling."""
        return entry

    flag = ""
    """Its flag's name; the entry's own when ""."""

    negative_flag = ""
    """The flag that says what guidance puts in the null's place; none when ""."""

    flag_suffix = ""
    """What the entry's name gets behind it in the name of its flag."""

    help = ""
    """One line on the flag's value."""

    def parse(self, text: str) -> Any:
        """What a flag's text gives: as `given` takes it, one value an image."""
        raise ValueError(f"{type(self).__name__} takes nothing from the command line")

    def every(self) -> Any:
        """The values that are sampled where none is named; None where only examples lend them."""
        return None

    def found(self, arrays: Mapping[str, Any]) -> Any:
        """The values that a file of samples holds, as `given` takes them; None if it has none."""
        return None

    def classes(self, value: Any) -> Any:
        """The data's label that each value asks for, int32 (batch,); None if it asks for none."""
        return None

    def titles(self, value: Any) -> list[str]:
        """What each value is called beside a picture."""
        return [str(entry) for entry in value]

    def lend(self, examples: Any, x: Any) -> Any:
        """The values that examples, dictionaries with main arrays x as floats, lend to `given`."""
        raise NotImplementedError

    def drawn(self, value: Any, x: Any) -> Any:
        """What a page shows of the entry beside samples like x, of x's shape; None for nothing."""
        return None


@runtime_checkable
class Codec(Protocol):
    """Between data and z. Its `bound` is what clipping keeps |x̂| within; None keeps it nowhere.

    A codec with parameters is a Flax module, its `encode` and `decode` methods of it, and returns
    them from `frozen()`. One without is a frozen dataclass.
    """

    bound: float | None

    def encode(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """Data in [-1, 1] to z."""

    def decode(self, z: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """Z to data in [-1, 1]."""


def through(codec: Any, way: str, params: Any, *args: Any) -> Float[Array, "..."]:
    """A codec's `encode`, `decode` or other way, with its parameters where it has any."""
    method = getattr(codec, way)
    return codec.apply(params, *args, method=method) if params else method(*args)


translate = jax.jit(through, static_argnums=(0, 1))
"""`through`, compiled."""

Ask = Callable[[Array, ArrayLike, Any], Any]
"""(z, logsnr, cond) -> prediction, the network in training, see `training.step`."""


class Setting(NamedTuple):
    """What an objective may draw from.

    Attributes:
      schedule: p(λ).
      null: The condition's null.
      p_uncond: How often each entry is hidden.
      together: Whether an entry is hidden with the others that guidance hides.
      step: The number of steps made before.
    """

    schedule: Any
    null: Condition
    p_uncond: Mapping[str, float]
    together: Mapping[str, bool]
    step: Any = 0


@runtime_checkable
class Objective(Protocol):
    """What training descends on: a frozen dataclass pytree, a teacher one of its leaves."""

    def draw(self, key: jax.Array, x: Array, cond: Condition, setting: Setting) -> Any:
        """Draws what is random: a pytree of (batch, ...) arrays, example i's from (key, i)."""

    def losses(self, ask: Ask, draw: Any) -> Any:
        """Each example's loss, (batch,); or `objectives.Losses`, which measure more."""
