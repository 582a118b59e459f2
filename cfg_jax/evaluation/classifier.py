"""Trains the classifier whose features and probabilities score samples, and keeps it in a file."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, ArrayLike, Float, Int32, UInt8
from tqdm import tqdm

from cfg_jax import __version__
from cfg_jax.data.images import to_float
from cfg_jax.data.sources import ArraySource, Dataset
from cfg_jax.evaluation import record
from cfg_jax.evaluation.scorer import Classifier

_FORWARD_BATCH = 256


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What decides the training, beside the data."""

    seed: int
    epochs: int
    batch: int
    learning_rate: float


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A classifier of one kind of images, in which their samples are scored.

    Attributes:
      module: The network.
      params: Its parameters.
      shape: (H, W, C) of the images.
      held_out_accuracy: Share of the held-out real images that it classifies rightly, in [0, 1].
    """

    module: Classifier
    params: Any = dataclasses.field(repr=False)
    shape: tuple[int, ...]
    held_out_accuracy: float

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.module.num_classes

    def features_and_probabilities(
        self, images: ArrayLike
    ) -> tuple[Float[np.ndarray, "n features"], Float[np.ndarray, "n classes"]]:
        """Features and p(y|x) of any number of images, in batches of one size: one compilation.

        Args:
          images: (n, H, W, C): floats in [-1, 1], what lies beyond being clipped as it is when
            an image is shown, or uint8.

        Returns:
          The penultimate layer of (n, features) and probabilities of (n, num_classes), float32.

        Raises:
          ValueError: There are no images, they have another shape, or hold NaN or infinities.
        """
        pixels = np.asarray(images)
        if pixels.ndim != 4 or pixels.shape[1:] != self.shape or not len(pixels):
            raise ValueError(f"images must have shape (n, {self._sides()}), got {pixels.shape}")
        if pixels.dtype != np.uint8 and not np.all(np.isfinite(pixels)):
            raise ValueError("the images hold NaN or infinities")
        batches = [
            self._forward(pixels[start : start + _FORWARD_BATCH])
            for start in range(0, len(pixels), _FORWARD_BATCH)
        ]
        features, probabilities = zip(*batches, strict=True)
        return np.concatenate(features), np.concatenate(probabilities)

    def _sides(self) -> str:
        return ", ".join(map(str, self.shape))

    def _forward(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = to_float(batch) if batch.dtype == np.uint8 else batch.astype(np.float32)
        missing = _FORWARD_BATCH - len(batch)
        padded = np.pad(np.clip(images, -1.0, 1.0), ((0, missing), (0, 0), (0, 0), (0, 0)))
        features, probabilities = _apply(self.module, self.params, padded)
        return np.asarray(features)[: len(batch)], np.asarray(probabilities)[: len(batch)]


@functools.partial(jax.jit, static_argnums=0)
def _apply(module: Classifier, params: Any, images: Array) -> tuple[Any, Any]:
    logits, features = module.apply(params, images)
    return features, jax.nn.softmax(logits)


def load_arrays(
    dataset: Dataset,
) -> tuple[UInt8[np.ndarray, "n height width channels"], Int32[np.ndarray, " n"]]:
    """All images and labels of a dataset, in order, in memory."""
    if isinstance(dataset.source, ArraySource):
        return dataset.source.images, dataset.source.labels
    images = np.empty((len(dataset.source), *dataset.shape), np.uint8)
    labels = np.empty(len(dataset.source), np.int32)
    for i in tqdm(range(len(labels)), desc=f"reading {dataset.name} {dataset.split}"):
        example = dataset.source[i]
        images[i], labels[i] = example["image"], example["label"]
    return images, labels


def train_classifier(
    train: Dataset,
    test: Dataset,
    *,
    seed: int = 0,
    epochs: int = 30,
    batch: int = 64,
    learning_rate: float = 2e-3,
    cache: Path | None = None,
    progress: bool = True,
) -> TrainedClassifier:
    """Trains a `Classifier` of real images, or reads the one trained before from `cache`.

    Adam (Kingma & Ba 2015), the rate decaying to zero as a cosine; each image is shifted at random
    by at most an eighth of its height and width. Both splits are held in memory.

    Args:
      train: The images to train on, with labels.
      test: The held-out images, of the same shape and classes.
      seed: Decides the first parameters, the order of the images and their shifts.
      epochs: Passes over the training images.
      batch: Images a step, fewer where there are not as many.
      learning_rate: The first one.
      cache: A directory for the result. A file there serves only the same images, labels, settings
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
    module = Classifier(num_classes=train.num_classes)
    settings = _Settings(seed, epochs, batch, learning_rate)
    fingerprint = _fingerprint(module, train, [images, labels, *held_out], settings)
    path = cache / f"classifier-{fingerprint[:16]}.npz" if cache else None
    trained = _read(path, fingerprint, module, train.shape) if path else None
    if trained is None:
        params = _train(module, images, labels, settings, progress)
        untested = TrainedClassifier(module, params, train.shape, 0.0)
        accuracy = _accuracy(untested, *held_out)
        trained = dataclasses.replace(untested, held_out_accuracy=accuracy)
        if path:
            _write(path, fingerprint, trained)
    return trained


def _check(train: Dataset, test: Dataset) -> None:
    if not train.num_classes:
        raise ValueError(f"{train.name} has no labels, so no classifier can be trained on it")
    if (train.shape, train.class_names) != (test.shape, test.class_names):
        raise ValueError("the training and held-out images differ in shape or classes")
    for dataset in (train, test):
        if not len(dataset.source):
            raise ValueError(f"the {dataset.split} split of {dataset.name} is empty")


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

    @jax.jit
    def initialise(key):
        params = module.init(key, jnp.zeros((1, *images.shape[1:])))
        return params, optimizer.init(params)

    @jax.jit
    def update(params, state, key, pixels, label):
        def loss(params):
            logits, _ = module.apply(params, to_float(_shifted(key, pixels)))
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    key = jax.random.key(settings.seed)
    params, state = initialise(key)
    with tqdm(total=total, desc="classifier", unit="step", disable=not progress) as bar:
        for epoch in range(settings.epochs):
            order = np.random.default_rng((settings.seed, epoch)).permutation(len(images))
            for step, chosen in enumerate(order[: steps * batch].reshape(steps, batch)):
                step_key = jax.random.fold_in(jax.random.fold_in(key, 1 + epoch), step)
                params, state, loss = update(
                    params, state, step_key, images[chosen], labels[chosen]
                )
                bar.update()
            bar.set_postfix(loss=f"{loss:.3g}")
    return params


def _shifted(
    key: Array, images: UInt8[Array, "n height width channels"]
) -> UInt8[Array, "n height width channels"]:
    """Moves each image by up to an eighth of its height and width, repeating its border."""
    n, height, width, channels = images.shape
    down, right = height // 8, width // 8
    padded = jnp.pad(images, ((0, 0), (down, down), (right, right), (0, 0)), mode="edge")
    limits = jnp.array([2 * down + 1, 2 * right + 1])
    corners = jax.random.randint(key, (n, 2), 0, limits)

    def crop(image, corner):
        return jax.lax.dynamic_slice(image, (*corner, 0), (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def _accuracy(classifier: TrainedClassifier, images: np.ndarray, labels: np.ndarray) -> float:
    _, probabilities = classifier.features_and_probabilities(images)
    return float(np.mean(probabilities.argmax(-1) == labels))


def _fingerprint(
    module: Classifier, train: Dataset, arrays: list[np.ndarray], settings: _Settings
) -> str:
    """A digest of all that decides the trained classifier."""
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *train.shape)))
    description = {
        "version": __version__,
        "network": repr(jax.tree.map(lambda leaf: leaf.shape, params)),
        "data": [train.name, train.class_names],
        "arrays": [
            [array.shape, hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()]
            for array in arrays
        ],
        "settings": dataclasses.asdict(settings),
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _write(path: Path, fingerprint: str, trained: TrainedClassifier) -> None:
    entries: dict[str, Any] = flatten_dict(jax.device_get(trained.params), sep="/")
    entries |= {"held_out_accuracy": trained.held_out_accuracy}
    record.keep(path, fingerprint, entries)


def _read(
    path: Path, fingerprint: str, module: Classifier, shape: tuple[int, ...]
) -> TrainedClassifier | None:
    """The classifier in a file; None when it is missing, damaged or another one."""
    entries = record.kept(
        path,
        fingerprint,
        damaged="training the classifier again",
        other="holds another classifier: training it again",
    )
    if entries is None:
        return None
    accuracy = float(entries.pop("held_out_accuracy"))
    params = unflatten_dict(jax.tree.map(jnp.asarray, entries), sep="/")
    return TrainedClassifier(module, params, shape, accuracy)
