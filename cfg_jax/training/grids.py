"""The page of samples that training draws now and then, from the moving average."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cfg_jax.data import Dataset
from cfg_jax.data.images import interleave
from cfg_jax.data.media import medium
from cfg_jax.model import Model
from cfg_jax.recipe import flatten
from cfg_jax.runtime import processes
from cfg_jax.runtime.files import folder
from cfg_jax.training.program import Program, drawn

CLASSES, PER_CLASS = 10, 8
"""At most so many values that can be named, evenly chosen, a row each; without any, as many
examples."""

EXAMPLES = 24
"""Examples of the data that lend their conditions, where these cannot be named."""


class GridWriter:
    """Writes WORKDIR/samples/STEP.png: always the same noise, so that the eye sees the training.

    Where the condition cannot be named but only be lent, it is that of examples of the data, and
    these stand beside the samples.

    Args:
      config: The recipe.
      workdir: The run's directory.
      program: What is trained, and the devices.
      data: What it is trained on.

    Raises:
      ValueError: The objective trains a network that draws no samples.
    """

    def __init__(self, config: ConfigDict, workdir: Path, program: Program, data: Dataset):
        plan = program.blueprint
        self._codes = hasattr(plan.network, "trained_codec")
        if getattr(plan.objective, "kind", None) is None and not self._codes:
            raise ValueError(
                f"config.train.sample_every must be 0: a network that learns "
                f"{type(plan.objective).__name__} draws no samples"
            )
        self._seed, self._mesh = config.train.seed, program.mesh
        self._plan, self._data = plan, data
        self._folder = folder(workdir / "samples")
        self._medium = medium(plan.facts)
        fields = flatten(config).items()
        shown = {name: value for name, value in fields if name.startswith(("sample.", "guidance."))}
        self._told = {**shown, "seed": self._seed}
        if not self._codes:
            key = jax.eval_shape(lambda: jax.random.key(0))  # a mistake shows before training
            jax.eval_shape(self._drawn, program.state.params, key, plan.shown(1))

    def write(self, step: int, params: Any) -> Path:
        """Samples with these parameters and writes the page of the given step."""
        model = self._model(params)
        conditioners = model.conditioners
        every = {name: made.every() for name, made in conditioners}
        names: list[str] = []
        if self._codes:
            x = self._coded(model)
        elif all(values is not None for values in every.values()) and len(every) <= 1:
            x, names = self._named(model, every)
        else:
            x = self._lent(model)
        path = self._path(step)
        if processes.is_first():
            self._folder.mkdir(exist_ok=True)
            told = {**self._told, "step": step}
            self._medium.grid(path, self._medium.stored(x), PER_CLASS, names=names, told=told)
        return path

    def complete(self, step: int, params: Any) -> None:
        """Writes the page of a step that was saved, unless the run wrote it before it ended."""
        if not self._path(step).exists():
            self.write(step, params)

    def _drawn(self, params: Any, key: Any, cond: Any) -> Any:
        return drawn(self._model(params), key, cond, 1)

    def _path(self, step: int) -> Path:
        return self._folder / f"{step}.png"

    def _model(self, params: Any) -> Model:
        return Model(**self._plan.model(params))

    def _named(self, model: Model, every: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
        """A row a value of the only entry, and its name; or without any, as many samples."""
        for name, values in every.items():
            places = np.linspace(0, len(values) - 1, min(CLASSES, len(values))).round().astype(int)
            chosen = np.asarray(values)[places]
            repeated = np.repeat(chosen, PER_CLASS)
            titles = dict(model.conditioners)[name].titles(chosen)
            return self._samples(model, {name: repeated}, len(repeated)), titles
        return self._samples(model, {}, CLASSES * PER_CLASS), []

    def _examples(self) -> list[dict[str, Any]]:
        """Examples from all over the data."""
        source = self._data.source
        count = min(EXAMPLES, len(source))
        chosen = np.linspace(0, len(source) - 1, count).round().astype(int)
        return [source[int(i)] for i in chosen]

    def _coded(self, model: Model) -> np.ndarray:
        """Examples, under each row how they come back, and the difference, grey where none is."""
        _, x = model.lend(self._examples())
        back = np.asarray(model.decode(model.encode(x)))
        return interleave([x, back, back - x], PER_CLASS)

    def _lent(self, model: Model) -> np.ndarray:
        """Samples under the conditions of examples, and under each row those."""
        entries, x = model.lend(self._examples())
        samples = self._samples(model, entries, len(x))
        above = [made.drawn(entries[name], x) for name, made in model.conditioners]
        rows = [*(rows for rows in above if rows is not None), samples, x]
        return interleave(rows, PER_CLASS)

    def _samples(self, model: Model, entries: dict[str, Any], count: int) -> np.ndarray:
        key = jax.random.key(self._seed)
        x = model.sample(key, entries, batch=count, mesh=self._mesh)
        return np.asarray(processes.fetch(x))
