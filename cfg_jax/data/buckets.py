"""Shapes for pictures that are not square, and whose turn it is: a batch is of one shape.

Pictures are sorted into buckets by their ratio of height to width, and each is made to cover its
bucket's shape, of about as many pixels as the square (NovelAI 2022, "NovelAI Improvements on Stable
Diffusion", aspect ratio bucketing; Podell et al. 2023, "SDXL", Section 2.3 and Appendix I).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cfg_jax.data.dataset import Source

Shape = tuple[int, int]
"""Height and width."""


@dataclasses.dataclass(frozen=True)
class Bucketed:
    """Pictures as squares, and in buckets, each of a shape, of which `batches` reads.

    Attributes:
      source: All examples, "x" a square.
      buckets: The same examples, each in one of these, of one shape within it; none is empty.
    """

    source: Source
    buckets: tuple[Source, ...]

    varies = True

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[index]


def shapes(side: int, multiple: int, aspect: float) -> tuple[Shape, ...]:
    """The shapes of at most side² pixels, of which neither height nor width can grow, or the other.

    Args:
      side: Side of the square, a multiple of `multiple`.
      multiple: What heights and widths are multiples of.
      aspect: The greatest ratio of one to the other, 1 or more.

    >>> shapes(64, 16, 2.0)
    ((48, 80), (64, 64), (80, 48))
    """
    most = math.ceil(side * math.sqrt(aspect) / multiple) * multiple
    found = set()
    for one in range(multiple, most + 1, multiple):
        other = side * side // one // multiple * multiple
        if other and max(one, other) <= aspect * min(one, other):
            found |= {(one, other), (other, one)}
    return tuple(sorted(found))


def nearest(of: Sequence[Shape], shape: Shape) -> int:
    """Which of some shapes has the ratio of height to width that is nearest to that of a shape."""
    ratios = np.log([height / width for height, width in of])
    return int(np.argmin(np.abs(ratios - math.log(shape[0] / shape[1]))))


def turn(seed: int, step: int, sizes: tuple[int, ...]) -> tuple[int, int]:
    """The bucket that a step's batch is from, and how many batches of it came before.

    In as many steps as there are examples, each bucket has as many turns as it has examples, in an
    order of the seed: over them each example is seen equally often.

    Args:
      seed: Random seed.
      step: The step.
      sizes: The number of examples in each bucket.
    """
    rounds, place = divmod(step, sum(sizes))
    order, before = _round(seed, rounds, sizes)
    bucket = int(order[place])
    return bucket, rounds * sizes[bucket] + int(before[place])


@functools.lru_cache(maxsize=4)
def _round(seed: int, number: int, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The bucket of each step of a round, and how many turns it had before in the round."""
    order = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng((seed, number, len(sizes))).shuffle(order)
    before = np.empty(len(order), np.int64)
    for bucket, size in enumerate(sizes):
        before[order == bucket] = np.arange(size)
    return order, before


def seed_of(seed: int, bucket: int) -> int:
    """The seed of a bucket's own order."""
    return int(np.random.SeedSequence((seed, bucket)).generate_state(1, np.uint64)[0])
