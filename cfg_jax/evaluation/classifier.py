"""Trains the classifier whose features and probabilities score samples, and keeps it in a file."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int32, UInt8
from tqdm import tqdm

from cfg_jax.data import ArraySource, Dataset
from cfg_jax.data.media import Medium, medium
from cfg_jax.data.samples import to_float
from cfg_jax.evaluation import instruments
from cfg_jax.evaluation.features import checked, devices_for, local_shardings, shared_rows
from cfg_jax.evaluation.scorer import Classifier
from cfg_jax.runtime.notes import Bar

_FORWARD_BATCH = 256
"""Examples that are looked at or scored at a time, over all local devices."""


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What decides the training, beside the data."""

    seed: int
    epochs: int
    batch: int
    learning_rate: float


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A classifier of one kind of data by which samples are scored, as a person sees them.

    Attributes:
      module: The network.
      params: Its parameters.
      medium: How the data are seen: pictures as they are, sounds as spectrograms.
      held_out_accuracy: Share of the held-out real images that it classifies rightly, in [0, 1].
    """

    module: Classifier
    params: Any = dataclasses.field(repr=False)
    medium: Medium
    held_out_accuracy: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.medium.shape

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.module.num_classes

    def features_and_probabilities(
        self, images: ArrayLike
    ) -> tuple[Float[np.ndarray, "n features"], Float[np.ndarray, "n classes"]]:
        """Features and p(y|x) of any number of examples, in batches of one size: one compilation.

        Args:
          images: (n, *shape): pictures, sounds or videos, as they are stored or as floats in
            [-1, 1], what lies beyond being clipped as it is when they are shown.

        Returns:
          The penultimate layer of (n, features) and probabilities of (n, num_classes), float32.

        Raises:
          ValueError: There are none, they have another shape, or hold NaN or infinities.
        """
        given = checked(images, self.shape, self.medium.noun)
        whole, share = local_shardings()
        params = jax.device_put(self.params, whole)
        rows = shared_rows(_FORWARD_BATCH)
        batches = [
            self._forward(params, given[start : start + rows], rows, share)
            for start in range(0, len(given), rows)
        ]
        features, probabilities = zip(*batches, strict=True)
        return np.concatenate(features), np.concatenate(probabilities)

    def _forward(
        self, params: Any, batch: np.ndarray, rows: int, share: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features and probabilities of a batch, filled up to so many rows."""
        seen = self.medium.seen(batch)
        images = to_float(seen) if seen.dtype == np.uint8 else seen.astype(np.float32)
        missing = rows - len(batch)
        padded = np.pad(np.clip(images, -1.0, 1.0), ((0, missing), (0, 0), (0, 0), (0, 0)))
        features, probabilities = _apply(self.module, params, jax.device_put(padded, share))
        return np.asarray(features)[: len(batch)], np.asarray(probabilities)[: len(batch)]


@functools.partial(jax.jit, static_argnums=0)
def _apply(module: Classifier, params: Any, images: Array) -> tuple[Any, Any]:
    logits, features = module.apply(params, images)
    return features, jax.nn.softmax(logits)


def load_arrays(dataset: Dataset) -> tuple[np.ndarray, Int32[np.ndarray, " n"]]:
    """All examples and labels of a dataset, in order, in memory; labels are 0 without classes."""
    if isinstance(dataset.source, ArraySource):
        arrays = dataset.source.arrays
        return arrays["x"], arrays.get("label", np.zeros(len(arrays["x"]), np.int32))
    x = np.empty((len(dataset.source), *dataset.shape), dataset.dtype)
    labels = np.zeros(len(dataset.source), np.int32)
    for i in tqdm(range(len(labels)), desc=f"reading {dataset.name} {dataset.split}"):
        example = dataset.source[i]
        x[i], labels[i] = example["x"], example.get("label", 0)
    return x, labels


def train_classifier(
    train: Dataset,
    test: Dataset,
    *,
    seed: int = 0,
    epochs: int | None = None,
    batch: int = 64,
    learning_rate: float = 2e-3,
    cache: Path | None = None,
    progress: bool = True,
) -> TrainedClassifier:
    """Trains a `Classifier` of real data, or reads the one trained before from `cache`.

    It sees pictures as they are, sounds as spectrograms, and the frames of a video side by side.
    Adam (Kingma & Ba 2015), the rate decaying to zero as a cosine; each picture is shifted at
    random by at most an eighth of its height and width. Both splits are held in memory; the local
    devices share a step.

    Args:
      train: The examples to train on, with labels.
      test: The held-out examples, of the same shape and classes.
      seed: Decides the first parameters, the order of the examples and their shifts.
      epochs: Passes over the training examples; as many as make 2,000 steps, but from 10 to 30,
        when None.
      batch: Examples a step, fewer where there are not as many.
      learning_rate: The first one.
      cache: A directory for the result. A file there serves only the same data, labels, settings
        and network: its name and contents hold a fingerprint of them all.
      progress: Whether to show a progress bar.

    Returns:
      The classifier, with its accuracy on `test`.

    Raises:
      ValueError: There are no labels, a split is empty, or the splits do not fit each other.
    """
    _check(train, test)
    images, labels = load_arrays(train)
    held_out = load_arrays(test)
    module, kind = Classifier(num_classes=train.num_classes), medium(train.facts)
    if epochs is None:
        epochs = max(10, min(30, 2_000 * batch // len(images)))
    settings = _Settings(seed, epochs, batch, learning_rate)
    fingerprint = instruments.fingerprint(
        module,
        kind.seen(images[:1]).shape,
        [images, labels, *held_out],
        data=[train.name, train.class_names],
        settings=dataclasses.asdict(settings),
    )
    path = cache / f"classifier-{fingerprint[:16]}.npz" if cache else None
    kept = instruments.read(path, fingerprint, "classifier", "held_out_accuracy") if path else None
    if kept is not None:
        params, (accuracy,) = kept
        return TrainedClassifier(module, params, kind, accuracy)
    params = _train(module, _seen(kind, images), labels, settings, progress)
    accuracy = _accuracy(TrainedClassifier(module, params, kind, 0.0), *held_out)
    if path:
        instruments.write(path, fingerprint, params, held_out_accuracy=accuracy)
    return TrainedClassifier(module, params, kind, accuracy)


def _check(train: Dataset, test: Dataset) -> None:
    if not train.num_classes:
        raise ValueError(f"{train.name} has no labels, so no classifier can be trained on it")
    if (train.shape, train.class_names) != (test.shape, test.class_names):
        raise ValueError("the training and held-out examples differ in shape or classes")
    for dataset in (train, test):
        if not len(dataset.source):
            raise ValueError(f"the {dataset.split} split of {dataset.name} is empty")


def _seen(kind: Medium, x: np.ndarray) -> UInt8[np.ndarray, "n height width channels"]:
    """Stored examples as pictures, so many at a time that what lies between fits in memory."""
    starts = range(0, len(x), _FORWARD_BATCH)
    return np.concatenate([kind.seen(x[start : start + _FORWARD_BATCH]) for start in starts])


def _train(
    module: Classifier,
    images: UInt8[np.ndarray, "n height width channels"],
    labels: Int32[np.ndarray, " n"],
    settings: _Settings,
    progress: bool,
) -> Any:
    """Returns the parameters; what does not fill a batch at the end of a pass is left out of it."""
    batch = min(settings.batch, len(images))
    steps = len(images) // batch
    total = settings.epochs * steps
    optimizer = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, total))

    key = jax.random.key(settings.seed)
    whole, share = local_shardings(devices_for(batch))

    def initialise() -> tuple[Any, Any]:
        params = module.init(key, jnp.zeros((1, *images.shape[1:])))
        return params, optimizer.init(params)

    def update(params: Any, state: Any, place: Any, pixels: Array, label: Array) -> Any:
        def loss(params: Any) -> Array:
            epoch, step = place
            shift = jax.random.fold_in(jax.random.fold_in(key, 1 + epoch), step)
            logits, _ = module.apply(params, to_float(_shifted(shift, pixels)))
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    placed = (whole, whole, whole, share, share)
    (params, state), descend = instruments.begun(initialise, update, whole, in_shardings=placed)
    with Bar(total=total, desc="classifier", unit="step", disable=not progress) as bar:
        for epoch in range(settings.epochs):
            order = np.random.default_rng((settings.seed, epoch)).permutation(len(images))
            for step, chosen in enumerate(order[: steps * batch].reshape(steps, batch)):
                place = np.array([epoch, step], np.int32)
                params, state, loss = descend(params, state, place, images[chosen], labels[chosen])
                bar.update()
            bar.set_postfix(loss=f"{loss:.3g}")
    return params


def _shifted(
    key: Array, images: UInt8[Array, "n height width channels"]
) -> UInt8[Array, "n height width channels"]:
    """Moves each image by up to an eighth of its height and width, repeating its border.

    A wide one, such as the frames of a video side by side, moves no further sideways than up.
    """
    n, height, width, channels = images.shape
    down, right = height // 8, min(height, width) // 8
    padded = jnp.pad(images, ((0, 0), (down, down), (right, right), (0, 0)), mode="edge")
    limits = jnp.array([2 * down + 1, 2 * right + 1])
    corners = jax.random.randint(key, (n, 2), 0, limits)

    def crop(image, corner):
        return jax.lax.dynamic_slice(image, (*corner, 0), (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def _accuracy(classifier: TrainedClassifier, images: np.ndarray, labels: np.ndarray) -> float:
    _, probabilities = classifier.features_and_probabilities(images)
    return float(np.mean(probabilities.argmax(-1) == labels))
