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
from cfg_jax.parts import Beside, Classes, Condition, Inlets, Sequence, Vector

OWN_NAMES = re.compile(r"(level|input|middle|output|pool|(down|up)(sample)?\d).*")
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
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (wanted[name], given[name])]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name!r} must have shape {shapes[0]}, got {shapes[1]}")
    return dict(given)


def dense_layers(
    name: str, features: Float[Array, "batch _"], width: int
) -> Float[Array, "batch {width}"]:
    """Two dense layers of an embedding's width, called `name`_0 and `name`_1."""
    h = nn.silu(nn.Dense(width, name=f"{name}_0")(features))
    return nn.Dense(width, name=f"{name}_1")(h)


def embedded(name: str, inlet: Any, entry: Any, channels: int) -> Float[Array, "batch _"] | float:
    """What an entry adds to the embedding of the noise level, of 4 · channels; 0 if nothing."""
    width = 4 * channels
    match inlet:
        case Classes():
            init = nn.initializers.normal(1.0)
            return nn.Embed(inlet.count, width, embedding_init=init, name=name)(entry)
        case Vector():
            given = jnp.any(entry != 0, axis=-1, keepdims=True)
            return dense_layers(name, jnp.concatenate([entry, given], axis=-1), width)
        case Beside(noised=True):
            return dense_layers(f"{name}_level", LogSNRFeatures()(entry.logsnr, channels), width)
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


def sequences(inlets: Inlets, cond: Condition) -> dict[str, Float[Array, "batch length _"]]:
    """The sequences to attend to, by name."""
    return {name: cond[name] for name, inlet in inlets if isinstance(inlet, Sequence)}
