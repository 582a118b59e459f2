"""Conditions: pytrees whose leaves have a leading batch axis, and what stands for "none".

A network that is trained both with and without its condition sees a *null* in place of the
condition it is denied: a pytree like the condition's, each leaf without the batch axis. For class
labels that is one integer, the number of classes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

Condition = Any
"""A pytree of arrays of (batch, ...), or None for a network that takes no condition."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerExample:
    """Marks values, a pytree of (batch, ...) arrays, that belong to the examples of a batch.

    Whatever splits a batch over devices splits these with it; all other leaves of a denoiser go to
    every device whole.
    """

    values: Any


def broadcast(null: Any, cond: Condition) -> Condition:
    """Gives every example of the batch the same null.

    Args:
      null: A pytree of cond's structure, leaves without the batch axis; or, marked `PerExample`,
        with it.
      cond: The condition whose shapes and dtypes the result takes.

    Returns:
      A pytree of cond's shapes and dtypes.

    Raises:
      ValueError: The structures differ, or a leaf's shape does not fit.
    """
    if isinstance(null, PerExample):
        null = null.values
    wanted: Any = jax.tree.structure(cond)
    given: Any = jax.tree.structure(null)
    if wanted != given:
        raise ValueError(
            f"null must have the structure of the condition, {wanted}, but it has {given}"
        )
    return jax.tree.map(_broadcast_leaf, null, cond)


def _broadcast_leaf(null, cond):
    null = jnp.asarray(null, cond.dtype)
    if null.shape not in (cond.shape, cond.shape[1:]):
        raise ValueError(
            f"a null for a condition of shape {cond.shape} must have shape {cond.shape[1:]}, "
            f"or {cond.shape} when it differs between examples; got {null.shape}"
        )
    return jnp.broadcast_to(null, cond.shape)


def where(mask: Bool[Array, " batch"], true: Condition, false: Condition) -> Condition:
    """Takes each example's condition from `true` where the mask holds, else from `false`."""
    return jax.tree.map(
        lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), true, false
    )


def batch_size(cond: Condition) -> int | None:
    """The length of the leading axis of a condition's leaves; None for a condition of no leaves.

    Raises:
      ValueError: A leaf has no leading axis, or two leaves disagree.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(cond)]
    if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"every leaf of a condition needs the same leading batch axis; got shapes {shapes}"
        )
    return shapes[0][0] if shapes else None
