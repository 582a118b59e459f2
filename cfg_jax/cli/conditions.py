"""Conditions of more than labels, for the commands: read from files, or lent by held-out images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cfg_jax.data import Dataset, open_dataset
from cfg_jax.data.images import to_float
from cfg_jax.run import Run
from cfg_jax.runtime.files import read_arrays

FLAGS = {"vector": "vectors", "small": "small"}
"""The flags that name a file, by the part of the condition that it gives."""


def from_files(source: Run, values: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """The parts of the conditions that files give.

    Args:
      source: The run; its network tells what it takes.
      values: The flags.

    Returns:
      The parts by their names, small images in [-1, 1]; None where no file is given.

    Raises:
      ValueError: A file is missing or does not fit the network, or is not for it.
    """
    takes = source.network.takes
    for part, flag in FLAGS.items():
        if values[flag] is not None and part not in takes:
            does = "enlarges no images" if part == "small" else "takes no vectors"
            raise ValueError(f"the network of {source.workdir} {does}: no --{flag}")
    if all(values[flag] is None for flag in FLAGS.values()):
        return None
    if values["labels"] is not None:
        raise ValueError("--small and --vectors bring their own labels: no --labels")
    parts: dict[str, np.ndarray] = {}
    for part in (part for part in FLAGS if part in takes):
        if values[FLAGS[part]] is None:
            raise ValueError(f"the network of {source.workdir} needs --{FLAGS[part]} as well")
        parts |= (_small if part == "small" else _vectors)(source, values[FLAGS[part]])
    lengths = {part: len(array) for part, array in parts.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the files should be of the same number of images, got {lengths}")
    return parts


def _small(source: Run, path: str) -> dict[str, np.ndarray]:
    """Images to enlarge, and their labels."""
    labelled = source.null is not None
    needed = ("arr_0", "arr_1") if labelled else ("arr_0",)
    arrays = read_arrays(path, needed, needed=needed)
    shape = source.network.parts((1, *source.shape))["small"].shape[1:]
    images = arrays["arr_0"]
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise ValueError(
            f"arr_0 of {path} must be uint8 images of {shape}, got {images.dtype}{images.shape}"
        )
    small = {"small": to_float(images)}
    if not labelled:
        return small
    return {**small, "label": _labels(source, path, "arr_1", arrays, len(images))}


def _vectors(source: Run, path: str) -> dict[str, np.ndarray]:
    """Vectors, and their labels where no small images bring any."""
    labelled = source.null is not None and not source.network.upscale
    needed = ("vector", "label") if labelled else ("vector",)
    arrays = read_arrays(path, needed, needed=needed)
    vectors, length = arrays["vector"], source.network.vector
    if vectors.ndim != 2 or vectors.shape[1] != length or not len(vectors):
        raise ValueError(f"vector of {path} must be (images, {length}), got {vectors.shape}")
    found = {"vector": vectors.astype(np.float32)}
    if not labelled:
        return found
    return {**found, "label": _labels(source, path, "label", arrays, len(vectors))}


def _labels(
    source: Run, path: str, name: str, arrays: dict[str, np.ndarray], count: int
) -> np.ndarray:
    labels = arrays[name].astype(np.int32)
    if labels.shape != (count,):
        raise ValueError(f"{name} of {path} must be a label for each image, got {labels.shape}")
    source.check_labels(labels)
    return labels


def held_out(source: Run, path: str | None) -> Dataset:
    """The held-out images of a run's data, that may have moved.

    Raises:
      ValueError: The run has no data, or they are others.
    """
    if path:
        source.config.data.path = path
    flags = " and ".join(f"--{FLAGS[part]}" for part in FLAGS if part in source.network.takes)
    if source.config.data.name in ("folder", "npz") and not source.config.data.path:
        raise ValueError(f"give {flags}, or --data-path: {source.workdir} has no data of its own")
    data = open_dataset(source.config.data, split="test")
    check(source, data)
    return data


def check(source: Run, data: Dataset) -> None:
    """Raises ValueError where data cannot lend their conditions to a network."""
    if (data.shape, data.vector) != (source.shape, source.network.vector):
        raise ValueError(
            f"the data should have images of {source.shape} and vectors of length "
            f"{source.network.vector}, got {data.shape} and {data.vector}"
        )


def by_label(data: Dataset, labels: Sequence[int], count: int) -> list[int]:
    """The numbers of the first so many images of each label; of all, for data without labels."""
    if not data.num_classes:
        return list(range(min(count, len(data.source))))
    found: dict[int, list[int]] = {label: [] for label in labels}
    short = set(labels)
    for number in range(len(data.source)):
        label = int(data.source[number]["label"])
        if label in short:
            found[label].append(number)
            short -= {label} if len(found[label]) == count else set()
        if not short:
            break
    if not any(found.values()):
        raise ValueError(f"no held-out image has label {labels[0]}")
    return [number for label in labels for number in found[label]]
