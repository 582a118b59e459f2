"""The largest batch that fits, from few compilations.

The next batch is where the line through two trials meets the limit. Memory is not quite affine in
the batch, so that is a guess, which is compiled like every other.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

COMPILES = 6
"""At most so many compilations."""

_TILE = 8
"""TPUs lay arrays out in tiles of 8 by 128: batches in between cost the same memory."""


class Trial(NamedTuple):
    """One batch that was compiled.

    Attributes:
      images: On a chip at a time.
      used: Bytes of the chip's memory that they need.
      fits: Whether the compiler took them.
      predicted: `used` by two of the trials before, see `affine`; None for the first two.
    """

    images: int
    used: int
    fits: bool
    predicted: float | None


def affine(trials: Sequence[Trial], limit: float) -> tuple[float, float]:
    """(a, b) of used = a + b · images, through two trials.

    They are the largest that fits and the smallest that does not; or, while one of these is
    missing, the two nearest the limit.
    """
    fitting = [t for t in trials if t.fits]
    others = [t for t in trials if not t.fits]
    if fitting and others:
        first, second = max(fitting), min(others)
    else:
        first, second = sorted(trials, key=lambda t: abs(t.used - limit))[:2]
    slope = (first.used - second.used) / (first.images - second.images)
    return first.used - slope * first.images, slope


def largest(measure: Callable[[int], tuple[int, bool]], *, start: int, limit: float) -> list[Trial]:
    """Looks for the largest number of images on a chip that fits.

    Args:
      measure: The bytes that so many images need, and whether they fit; each call is a compilation.
      start: The first number tried, at least 1.
      limit: Bytes that a program can have.

    Returns:
      All trials, in their order: the answer is the largest that fits.
    """
    trials = [Trial(start, *measure(start), None)]
    candidate = 2 * start if trials[0].fits else start // 2
    while candidate and len(trials) < COMPILES:
        a, b = affine(trials, limit) if len(trials) > 1 else (None, None)
        predicted = None if a is None or b is None else a + b * candidate
        trials.append(Trial(candidate, *measure(candidate), predicted))
        candidate = _next(trials, limit)
    return trials


def _next(trials: Sequence[Trial], limit: float) -> int:
    """Where the line meets the limit, between what fits and what does not; 0 where nothing is."""
    low = max((t.images for t in trials if t.fits), default=0)
    high = min((t.images for t in trials if not t.fits), default=None)
    a, b = affine(trials, limit)
    best = int((limit - a) / b) if b > 0 else 2 * low
    if high is not None:
        best = min(best, high - 1)
    if best >= _TILE:
        best -= best % _TILE
    return best if best > low else 0
