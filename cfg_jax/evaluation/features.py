"""Features of many images by any function, batch by batch and over all local devices."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import ArrayLike
from tqdm import tqdm

Extractor = Callable[[np.ndarray], Any]
"""Images of (n, height, width, channels), uint8 -> arrays of (n, …), one or a pytree of them."""


def extract(
    function: Extractor,
    batches: Iterable[np.ndarray],
    *,
    count: int,
    progress: bool = True,
    name: str = "features",
) -> Any:
    """Applies a function to batches of images; what it returns is all that is kept in memory.

    Args:
      function: Any function of a batch, such as DINOv2 or another network of yours; it need not be
        JAX's. Every call gets batches of one size: the last is filled up, and its rest cut off.
      batches: Of one size but for the last.
      count: The images in all of them, for the progress bar.
      progress: Whether to show one.
      name: Its title.

    Returns:
      What the function returns, as NumPy arrays with one row an image, in order.

    Raises:
      ValueError: There are no images, or a row is missing.
    """
    parts, size = [], 0
    with tqdm(total=count, desc=name, unit="image", disable=not progress) as bar:
        for batch in batches:
            size = size or len(batch)
            full = np.resize(batch, (size, *batch.shape[1:]))
            parts.append(_rows(function(full), size, len(batch)))
            bar.update(len(batch))
    if not parts:
        raise ValueError("there are no images to take features of")
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def over_devices(apply: Callable[[Any, Any], Any], params: Any) -> Extractor:
    """A JAX function of parameters and images as an extractor: each local device takes a share.

    Args:
      apply: `(params, images) -> arrays`, traced once for each size of batch.
      params: Its parameters, put on every device once.
    """
    whole, share = local_shardings()
    placed = jax.device_put(params, whole)
    compiled = jax.jit(apply, in_shardings=(whole, share), out_shardings=share)

    def function(images: np.ndarray) -> Any:
        rows = shared_rows(len(images))
        full = np.resize(images, (rows, *images.shape[1:]))
        return _rows(compiled(placed, full), rows, len(images))

    return function


def local_shardings(count: int | None = None) -> tuple[NamedSharding, NamedSharding]:
    """How arrays lie on this process' devices: whole on each, and a share of the rows on each.

    Args:
      count: How many of the devices; all when None.
    """
    devices = jax.local_devices()[:count]
    mesh = jax.make_mesh((len(devices),), ("images",), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("images"))


def devices_for(rows: int) -> int:
    """How many local devices there are that can have the same share of so many rows, at most."""
    return next(count for count in range(jax.local_device_count(), 0, -1) if rows % count == 0)


def checked(x: ArrayLike, shape: tuple[int, ...], noun: str) -> np.ndarray:
    """Examples that a scorer of those of one shape can look at.

    Raises:
      ValueError: There are none, they have another shape, or hold NaN or infinities.
    """
    given = np.asarray(x)
    if given.shape[1:] != shape or not len(given):
        sides = ", ".join(map(str, shape))
        raise ValueError(f"{noun}s must have shape (n, {sides}), got {given.shape}")
    if given.dtype.kind == "f" and not np.all(np.isfinite(given)):
        raise ValueError(f"the {noun}s hold NaN or infinities")
    return given


def shared_rows(rows: int) -> int:
    """So many rows or a few more, of which each local device can have the same share."""
    devices = jax.local_device_count()
    return -(-rows // devices) * devices


def _rows(outputs: Any, expected: int, wanted: int) -> Any:
    """The first rows of every array, which must all be there."""

    def cut(array: Any) -> np.ndarray:
        values = np.asarray(array)
        if values.ndim < 1 or len(values) != expected:
            raise ValueError(
                f"features must have one row an image: {expected} images gave {values.shape}"
            )
        return values[:wanted]

    return jax.tree.map(cut, outputs)
