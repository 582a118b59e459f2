"""Conditions: pytrees whose leaves have a leading batch axis, and what stands for "none".

A network that is trained both with and without its condition sees a *null* in place of the
condition it is denied: a pytree like the condition's, each leaf without the batch axis. For class
labels that is one integer, the number of classes. Where a condition has several parts, a null may
hide some of them and leave the others, marked `KEPT`, as they are.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from cfg_jax.diffusion import checks, noise, process
from cfg_jax.diffusion.logsnr import floating

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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept:
    """Marks the part of a condition that a null does not hide; see `KEPT`."""


KEPT = Kept()
"""In a null, in the place of a part of the condition: that part stays as it is.

>>> import jax.numpy as jnp
>>> from cfg_jax.diffusion import condition
>>> cond = {"label": jnp.array([3, 5]), "vector": jnp.ones((2, 1))}
>>> null = {"label": 10, "vector": condition.KEPT}
>>> {name: part.tolist() for name, part in condition.broadcast(null, cond).items()}
{'label': [10, 10], 'vector': [[1.0], [1.0]]}
"""


class Noisy(NamedTuple):
    """Images and how noisy they are, a condition that a network sees beside its own z.

    Attributes:
      z: Images of (batch, height, width, channels), noised to λ.
      logsnr: λ, (batch,).
    """

    z: Any
    logsnr: Any


def augmented(
    key: jax.Array,
    x: Float[Array, "batch ..."],
    *,
    logsnr: ArrayLike,
    index: Int[Array, " batch"],
) -> Noisy:
    """Noise-conditioning augmentation: images noised to λ, that a network is told of.

    z = α_λ x + σ_λ ε. A network trained so bears the flaws of images that another network drew
    (Ho et al. 2022, "Cascaded Diffusion Models", Section 4.2; Saharia et al. 2022,
    "Photorealistic Text-to-Image Diffusion Models", Section 2.3).

    Args:
      key: A JAX random key.
      x: Images of (batch, ...).
      logsnr: λ, a scalar or (batch,).
      index: The numbers of the examples: example i's noise depends on key and number alone.

    Returns:
      The noised images and their λ.
    """
    return noised(noise.examples(key, index, noise.Stream.AUGMENTATION), x, logsnr=logsnr)


def noised(keys: jax.Array, x: Float[Array, "batch ..."], *, logsnr: ArrayLike) -> Noisy:
    """Images noised to λ, each by noise of its own key, and their λ.

    Args:
      keys: One an image.
      x: Images of (batch, ...).
      logsnr: λ, a scalar or (batch,).
    """
    eps = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)
    logsnr = jnp.broadcast_to(floating(logsnr), x.shape[:1])
    return Noisy(process.forward(x, eps, logsnr=logsnr), logsnr)


def broadcast(null: Any, cond: Condition) -> Condition:
    """Gives every example of the batch the same null.

    Args:
      null: A pytree of cond's structure, leaves without the batch axis, or one number for all
        entries; or, marked `PerExample`, with it. Parts marked `KEPT` are cond's own.
      cond: The condition whose shapes and dtypes the result takes.

    Returns:
      A pytree of cond's shapes and dtypes.

    Raises:
      ValueError: The structures differ, or a leaf's shape does not fit, or its numbers do not fit
        the condition's dtype.
    """
    if isinstance(null, PerExample):
        null = null.values

    try:
        filled = jax.tree.map(
            lambda part, own: own if isinstance(part, Kept) else part,
            null,
            cond,
            is_leaf=lambda node: isinstance(node, Kept),
        )
    except (ValueError, TypeError):  # it is no prefix of the condition's structure
        filled = null
    wanted: Any = jax.tree.structure(cond)
    given: Any = jax.tree.structure(filled)
    if wanted != given:
        raise ValueError(
            f"null must have the structure of the condition, {wanted}, but it has {given}"
        )
    return jax.tree.map(_broadcast_leaf, filled, cond)


def _broadcast_leaf(given, cond):
    try:
        null = jnp.asarray(given, cond.dtype)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"null must be of {cond.dtype}, got {checks.told(given)}") from None
    if jnp.issubdtype(cond.dtype, jnp.integer) and not isinstance(given, jax.core.Tracer):
        entries = np.asarray(given)
        with np.errstate(invalid="ignore"):
            held = entries.astype(cond.dtype) == entries
        if not np.all(held):
            raise ValueError(f"null must be of {cond.dtype}, got {checks.told(given)}")
    if null.shape not in ((), cond.shape, cond.shape[1:]):
        raise ValueError(
            f"a null for a condition of shape {cond.shape} must be a number or have shape "
            f"{cond.shape[1:]}, or {cond.shape} when it differs between examples; got {null.shape}"
        )
    return jnp.broadcast_to(null, cond.shape)


def where(mask: Bool[Array, " batch"], true: Condition, false: Condition) -> Condition:
    """Takes each example's condition from `true` where the mask holds, else from `false`."""
    return jax.tree.map(
        lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), true, false
    )


def one(entry: Any) -> Condition:
    """What has no batch axis, such as a null, as a batch of one."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], entry)


def arrays(what: str, cond: Any) -> Condition:
    """A condition, its leaves arrays.

    Raises:
      TypeError: A leaf is no array of numbers.
    """
    try:
        return jax.tree.map(jnp.asarray, cond)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{what} must be a pytree of (batch, ...) arrays, got {checks.told(cond)}"
        ) from error


def check_count(cond: Condition, x: Array) -> None:
    """Raises ValueError where a condition has not one entry for each example of x."""
    count = batch_size(cond)
    if count not in (None, len(x)):
        raise ValueError(f"cond has {count} examples, and x has {len(x)}")


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
