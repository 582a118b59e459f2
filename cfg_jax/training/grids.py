"""The grid of samples that training draws now and then, from the moving average."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cfg_jax.data import Dataset
from cfg_jax.data.images import enlarge, interleave, save_grid, to_uint8
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.networks import UNet
from cfg_jax.runtime import processes
from cfg_jax.sampling import sharded_sample
from cfg_jax.training import conditions
from cfg_jax.training import config as recipe
from cfg_jax.training.guided import guided

CLASSES, PER_CLASS = 10, 8
"""At most so many classes, evenly chosen, a row each; without labels, as many images."""

EXAMPLES = 24
"""Images of the data that lend their conditions, where these are more than labels."""


class GridWriter:
    """Writes WORKDIR/samples/STEP.png: always the same noise, so that the eye sees the training.

    For a network that is shown more than labels, the conditions are those of images of the data,
    and these stand beside the samples: a row of what the network enlarges, if it does, one of
    samples, one of the images themselves, and so on.

    Args:
      config: The recipe: its schedule, and how to sample.
      workdir: The run's directory.
      network: The U-Net.
      data: What it is trained on.
      mesh: The devices to sample on.
    """

    def __init__(self, config: ConfigDict, workdir: Path, network: UNet, data: Dataset, mesh: Mesh):
        self._config, self._network, self._data, self._mesh = config, network, data, mesh
        self._folder = workdir / "samples"
        self._guided(lambda z, logsnr, cond: z)  # a mistake shows before training, not after

    def _guided(self, denoiser: Denoiser) -> Denoiser:
        config = self._config
        return guided(config, denoiser, w=config.sample.w, null=recipe.null(config, self._network))

    def write(self, step: int, params: Any) -> Path:
        """Samples with these parameters and writes the picture of the given step."""
        if self._network.takes_more_than_labels:
            page = self._beside_examples(params)
        else:
            page = self._by_class(params)
        path = self._folder / f"{step}.png"
        if processes.is_first():
            self._folder.mkdir(exist_ok=True)
            save_grid(path, page, PER_CLASS)
        return path

    def _by_class(self, params: Any) -> np.ndarray:
        classes = self._network.num_classes
        if not classes:
            return self._samples(params, {}, CLASSES * PER_CLASS)
        chosen = np.linspace(0, classes - 1, min(CLASSES, classes)).round().astype(np.int32)
        labels = np.repeat(chosen, PER_CLASS)
        return self._samples(params, {"label": labels}, len(labels))

    def _beside_examples(self, params: Any) -> np.ndarray:
        source = self._data.source
        count = min(EXAMPLES, len(source))
        chosen = np.linspace(0, len(source) - 1, count).round().astype(int)
        parts, images = conditions.of_examples(self._network, [source[int(i)] for i in chosen])
        rows = [self._samples(params, parts, count), images]
        if "small" in parts:
            rows.insert(0, enlarge(to_uint8(parts["small"]), self._network.upscale))
        return interleave(rows, PER_CLASS)

    def _samples(self, params: Any, parts: dict[str, Any], count: int) -> np.ndarray:
        config, key = self._config, jax.random.key(self._config.train.seed)
        arrays = {part: jnp.asarray(values) for part, values in parts.items()}
        x = sharded_sample(
            self._guided(jax.tree_util.Partial(self._network.apply, params)),
            key,
            conditions.assemble(config, self._network, key, arrays),
            mesh=self._mesh,
            shape=self._data.shape,
            schedule=recipe.schedule(config),
            solver=recipe.solver(config, self._network, params),
            grid=recipe.grid(config),
            steps=config.sample.steps,
            batch=count,
        )
        return to_uint8(processes.fetch(x))
