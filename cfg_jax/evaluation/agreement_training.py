"""Trains the small CLIP that scores how pictures agree with captions, and keeps it in a file.

A CLIP that has seen other pictures says little of coloured digits. This one learns from the
captioned real data themselves, by the objective and the program that train any other run.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cfg_jax import conditions, recipe
from cfg_jax.blueprint import FrozenParameters, blueprint
from cfg_jax.data import ArraySource, Dataset, batches
from cfg_jax.data.dataset import load
from cfg_jax.evaluation import instruments
from cfg_jax.evaluation.agreement import TrainedAgreement
from cfg_jax.evaluation.features import devices_for
from cfg_jax.model import Model
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime.notes import Bar
from cfg_jax.training.program import Program, build

_LONGEST = 77
"""Tokens of a caption that are read, at most."""

_SMALLEST_SIDE = 8
"""The network halves pictures until one side is no longer."""


def train_agreement(
    train: Dataset,
    held_out: Dataset,
    *,
    seed: int = 0,
    steps: int = 300,
    batch: int = 64,
    learning_rate: float = 2e-3,
    cache: Path | None = None,
    progress: bool = True,
) -> TrainedAgreement:
    """Trains a clean CLIP of captioned real pictures, or reads the one trained before from `cache`.

    `networks.Towers` by `objectives.Contrastive`, with a tokenizer learned from the captions. Both
    splits are held in memory; the local devices share a step.

    Args:
      train: The pictures to train on, with captions: the first text that the data have.
      held_out: The held-out pictures, of the same shape.
      seed: Decides the first parameters and the order of the examples.
      steps: Training steps.
      batch: Examples a step.
      learning_rate: The largest one.
      cache: A directory for the result. A file there serves only the same data and recipe: its name
        and contents hold a fingerprint of them all.
      progress: Whether to show a progress bar.

    Returns:
      The CLIP, with its scores on `held_out`.

    Raises:
      ValueError: There are no captions, a split is empty, or the splits do not fit each other.
    """
    _check(train, held_out)
    train, held_out = _in_memory(train), _in_memory(held_out)
    name = train.texts[0]
    config = agreement_recipe(train, name)
    config.train.seed, config.train.steps, config.train.batch_size = seed, steps, batch
    config.optimiser.learning_rate = learning_rate
    recipe.check(config)
    fingerprint = _fingerprint(config, train, held_out)
    path = cache / f"agreement-{fingerprint[:16]}.npz" if cache else None
    kept = _read(path, fingerprint, config, train) if path else None
    model, scores = kept or (_train(config, train, progress), None)
    scorer = _untested(model, held_out, name)
    if scores is None:
        held = _arrays(held_out)
        scores = scorer(held["x"], [texts[0] for texts in held[name]])
        if path:
            tree = {"params": model.params, "condition": model.condition_params}
            instruments.write(path, fingerprint, tree, **scores)
    return dataclasses.replace(
        scorer,
        held_out_r_precision=scores["r_precision"],
        held_out_clip_score=scores["clip_score"],
    )


def agreement_recipe(data: Dataset, name: str) -> ConfigDict:
    """The recipe of the CLIP that scores pictures like some, by their texts of a name."""
    texts = _arrays(data)[name]
    words = max(len(text.split()) for texts in texts for text in texts)
    sides, halvings = data.shape[:-1], 0
    while min(sides) > _SMALLEST_SIDE and not any(side % 2 for side in sides):
        sides, halvings = tuple(side // 2 for side in sides), halvings + 1
    config = recipe.default()
    del config.condition.label
    config.objective = recipe.node("Contrastive")
    encoder = recipe.node("CLIPText", width=64, layers=2, heads=2, activation="gelu", pool="argmax")
    config.condition[name] = recipe.node(
        "Text", length=min(_LONGEST, 2 * words + 2), p_uncond=0.0, encoder=encoder
    )
    config.network = recipe.node(
        "Towers",
        features=64,
        channels=16,
        channel_mult=tuple(min(2**level, 4) for level in range(halvings + 1)),
        blocks=1,
        attention_resolutions=(min(sides),),
        head_channels=16,
    )
    config.optimiser.warmup = 100
    config.optimiser.decay = "cosine"
    config.averages.ema.decay = 0.99
    config.train.sample_every = 0
    return config


def _check(train: Dataset, held_out: Dataset) -> None:
    for dataset in (train, held_out):
        if not dataset.texts:
            raise ValueError(f"{dataset.name} has no captions, so no CLIP can be trained on it")
        if not len(dataset.source):
            raise ValueError(f"the {dataset.split} split of {dataset.name} is empty")
    if len(train.shape) != 3:
        raise ValueError(f"{train.name} holds no pictures: an example has shape {train.shape}")
    if (train.shape, train.texts) != (held_out.shape, held_out.texts):
        raise ValueError("the training and held-out examples differ in shape or texts")


def _in_memory(data: Dataset) -> Dataset:
    if isinstance(data.source, ArraySource):
        return data
    source = load(data.source, skip_bad=data.skip_bad)
    return dataclasses.replace(data, source=source, workers=0)


def _arrays(data: Dataset) -> Mapping[str, np.ndarray]:
    assert isinstance(data.source, ArraySource)
    return data.source.arrays


def _train(config: ConfigDict, data: Dataset, progress: bool) -> Model:
    """The model of the average at the last step."""
    # Of its own devices alone: every process trains the same.
    devices = jax.local_devices()[: devices_for(config.train.batch_size)]
    program = build(config, data.facts, meshes.device_mesh(1, devices), data=data)
    state = program.start()
    frozen = jax.device_put(program.frozen, meshes.replicated(program.mesh))
    stream = _stream(config, data, program)
    with (
        contextlib.closing(stream),
        Bar(total=config.train.steps, desc="CLIP", unit="step", disable=not progress) as bar,
    ):
        for step in range(1, config.train.steps + 1):
            placed = meshes.global_batch(next(stream), program.mesh)
            state, measured = program.step(state, frozen, placed)
            bar.update()
            if step % 50 == 0:
                bar.set_postfix(loss=f"{measured.loss:.3g}")
    return Model(**program.blueprint.model(jax.device_get(state.ema[0])))


def _stream(config: ConfigDict, data: Dataset, program: Program) -> Any:
    plan = program.blueprint
    read = batches(data, batch_size=config.train.batch_size, seed=config.train.seed)
    return conditions.tokenised(plan.conditioners, plan.frozen.condition, read, data.texts)


def _untested(model: Model, held_out: Dataset, name: str) -> TrainedAgreement:
    """The scorer of a model, which draws its candidates from held-out captions."""
    says: dict[str, str] = {}
    for texts in _arrays(held_out)[name]:
        for text in texts:
            says.setdefault(text, says.get(texts[0], texts[0]))
    bare = TrainedAgreement(model, np.zeros((0, 0)), says, np.nan, np.nan)
    return dataclasses.replace(bare, pool=bare.texts(list(dict.fromkeys(says.values()))))


def _fingerprint(config: ConfigDict, *splits: Dataset) -> str:
    """A digest of all that decides the trained CLIP and its scores."""
    return instruments.digest(
        recipe=repr(sorted(recipe.flatten(config).items())),
        data=[
            [
                data.name,
                data.shape,
                instruments.of_array(_arrays(data)["x"]),
                hashlib.sha256(repr(_arrays(data)[data.texts[0]].tolist()).encode()).hexdigest(),
            ]
            for data in splits
        ],
    )


_SCORES = ("r_precision", "clip_score")


def _read(
    path: Path, fingerprint: str, config: ConfigDict, data: Dataset
) -> tuple[Model, dict[str, float]] | None:
    """The model in a file and its scores; None when it is missing, damaged or another one."""
    kept = instruments.read(path, fingerprint, "CLIP", *_SCORES)
    if kept is None:
        return None
    tree, scores = kept
    plan = blueprint(config, data.facts, FrozenParameters({}, tree["condition"]))
    return Model(**plan.model(tree["params"])), dict(zip(_SCORES, scores, strict=True))
