"""Sets of images that lie in no file of their own: what a model makes, and what it learned from."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cfg_jax.data import Dataset
from cfg_jax.data.samples import to_uint8
from cfg_jax.evaluation.archive import Archive, Batches
from cfg_jax.evaluation.of_model import asked, taken
from cfg_jax.loading import describe
from cfg_jax.model import Model
from cfg_jax.recipe import make
from cfg_jax.runtime import bulk, manifest
from cfg_jax.runtime.mesh import fitting


def images_of(
    path: Path, model: Model, count: int, *, w: float | None = None, seed: int = 0
) -> Archive:
    """Samples of a model, drawn when they are asked for, of all its classes in turn.

    Args:
      path: Where the model lies.
      model: The model.
      count: The number of samples.
      w: The guidance strength; the model's own when None.
      seed: Random seed of the noise.

    Raises:
      ValueError: It makes no images, w does not fit it, or nothing says what condition to show it.
    """
    if model.kind is None:
        raise ValueError(f"{path} holds a {model.role}, not a diffusion model")
    _check(path, model.facts.shape)
    model.guided(w)  # a mistake shows before anything is drawn
    entries = _entries(path, model, count)
    shape = (count, *model.facts.shape)
    read = functools.partial(_drawn, model, entries, count, w, seed)
    digest = hashlib.sha256(repr((manifest.identity(model.params), count, w, seed)).encode())
    return Archive(path, shape, None, None, read, digest.hexdigest)


def training_images(path: Path) -> Archive:
    """The images that a model was trained on.

    Args:
      path: Where the model lies.

    Raises:
      ValueError: Its data cannot be read, or are no images.
    """
    data = make(describe(path).config.data, "data", path="config.data").open("train")
    _check(path, data.shape)
    shape = (len(data.source), *data.shape)
    read = functools.partial(_stored, data)
    return Archive(path, shape, None, None, read, functools.partial(_sum, data))


def _check(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(f"{path} is a model of {shape}; images are (height, width, 3 or 1)")


def _entries(path: Path, model: Model, count: int) -> dict[str, Any]:
    """The values of each entry of the condition, one a sample."""
    if not model.conditioners:
        return {}
    (name, made), *others = model.conditioners
    values = None if others else made.every()
    if values is not None:
        return {name: np.resize(np.asarray(values), count)}
    held_out = make(describe(path).config.data, "data", path="config.data").open("test")
    return taken(asked(model, held_out, count).entries, np.arange(count))


def _drawn(
    model: Model, entries: Mapping[str, Any], count: int, w: float | None, seed: int, size: int
) -> Batches:
    size, key = min(size, count), jax.random.key(seed)
    mesh = fitting(size, devices=jax.local_devices(), held=model.params)
    for start, here, index in bulk.full_batches(count, size):
        shown = taken(entries, index)
        batch = None if shown else size
        x = model.sample(key, shown, w=w, batch=batch, offset=start, mesh=mesh)
        yield to_uint8(x)[:here]


def _stored(data: Dataset, size: int) -> Batches:
    for start in range(0, len(data.source), size):
        numbers = range(start, min(start + size, len(data.source)))
        yield np.stack([data.source[number]["x"] for number in numbers])


def _sum(data: Dataset) -> str:
    """A checksum of all images, one after another."""
    digest = hashlib.sha256()
    for number in range(len(data.source)):
        digest.update(np.ascontiguousarray(data.source[number]["x"]).data)
    return digest.hexdigest()
