"""Images that lie in an .npz file, with labels and vectors of numbers beside them."""

from pathlib import Path
from typing import Any

import numpy as np

from cfg_jax.data.sources import ArraySource, Dataset
from cfg_jax.runtime.files import read_arrays

NAMES = ("image", "label", "vector", "class_names")


def open_arrays(config: Any, *, split: str) -> Dataset:
    """Opens one split of the images in an .npz file.

    Args:
      config: has the attributes
        `path`: the file. It holds `image`, uint8 (n, height, width, 1 or 3), and may hold `label`,
        (n,) integers from 0 on, `class_names`, text, one a label, and `vector`, (n, length)
        numbers: an embedding of a text, attributes, a pose;
        `test_path`: another such file, of held-out images; "" holds out a part of `path`;
        `held_out`: that part, in (0, 1), the same images every time.
      split: `train` or `test`.

    Returns:
      The split, in memory.

    Raises:
      ValueError: a file cannot be read, or its arrays do not fit.
    """
    if not config.path:
        raise ValueError("the npz dataset needs path: an .npz file with image, label and vector")
    whole, class_names = _read(config.path)
    if config.test_path:
        chosen = whole if split == "train" else _read(config.test_path)[0]
        _check_alike(config, whole, chosen, class_names)
    else:
        chosen = _part(config, whole, split)
    vectors = chosen.vectors
    return Dataset(
        source=chosen,
        shape=chosen.images.shape[1:],
        class_names=class_names,
        name=config.name,
        split=split,
        vector=0 if vectors is None else vectors.shape[1],
    )


def _part(config: Any, whole: ArraySource, split: str) -> ArraySource:
    """The images of a split, of a file that holds both."""
    count = round(config.held_out * len(whole))
    if not 0 < count < len(whole):
        raise ValueError(
            f"held_out should leave images on both sides of {len(whole)}, got {config.held_out}"
        )
    order = np.random.default_rng(0).permutation(len(whole))
    index = np.sort(order[:count] if split == "test" else order[count:])
    vectors = None if whole.vectors is None else whole.vectors[index]
    return ArraySource(whole.images[index], whole.labels[index], vectors)


def _read(path: str) -> tuple[ArraySource, tuple[str, ...]]:
    """The arrays of a file, checked, and the names of the classes."""
    arrays = read_arrays(Path(path).expanduser(), NAMES, needed=("image",))
    images = arrays["image"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"image in {path} should be uint8 (n, height, width, 1 or 3), "
            f"got {images.dtype} {images.shape}"
        )
    labels = arrays.get("label", np.zeros(len(images), np.int32))
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"label in {path} should be {len(images)} integers, got {labels.dtype} {labels.shape}"
        )
    if np.any(labels < 0):
        raise ValueError(f"label in {path} should be 0 or more, got {labels.min()}")
    vectors = arrays.get("vector")
    if vectors is not None:
        if vectors.ndim != 2 or len(vectors) != len(images):
            raise ValueError(
                f"vector in {path} should be ({len(images)}, length), got {vectors.shape}"
            )
        vectors = vectors.astype(np.float32)
        if not np.all(np.isfinite(vectors)):
            raise ValueError(f"vector in {path} should hold finite numbers alone")
    source = ArraySource(images, labels.astype(np.int32), vectors)
    return source, _class_names(path, arrays, labels)


def _class_names(path: str, arrays: dict[str, np.ndarray], labels: np.ndarray) -> tuple[str, ...]:
    if "label" not in arrays:
        return ()
    most = int(labels.max()) + 1
    if "class_names" not in arrays:
        return tuple(map(str, range(most)))
    names = tuple(map(str, arrays["class_names"]))
    if len(names) < most:
        raise ValueError(f"class_names in {path} should be {most} or more, got {len(names)}")
    return names


def _check_alike(
    config: Any, train: ArraySource, test: ArraySource, class_names: tuple[str, ...]
) -> None:
    """Raises ValueError where two files do not belong together."""
    shapes = [
        (source.images.shape[1:], None if source.vectors is None else source.vectors.shape[1:])
        for source in (train, test)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"images and vectors of {config.test_path} should be as those of {config.path}, "
            f"{shapes[0]}; got {shapes[1]}"
        )
    if class_names and test.labels.max() >= len(class_names):
        raise ValueError(
            f"label in {config.test_path} should be below {len(class_names)}, "
            f"got {test.labels.max()}"
        )
