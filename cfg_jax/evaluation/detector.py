"""Trains the detector by which scenes are scored, and keeps it in a file."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.data import Dataset
from cfg_jax.data.dataset import load
from cfg_jax.data.samples import to_float
from cfg_jax.data.scenes import COLOURS, DIGIT_SIDE, DIGITS, MOST, SIDE
from cfg_jax.evaluation import composing, instruments
from cfg_jax.evaluation.caption_match import shows
from cfg_jax.evaluation.detector_network import Cells, Detector
from cfg_jax.evaluation.features import checked, devices_for, local_shardings, shared_rows
from cfg_jax.runtime.notes import Bar

_FORWARD_BATCH = 256
"""Scenes that are looked at at a time, over all local devices."""


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What decides the training, beside the data."""

    seed: int
    steps: int
    batch: int
    learning_rate: float


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedDetector:
    """A detector of the digits in scenes.

    Attributes:
      module: The network.
      params: Its parameters.
      held_out_accuracy: Share of the held-out real scenes in which it finds exactly the digits
        there are, each in its colour and at its place, in [0, 1].
    """

    module: Detector
    params: Any = dataclasses.field(repr=False)
    held_out_accuracy: float

    def found(self, x: ArrayLike) -> list[Float[np.ndarray, "_ 4"]]:
        """The digits in scenes.

        Args:
          x: (n, 32, 32, 3): uint8, or floats in [-1, 1], what lies beyond being clipped.

        Returns:
          For each scene (count, 4): digit, colour, and row and column of the upper left corner,
          float32, from the top down.

        Raises:
          ValueError: There are none, they have another shape, or hold NaN or infinities.
        """
        return self.found_and_features(x)[0]

    def features(self, x: ArrayLike) -> Float[np.ndarray, "n features"]:
        """The last layer's mean over each scene, float32; as `found` otherwise."""
        return self.found_and_features(x)[1]

    def found_and_features(
        self, x: ArrayLike
    ) -> tuple[list[Float[np.ndarray, "_ 4"]], Float[np.ndarray, "n features"]]:
        """Both `found` and `features`, the network being asked once."""
        given = checked(x, (SIDE, SIDE, 3), "scene")
        whole, share = local_shardings()
        params = jax.device_put(self.params, whole)
        rows = shared_rows(_FORWARD_BATCH)
        found, features = [], []
        for start in range(0, len(given), rows):
            part = given[start : start + rows]
            full = np.resize(_floats(part), (rows, *given.shape[1:]))
            cells = _looked(self.module, params, jax.device_put(full, share))
            *said, mean = (np.asarray(leaf)[: len(part)] for leaf in cells)
            found += [_decoded(*each) for each in zip(*said, strict=True)]
            features.append(mean)
        return found, np.concatenate(features)


def _floats(x: np.ndarray) -> Float[np.ndarray, "n side side 3"]:
    images = to_float(x) if x.dtype == np.uint8 else x.astype(np.float32)
    return np.clip(images, -1.0, 1.0)


@functools.partial(jax.jit, static_argnums=0)
def _looked(module: Detector, params: Any, x: Array) -> Cells:
    """What the cells say, and the features' mean."""
    cells: Any = module.apply(params, x)
    return cells._replace(features=cells.features.mean((1, 2)))


def _decoded(there: np.ndarray, digit: np.ndarray, colour: np.ndarray) -> Float[np.ndarray, "_ 4"]:
    """The digits of one scene: what the cells say that hold one."""
    row, column = np.nonzero(there > 0.0)
    kinds = [logits[row, column].argmax(-1) for logits in (digit, colour)]
    return np.column_stack([*kinds, DIGIT_SIDE * row, DIGIT_SIDE * column]).astype(np.float32)


def train_detector(
    train: Dataset,
    held_out: Dataset,
    *,
    seed: int = 0,
    steps: int = 400,
    batch: int = 64,
    learning_rate: float = 4e-3,
    cache: Path | None = None,
    progress: bool = True,
) -> TrainedDetector:
    """Trains a `Detector` of scenes, or reads the one trained before from `cache`.

    It learns from fresh scenes of the digits that the training scenes show, see
    `composing.compose`: all colours alike, so that what is held out of the captions is no harder to
    find. Adam (Kingma & Ba 2015), the rate decaying to zero as a cosine; the local devices share a
    step.

    Args:
      train: Scenes with "objects".
      held_out: Others, of other digits.
      seed: Decides the first parameters and the scenes.
      steps: Steps of training.
      batch: Scenes a step.
      learning_rate: The highest one.
      cache: A directory for the result. A file there serves only the same data, settings and
        network: its name and contents hold a fingerprint of them all.
      progress: Whether to show a progress bar.

    Returns:
      The detector, with its accuracy on `held_out`.

    Raises:
      ValueError: The data are no scenes, or a split is empty.
    """
    arrays = [_arrays(data) for data in (train, held_out)]
    module = Detector(digits=len(DIGITS), colours=len(COLOURS))
    settings = _Settings(seed, steps, batch, learning_rate)
    fingerprint = instruments.fingerprint(
        module,
        (1, SIDE, SIDE, 3),
        [array for pair in arrays for array in pair],
        settings=dataclasses.asdict(settings),
    )
    path = cache / f"detector-{fingerprint[:16]}.npz" if cache else None
    kept = instruments.read(path, fingerprint, "detector", "held_out_accuracy") if path else None
    if kept is not None:
        params, (accuracy,) = kept
        return TrainedDetector(module, params, accuracy)
    params = _train(module, composing.stencils(*arrays[0]), settings, progress)
    x, objects = arrays[1]
    accuracy = share_shown(TrainedDetector(module, params, 0.0).found(x), objects)
    if path:
        instruments.write(path, fingerprint, params, held_out_accuracy=accuracy)
    return TrainedDetector(module, params, accuracy)


def share_shown(found: list[np.ndarray], objects: np.ndarray) -> float:
    """The share of scenes of which exactly their digits were found."""
    return float(np.mean([shows(*each) for each in zip(found, objects, strict=True)]))


def is_scenes(data: Dataset) -> bool:
    """Whether data are scenes that a detector can be trained on."""
    spec = data.arrays.get("objects")
    return data.shape == (SIDE, SIDE, 3) and spec is not None and spec.shape == (MOST, 4)


def _arrays(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The pictures and objects of a split, in memory."""
    if not is_scenes(data):
        raise ValueError(f"{data.name} are no scenes, so no detector can be trained on them")
    if not len(data.source):
        raise ValueError(f"the {data.split} split of {data.name} is empty")
    arrays = load(data.source, skip_bad=data.skip_bad).arrays
    return arrays["x"], arrays["objects"]


def _train(module: Detector, of: composing.Stencils, settings: _Settings, progress: bool) -> Any:
    """Returns the parameters."""
    optimizer = optax.adam(
        optax.warmup_cosine_decay_schedule(
            0.0, settings.learning_rate, settings.steps // 20, settings.steps
        )
    )
    key = jax.random.key(settings.seed)
    whole, share = local_shardings(devices_for(settings.batch))

    def initialise() -> tuple[Any, Any]:
        params = module.init(key, jnp.zeros((1, SIDE, SIDE, 3)))
        return params, optimizer.init(params)

    def update(params: Any, state: Any, step: Any, of: composing.Stencils) -> Any:
        scenes = composing.compose(jax.random.fold_in(key, 1 + step), of, settings.batch)
        scenes = jax.lax.with_sharding_constraint(scenes, share)

        def loss(params: Any) -> Array:
            return _loss(module.apply(params, scenes.x), scenes)

        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    (params, state), descend = instruments.begun(initialise, update, whole)
    of = jax.device_put(of, whole)
    with Bar(total=settings.steps, desc="detector", unit="step", disable=not progress) as bar:
        for step in range(settings.steps):
            params, state, loss = descend(params, state, np.int32(step), of)
            loss.block_until_ready()  # Host devices that run ahead of each other can lock up.
            bar.update()
        bar.set_postfix(loss=f"{loss:.3g}")
    return params


def _loss(cells: Any, scenes: composing.Composed) -> Array:
    """The cross-entropy of all that the `Cells` say, of digits and colours where there is one."""
    entropy = optax.softmax_cross_entropy_with_integer_labels
    each = entropy(cells.digit, scenes.digit) + entropy(cells.colour, scenes.colour)
    found = optax.sigmoid_binary_cross_entropy(cells.there, scenes.there.astype(jnp.float32))
    return found.mean() + each.mean(where=scenes.there)
