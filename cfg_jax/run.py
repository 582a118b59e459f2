"""A trained network, loaded from its work directory, with all that sampling from it needs."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int
from ml_collections import ConfigDict

from cfg_jax import guidance
from cfg_jax.diffusion.denoiser import Denoiser, clipped
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.models import UNet
from cfg_jax.sampling import sample, sharded_sample
from cfg_jax.sampling.grids import Grid
from cfg_jax.sampling.solvers import Solver
from cfg_jax.training import config as recipe
from cfg_jax.training.checkpoints import Checkpoints
from cfg_jax.training.workdir import describe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A trained network and its recipe; made by `load`.

    Attributes:
      workdir: The directory it was loaded from.
      step: The number of training steps.
      config: The recipe.
      network: The Flax module.
      params: Its variables, the moving average.
      shape: One image's (height, width, channels).
      class_names: The classes in the order of their labels; empty where the data has none.
    """

    workdir: Path
    step: int
    config: ConfigDict
    network: UNet
    params: Any
    shape: tuple[int, ...]
    class_names: tuple[str, ...]

    @property
    def denoiser(self) -> Denoiser:
        """`(z, logsnr, cond) -> eps`, unguided; the parameters are its leaves."""
        return jax.tree_util.Partial(self.network.apply, self.params)

    @property
    def schedule(self) -> Schedule:
        """The p(λ) it was trained with."""
        return recipe.schedule(self.config)

    @property
    def null(self) -> int | None:
        """The label that stands for none: the number of classes. None if it takes no labels."""
        return self.network.num_classes or None

    def guided(self, w: ArrayLike) -> Denoiser:
        """The denoiser under classifier-free guidance of strength w, its x̂ clipped to [-1, 1]."""
        if self.null is None:
            return clipped(self.denoiser)
        return clipped(guidance.classifier_free(self.denoiser, w=w, null=self.null))

    def sample(
        self,
        key: jax.Array,
        labels: ArrayLike | Sequence[int] | None = None,
        *,
        w: ArrayLike | None = None,
        steps: int | None = None,
        solver: Solver | None = None,
        grid: Grid | None = None,
        batch: int | None = None,
        offset: int = 0,
        mesh: Mesh | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Samples images.

        Args:
          key: A JAX random key; image i draws from `fold_in(key, offset + i)`.
          labels: One an image, in [0, number of classes]; the last is the null. None if
            unconditional.
          w: The guidance strength, a scalar or (batch,); the recipe's when None.
          steps: The number of steps; the recipe's when None.
          solver: The solver; the recipe's, on its grid, when None.
          grid: The noise levels; uniform in u when a solver is named without one.
          batch: The number of images, where there are no labels.
          offset: The number of the first image.
          mesh: Devices to split the images over; the images are the same.

        Returns:
          Images in [-1, 1], (batch, height, width, channels).

        Raises:
          ValueError: A label is out of range, steps < 1, or w is not finite.
        """
        sampling = self.config.sample
        front = sample if mesh is None else functools.partial(sharded_sample, mesh=mesh)
        return front(
            self.guided(sampling.w if w is None else w),
            key,
            None if labels is None else self.check_labels(labels),
            shape=self.shape,
            schedule=self.schedule,
            solver=recipe.solver(self.config) if solver is None else solver,
            grid=recipe.grid(self.config) if solver is None and grid is None else grid,
            steps=sampling.steps if steps is None else steps,
            batch=batch,
            offset=offset,
        )

    def check_labels(self, labels: ArrayLike | Sequence[int]) -> Int[Array, " batch"]:
        """The labels as an array, unless one is out of range.

        Raises:
          ValueError: A label is outside [0, null], or the network takes none.
        """
        if self.null is None:
            raise ValueError(f"the network of {self.workdir} is unconditional and takes no labels")
        if not isinstance(labels, jax.core.Tracer):
            wrong = [int(n) for n in np.ravel(np.asarray(labels)) if not 0 <= n <= self.null]
            if wrong:
                raise ValueError(
                    f"labels must lie in [0, {self.null - 1}], or be {self.null} for none; "
                    f"got {wrong[0]}"
                )
        return jnp.asarray(labels, jnp.int32)


def load(workdir: str | Path, *, step: int | None = None) -> Run:
    """Loads a trained network.

    Args:
      workdir: Where `train` put it.
      step: Which checkpoint; the newest when None.

    Returns:
      The run.

    Raises:
      ValueError: The directory or the checkpoint is missing or cannot be read.
    """
    workdir = Path(workdir)
    config, shape, class_names = describe(workdir)
    network = recipe.network(config, len(class_names))
    label = jax.ShapeDtypeStruct((1,), jnp.int32) if network.num_classes else None
    like = jax.eval_shape(
        network.init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, *shape), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        label,
    )
    with Checkpoints(workdir) as checkpoints:
        found = checkpoints.latest() if step is None else step
        if found is None or not checkpoints.path(found).is_dir():
            what = "checkpoint" if step is None else f"checkpoint of step {step}"
            raise ValueError(f"{workdir} has no {what} yet")
        params = checkpoints.restore_ema(found, like)
    return Run(
        workdir=workdir,
        step=found,
        config=config,
        network=network,
        params=params,
        shape=shape,
        class_names=class_names,
    )
