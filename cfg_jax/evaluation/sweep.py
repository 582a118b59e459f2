"""Scores samples over guidance strengths w: the sweep of Ho & Salimans (2022), Section 4."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from cfg_jax.evaluation.frechet import Moments, frechet_distance, moments
from cfg_jax.evaluation.inception_score import inception_score
from cfg_jax.runtime.notes import Bar

T = TypeVar("T")


@runtime_checkable
class Scorer(Protocol):
    """What gives samples their features and class probabilities, as `TrainedClassifier` does."""

    def features_and_probabilities(
        self, images: ArrayLike
    ) -> tuple[Float[np.ndarray, "n features"], Float[np.ndarray, "n classes"]]:
        """Returns features of (n, features) and p(y|x) of (n, classes) for n images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Three scores of one set of images.

    Attributes:
      label_accuracy: Share that the classifier assigns to the class they should have, in [0, 1].
      inception_score: In [1, number of classes]; higher is better.
      frechet_distance: To the real images' features; lower is better.
    """

    label_accuracy: float
    inception_score: float
    frechet_distance: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The scores of samples drawn with one guidance strength.

    Attributes:
      w: The paper's strength; 0 is no guidance.
      label_accuracy: As in `Scores`.
      inception_score: As in `Scores`.
      frechet_distance: As in `Scores`.
    """

    w: float
    label_accuracy: float
    inception_score: float
    frechet_distance: float


def score(images: ArrayLike, labels: ArrayLike, classifier: Scorer, real: Moments) -> Scores:
    """Scores images, samples or real ones, that should have the given labels.

    Args:
      images: (n, *shape): pictures, sounds or videos, as they are stored or floats in [-1, 1].
      labels: (n,) integers.
      classifier: Gives features and probabilities.
      real: Moments of real images' features by the same classifier.

    Returns:
      The three scores.

    Raises:
      ValueError: There are fewer than two images, or not as many as labels, or the classifier
        refuses them.
    """
    images, labels = np.asarray(images), _labels(labels)
    if len(images) != len(labels):
        raise ValueError(f"there are {len(images)} images for {len(labels)} labels")
    features, probabilities = classifier.features_and_probabilities(images)
    return Scores(
        label_accuracy=float(np.mean(probabilities.argmax(-1) == labels)),
        inception_score=inception_score(probabilities),
        frechet_distance=frechet_distance(moments(features), real),
    )


def sweep(
    sample: Callable[[np.ndarray, float], ArrayLike],
    classifier: Scorer,
    real: Moments,
    *,
    labels: ArrayLike,
    ws: Sequence[float],
    on_samples: Callable[[float, np.ndarray], None] | None = None,
    progress: bool = True,
) -> list[Row]:
    """Samples the same labels with every strength, and scores each set.

    Args:
      sample: `(labels, w) -> images` of (n, *shape) in [-1, 1]. The key, steps and solver are the
        caller's; with the same noise for every w, the rows differ by w alone.
      classifier: Gives features and probabilities.
      real: Moments of the held-out real images' features by the same classifier.
      labels: (n,) integers, at least two.
      ws: The strengths (the paper's w), at least one.
      on_samples: Called with each w and its images, to keep some of them.
      progress: Whether to show a progress bar.

    Returns:
      One row a strength, in the order of `ws`.

    Raises:
      ValueError: ws is empty or holds a NaN or an infinity, labels are not (n,) integers, or the
        samples at some w cannot be scored.
    """
    labels = _labels(labels)

    def scored(images: np.ndarray) -> Scores:
        return score(images, labels, classifier, real)

    found = each_strength(
        lambda w: sample(labels, w), scored, ws=ws, on_samples=on_samples, progress=progress
    )
    return [Row(w=w, **dataclasses.asdict(scores)) for w, scores in found]


def each_strength(
    sample: Callable[[float], ArrayLike],
    score: Callable[[np.ndarray], T],
    *,
    ws: Sequence[float],
    on_samples: Callable[[float, np.ndarray], None] | None = None,
    progress: bool = True,
) -> list[tuple[float, T]]:
    """Samples with every strength of guidance, and scores each set.

    Args:
      sample: `w -> images`.
      score: `images -> scores`.
      ws: As in `sweep`.
      on_samples: As in `sweep`.
      progress: As in `sweep`.

    Returns:
      Each strength and its scores, in the order of `ws`.

    Raises:
      ValueError: ws is empty or holds a NaN or an infinity, or the samples at some w cannot be
        scored.
    """
    strengths, found = _strengths(ws), []
    name = "guidance strengths"
    with Bar(total=len(strengths), desc=name, unit="w", disable=not progress) as bar:
        for w in strengths:
            images = np.asarray(sample(w))
            if on_samples is not None:
                on_samples(w, images)
            try:
                found.append((w, score(images)))
            except ValueError as error:
                raise ValueError(f"the samples at w = {w:g} cannot be scored: {error}") from error
            bar.update()
    return found


def _strengths(ws: Sequence[float]) -> list[float]:
    strengths = [float(w) for w in ws]
    if not strengths:
        raise ValueError("a sweep needs at least one guidance strength w")
    if not all(math.isfinite(w) for w in strengths):
        raise ValueError(f"every guidance strength w must be finite, got {strengths}")
    return strengths


def _labels(labels: ArrayLike) -> Integer[np.ndarray, " n"]:
    values = np.asarray(labels)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"labels must be (n,) integers, got {values.dtype} of {values.shape}")
    return values
