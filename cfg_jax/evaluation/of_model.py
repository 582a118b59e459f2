"""Scores a model's samples over guidance strengths: what is asked, sampled, judged and reported."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from cfg_jax.data import Dataset
from cfg_jax.evaluation.classifier import TrainedClassifier, load_arrays, train_classifier
from cfg_jax.evaluation.frechet import Moments, moments
from cfg_jax.evaluation.sweep import Row, Scores, score, sweep
from cfg_jax.model import Model
from cfg_jax.runtime import bulk, files

PICTURED = 10
"""Samples of each strength in the picture, at most."""


class Judge(NamedTuple):
    """What scores samples.

    Attributes:
      scorer: A small classifier of the real data.
      real: The held-out data's features by it.
      training: The scores of the real training data.
    """

    scorer: TrainedClassifier
    real: Moments
    training: Scores

    def scores(self, x: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The three scores of samples that should have the labels."""
        return dataclasses.asdict(score(x, labels, self.scorer, self.real))


def judge_of(train: Dataset, held_out: Dataset, *, cache: Path | None = None) -> Judge:
    """What scores samples of some data; its classifier is trained once, and kept.

    Args:
      train: Real data that the classifier learns from.
      held_out: Real data that samples are compared with.
      cache: The folder where it is kept; `files.cache()` when None.

    Raises:
      ValueError: The data have no labels, or the splits do not fit each other.
    """
    scorer = train_classifier(train, held_out, cache=cache or files.cache())
    x, _ = load_arrays(held_out)
    real = moments(scorer.features_and_probabilities(x)[0])
    return Judge(scorer, real, score(*load_arrays(train), scorer, real))


class Asked(NamedTuple):
    """What is sampled at each strength.

    Attributes:
      entries: The values of each entry of the condition, one a sample.
      labels: The class that each sample should have.
      titles: Of the first samples, which are pictured.
      beside: Examples as floats that stand beside those, by what they are.
    """

    entries: dict[str, Any]
    labels: np.ndarray
    titles: Sequence[str]
    beside: dict[str, np.ndarray]


def asked(model: Model, data: Dataset, samples: int, classifier: Model | None = None) -> Asked:
    """All values in turn of an entry that names classes; else what held-out data lend.

    Args:
      model: The model.
      data: Held-out data.
      samples: How many samples.
      classifier: A noisy classifier, whose classes an unconditional model is guided to.

    Raises:
      ValueError: Nothing says of which class a sample should be.
    """
    conditioners = model.conditioners or (() if classifier is None else classifier.conditioners)
    if len(conditioners) == 1:
        ((name, made),) = conditioners
        values = made.every()
        if values is not None and made.classes(values) is not None:
            chosen = np.resize(np.asarray(values), samples)
            titles = made.titles(values[: min(PICTURED, samples)])
            return Asked({name: chosen}, np.asarray(made.classes(chosen)), titles, {})
    if not conditioners or not data.num_classes:
        raise ValueError(f"nothing says of which class a sample of {model!r} should be")
    check_data(model, data)
    first = by_label(data, range(min(data.num_classes, PICTURED)), 1)
    others = np.setdiff1d(np.arange(len(data.source)), first)
    index = np.resize(np.concatenate([first, others]), max(samples, len(first)))
    examples = [data.source[int(i)] for i in index]
    entries, x = model.lend(examples)
    labels = np.array([example["label"] for example in examples])
    beside = {
        name: drawn[: len(first)]
        for name, made in model.conditioners
        if (drawn := made.drawn(entries[name], x)) is not None
    }
    titles = [data.class_names[n] for n in labels[: len(first)]]
    return Asked(entries, labels, titles, {**beside, "held out": x[: len(first)]})


def check_data(model: Model, data: Dataset) -> None:
    """Raises ValueError where data cannot lend their conditions to a model."""
    wanted, got = (dict(facts.arrays) for facts in (model.facts, data.facts))
    if data.shape != model.facts.shape or got != wanted:
        raise ValueError(
            f"the data should be of {model.facts.shape} with {wanted or 'nothing'} beside, "
            f"got {data.shape} with {got or 'nothing'}"
        )


def by_label(data: Dataset, labels: Sequence[int], count: int) -> list[int]:
    """The numbers of the first so many examples of each label; of all, for data without labels."""
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
        raise ValueError(f"no held-out example has label {labels[0]}")
    return [number for label in labels for number in found[label]]


def taken(entries: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """Some of the values of each entry."""

    def some(values: Any) -> Any:
        if isinstance(values, dict):
            return {name: some(inner) for name, inner in values.items()}
        return np.asarray(values)[index]

    return {name: some(values) for name, values in entries.items()}


def sampler(
    model: Model,
    entries: Mapping[str, Any],
    guiding: Mapping[float, Mapping[str, Any]],
    *,
    seed: int,
    batch: int,
    mesh: Mesh | None = None,
) -> Callable[[np.ndarray, float], np.ndarray]:
    """`(labels, strength) -> samples`, in batches of one size, with the same noise for each.

    Every strength, being traced, is sampled by one compiled program.

    Args:
      model: The model.
      entries: The values of each entry, one a sample.
      guiding: Arguments of `Model.sample` for each strength.
      seed: Random seed of the noise.
      batch: Samples at a time, at most; the batches are as equal as can be.
      mesh: The devices, each with its share of a batch; one when None.
    """
    key = jax.random.key(seed)

    def sample(labels: np.ndarray, strength: float) -> np.ndarray:
        made, count = [], len(labels)
        size = -(-count // -(-count // batch))
        for start, here, index in bulk.full_batches(count, size):
            shown = taken(entries, index)
            x = model.sample(key, shown, **guiding[strength], offset=start, mesh=mesh)
            made.append(np.clip(np.asarray(x), -1.0, 1.0)[:here])
        return np.concatenate(made)

    return sample


class Evaluation(NamedTuple):
    """The scores of a model.

    Attributes:
      rows: One a strength.
      judge: What scored.
      asked: What was sampled.
      examples: The first samples of each strength.
    """

    rows: list[Row]
    judge: Judge
    asked: Asked
    examples: dict[float, np.ndarray]


def evaluate(
    model: Model,
    train: Dataset,
    held_out: Dataset,
    *,
    guiding: Mapping[float, Mapping[str, Any]],
    samples: int = 1000,
    seed: int = 0,
    batch: int = 250,
    mesh: Mesh | None = None,
    classifier: Model | None = None,
    cache: Path | None = None,
) -> Evaluation:
    """Samples the same conditions with every strength of guidance, and scores each set.

    Args:
      model: The model.
      train: Real data that the scoring classifier learns from.
      held_out: Real data that samples are compared with.
      guiding: Arguments of `Model.sample` for each strength, such as {1.0: {"w": 1.0}}.
      samples: Samples a strength.
      seed: Random seed of the noise.
      batch: As in `sampler`.
      mesh: As in `sampler`.
      classifier: As in `asked`.
      cache: As in `judge_of`.

    Returns:
      The scores.

    Raises:
      ValueError: As `judge_of`, `asked` and `sweep`.
    """
    judge = judge_of(train, held_out, cache=cache)
    wanted = asked(model, held_out, samples, classifier)
    examples: dict[float, np.ndarray] = {}

    def keep(strength: float, drawn: np.ndarray) -> None:
        examples[strength] = drawn[: len(wanted.titles)]

    rows = sweep(
        sampler(model, wanted.entries, guiding, seed=seed, batch=batch, mesh=mesh),
        judge.scorer,
        judge.real,
        labels=wanted.labels,
        ws=list(guiding),
        on_samples=keep,
    )
    return Evaluation(rows, judge, wanted, examples)
