"""How our networks are shown the entries of a condition, each by the kind of its inlet."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion.checks import told
from cfg_jax.nn import LogSNRFeatures
from cfg_jax.parts import Attended, Beside, Classes, Condition, Inlets, Sequence, Vector

OWN_NAMES = re.compile(
    r"(level|input|middle|output|(down|up)(sample)?\d).*|pool|positions|block\d+"
)
"""Names that the networks give to modules of their own."""


def checked(inlets: Any) -> Inlets:
    """The inlets as a tuple of (name, inlet) pairs; None is none of them.

    Raises:
      ValueError: They are not such pairs, two have one name, a name is a module's own, or a kind is
        not one that these networks know.
    """
    try:
        is_list = isinstance(inlets, (tuple, list)) or inlets is None
        pairs = tuple((name, inlet) for name, inlet in inlets or ()) if is_list else None
    except (TypeError, ValueError):
        pairs = None
    if pairs is None:
        raise ValueError(f"inlets must be (name, inlet) pairs, got {told(inlets)}")
    names = [name for name, _ in pairs]
    for name, inlet in pairs:
        if not isinstance(name, str) or not name.isidentifier() or OWN_NAMES.fullmatch(name):
            raise ValueError(f"inlets: an entry cannot be named {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"inlets: two entries are named {name!r}")
        if not isinstance(inlet, Classes | Vector | Beside | Sequence):
            raise ValueError(
                f"inlets: the entry {name!r} must be Classes, Vector, Beside or Sequence, "
                f"got {inlet!r}"
            )
    return pairs


def spec(inlets: Inlets, batch: int = 1) -> Condition:
    """Shapes and dtypes of the condition of a batch.

    >>> from cfg_jax.networks import inlets
    >>> from cfg_jax.parts import Vector
    >>> inlets.spec((("pose", Vector(3)),), batch=2)["pose"].shape
    (2, 3)
    """

    def batched(leaf):
        return jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype)

    return {name: jax.tree.map(batched, inlet.spec) for name, inlet in inlets}


def zeros(inlets: Inlets, batch: int = 1) -> Condition:
    """A condition of zeros, to initialise a network with."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), spec(inlets, batch))


def entries(who: str, inlets: Inlets, cond: Condition | None, batch: int) -> Condition:
    """The entries of a condition, checked; None is one without entries.

    Raises:
      ValueError: It is no dictionary; or an entry is missing, not wanted, or of another shape.
    """
    given = {} if cond is None else cond
    if not isinstance(given, Mapping):
        raise ValueError(f"{who} takes a dictionary of named entries as its condition")
    wanted = spec(inlets, batch)
    for name in [*wanted, *given]:
        if name not in given:
            raise ValueError(f"{who} needs {name!r} in its condition")
        if name not in wanted:
            raise ValueError(f"{who} takes no {name!r} in its condition")
        pairs = [sequence_of(entry) for entry in (wanted[name], given[name])]
        shapes = [jax.tree.map(jnp.shape, shown) for shown, _ in pairs]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name!r} must have shape {shapes[0]}, got {shapes[1]}")
        mask = pairs[1][1]
        if mask is not None and mask.shape != shapes[0][:2]:
            raise ValueError(f"{name!r} must have a mask of {shapes[0][:2]}, got {mask.shape}")
    return dict(given)


def dense_layers(
    name: str, features: Float[Array, "batch _"], width: int
) -> Float[Array, "batch {width}"]:
    """Two dense layers of an embedding's width, called `name`_0 and `name`_1."""
    h = nn.silu(nn.Dense(width, name=f"{name}_0")(features))
    return nn.Dense(width, name=f"{name}_1")(h)


def embedded(
    name: str,
    inlet: Any,
    entry: Any,
    width: int,
    channels: int,
    *,
    marked: bool = True,
    deviation: float = 1.0,
    pooled: bool = False,
) -> Float[Array, "batch _"] | float:
    """What an entry adds to the embedding of the noise level; 0 if nothing.

    Args:
      name: The entry's name.
      inlet: Its kind.
      entry: The entry.
      width: The embedding's width.
      channels: How many features of a noise level there are.
      marked: Whether a vector's dense layers are told that any of it is not 0.
      deviation: Of a class's first vector.
      pooled: Whether a sequence adds its mean, after two dense layers.
    """
    match inlet:
        case Classes():
            init = nn.initializers.normal(deviation)
            return nn.Embed(inlet.count, width, embedding_init=init, name=name)(entry)
        case Vector():
            given = jnp.any(entry != 0, axis=-1, keepdims=True)
            seen = jnp.concatenate([entry, given], axis=-1) if marked else entry
            return dense_layers(name, seen, width)
        case Beside(noised=True):
            return dense_layers(f"{name}_level", LogSNRFeatures()(entry.logsnr, channels), width)
        case Sequence() if pooled:
            return dense_layers(f"{name}_pooled", mean_of(entry), width)
    return 0.0


def beside(
    inlets: Inlets, cond: Condition, z: Float[Array, "batch *sides _"]
) -> Float[Array, "batch *sides _"]:
    """Z and what is laid beside it, each resized to z's sides by linear interpolation."""
    laid = [z]
    for name, inlet in inlets:
        if isinstance(inlet, Beside):
            x = cond[name].z if inlet.noised else cond[name]
            laid.append(jax.image.resize(x, (*z.shape[:-1], x.shape[-1]), "linear"))
    return jnp.concatenate(laid, axis=-1)


def sequences(inlets: Inlets, cond: Condition) -> dict[str, Any]:
    """The entries to attend to, by name, see `sequence_of`."""
    return {name: cond[name] for name, inlet in inlets if isinstance(inlet, Sequence)}


def mean_of(entry: Any) -> Float[Array, "batch width"]:
    """The mean of those vectors of a sequence that count, 0 of none; see `sequence_of`.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.networks import inlets
    >>> from cfg_jax.parts import Attended
    >>> vectors = jnp.array([[[1.0], [3.0], [100.0]]])
    >>> inlets.mean_of(Attended(vectors, jnp.array([[True, True, False]]))).tolist()
    [[2.0]]
    """
    vectors, mask = sequence_of(entry)
    if mask is None:
        return vectors.mean(axis=1)
    return jnp.einsum("bl,blc->bc", mask / jnp.maximum(mask.sum(1, keepdims=True), 1), vectors)


def sequence_of(entry: Any) -> Attended:
    """A sequence's vectors, (batch, length, width), and which of them count, (batch, length).

    Args:
      entry: The vectors, which all count: the second result is then None. Or an `Attended`.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.networks import inlets
    >>> vectors, mask = inlets.sequence_of(jnp.ones((2, 3, 4)))
    >>> vectors.shape, mask
    ((2, 3, 4), None)
    """
    return entry if isinstance(entry, Attended) else Attended(entry, None)
