"""The grid of samples that training draws now and then, from the moving average."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cfg_jax.data.images import save_grid, to_uint8
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.models import UNet
from cfg_jax.sampling import sharded_sample
from cfg_jax.training import config as recipe
from cfg_jax.training import processes
from cfg_jax.training.guided import guided

CLASSES, PER_CLASS = 10, 8
"""At most so many classes, evenly chosen, a row each; without labels, as many images."""


class GridWriter:
    """Writes WORKDIR/samples/STEP.png: always the same noise, so that the eye sees the training.

    Args:
      config: The recipe: its schedule, and how to sample.
      workdir: The run's directory.
      network: The U-Net.
      shape: One image's shape.
      mesh: The devices to sample on.
    """

    def __init__(
        self, config: ConfigDict, workdir: Path, network: UNet, shape: tuple[int, ...], mesh: Mesh
    ):
        self._config, self._network, self._shape, self._mesh = config, network, shape, mesh
        self._folder = workdir / "samples"
        self._guided(lambda z, logsnr, cond: z)  # a mistake shows before training, not after

    def _guided(self, denoiser: Denoiser) -> Denoiser:
        config, null = self._config, self._network.num_classes or None
        return guided(config, denoiser, w=config.sample.w, null=null)

    def write(self, step: int, params) -> Path:
        """Samples with these parameters and writes the picture of the given step."""
        config, classes = self._config, self._network.num_classes
        denoiser = self._guided(jax.tree_util.Partial(self._network.apply, params))
        chosen = np.linspace(0, classes - 1, min(CLASSES, classes)).round().astype(np.int32)
        labels = jnp.asarray(np.repeat(chosen, PER_CLASS)) if classes else None
        x = sharded_sample(
            denoiser,
            jax.random.key(config.train.seed),
            labels,
            mesh=self._mesh,
            shape=self._shape,
            schedule=recipe.schedule(config),
            solver=recipe.solver(config),
            grid=recipe.grid(config),
            steps=config.sample.steps,
            batch=None if classes else CLASSES * PER_CLASS,
        )
        path = self._folder / f"{step}.png"
        images = to_uint8(processes.fetch(x))
        if processes.is_first():
            self._folder.mkdir(exist_ok=True)
            save_grid(path, images, PER_CLASS)
        return path
