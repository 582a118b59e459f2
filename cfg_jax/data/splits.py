"""What is held out for testing: the same examples every time, and of every class a share."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from cfg_jax.data.tree import Tree, class_of, shown


def of_files(files: Sequence[str], fraction: float) -> frozenset[str]:
    """Chooses the files of the test split by a hash of each name, class by class.

    Adding or removing files moves no other file across, save where that keeps a class in training:
    each keeps one file there, and gives one to the test if its share amounts to one.

    Args:
      files: two names or more, CLASS/…/FILE or FILE; two of them in one class.
      fraction: the expected share of files chosen, between 0 and 1.

    Returns:
      The names chosen: one at least.
    """
    rank = {file: hashlib.sha256(os.fsencode(file)).digest() for file in files}
    classes: dict[str, list[str]] = {}
    for file in sorted(files, key=rank.__getitem__):
        classes.setdefault(class_of(file) if "/" in file else "", []).append(file)
    limit = round(fraction * 2**64)
    chosen: set[str] = set()
    for held in classes.values():
        count = sum(int.from_bytes(rank[file][:8], "big") < limit for file in held)
        least = int(fraction * len(held) >= 1)
        chosen |= set(held[: min(max(count, least), len(held) - 1)])
    if not chosen:
        chosen = {min((c[0] for c in classes.values() if len(c) > 1), key=rank.__getitem__)}
    return frozenset(chosen)


def of_tree(tree: Tree, fraction: float) -> dict[str, tuple[str, ...]]:
    """The files of both splits of a tree.

    Raises:
      ValueError: there are too few.
    """
    if len(tree.files) < 2:
        raise ValueError(
            f"{shown(tree.path)} holds one {tree.what.one}: train and test need one each"
        )
    if len(tree.folders) == len(tree.files):
        raise ValueError(
            f"{shown(tree.path)} holds one {tree.what.one} a class, and none can be held out: "
            "test_path should name others"
        )
    chosen = of_files(tree.files, fraction)
    return {
        "train": tuple(file for file in tree.files if file not in chosen),
        "test": tuple(file for file in tree.files if file in chosen),
    }


def of_labels(labels: Int[np.ndarray, "n"], fraction: float) -> Bool[np.ndarray, "n"]:
    """Which of so many examples are the test split's.

    Of all, the share rounded to a whole number; of each class, its own share rounded up or down,
    so that they add up to that; and never all of a class.

    Raises:
      ValueError: that is none, or all of them.
    """
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise ValueError(
            f"held_out should leave examples on both sides of {len(labels)}, got {fraction}"
        )
    classes, sizes = np.unique(labels, return_counts=True)
    quota = total * sizes / len(labels)
    counts = np.floor(quota).astype(int)
    for index in np.argsort(counts - quota, kind="stable"):
        if counts.sum() < total and counts[index] < sizes[index] - 1:
            counts[index] += 1
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = np.zeros(len(labels), bool)
    for label, count in zip(classes, counts, strict=True):
        chosen[order[labels[order] == label][:count]] = True
    if not chosen.any():
        raise ValueError(
            f"held_out should leave examples of each class on both sides, got {fraction}"
        )
    return chosen
