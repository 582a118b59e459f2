"""A trained network, loaded from its work directory, with all that sampling from it needs."""

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int
from ml_collections import ConfigDict

from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.models import UNet
from cfg_jax.sampling import sample, sharded_sample
from cfg_jax.sampling.grids import Grid
from cfg_jax.sampling.solvers import Solver
from cfg_jax.training import averages
from cfg_jax.training import config as recipe
from cfg_jax.training.checkpoints import Checkpoints
from cfg_jax.training.guided import guided
from cfg_jax.training.journal import note
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
        """The denoiser under the recipe's guidance of strength w, its x̂ kept within [-1, 1].

        Classifier-free guidance, if the recipe names no other; see `config.guidance`.

        Raises:
          ValueError: The recipe's guidance has a mistake.
        """
        weaker = self.weaker
        weak = None if weaker is None else weaker.denoiser
        return guided(self.config, self.denoiser, w=w, null=self.null, weak=weak)

    @property
    def weaker(self) -> "Run | None":
        """The run of autoguidance's weaker network; None under another guidance.

        Raises:
          ValueError: It cannot be read, or is of other images or classes.
        """
        name = self.config.guidance.weak
        match = re.fullmatch(r"(.*?)(?::(\d+))?", name or "")
        if not match or not name:
            return None
        weaker = _once(Path(match[1] or self.workdir), match[2] and int(match[2]))
        if (weaker.shape, weaker.null) != (self.shape, self.null):
            raise ValueError(
                f"guidance.weak must be of the same images and classes as {self.workdir}; "
                f"{weaker.workdir} has {weaker.shape} and {weaker.null}"
            )
        return weaker

    @property
    def checkpoint(self) -> Path:
        """Where its parameters lie."""
        return self.workdir.resolve() / "checkpoints" / str(self.step)

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
          Images, (batch, height, width, channels), in [-1, 1] unless the recipe clips nothing.

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


def load(workdir: str | Path, *, step: int | None = None, ema: float | None = None) -> Run:
    """Loads a trained network.

    Args:
      workdir: Where `train` put it.
      step: Which checkpoint; the newest good one when None.
      ema: Which moving average: one of the recipe's decays or widths (`train.ema`,
        `train.ema_widths`), or any other width in (0, 0.28), made from the widths that were kept,
        of all checkpoints up to the step; the first when None.

    Returns:
      The run.

    Raises:
      ValueError: The directory or the checkpoint is missing or cannot be read, or there is no such
        average.
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
        if step is not None and step not in checkpoints.steps():
            held = ", ".join(map(str, checkpoints.steps())) or "none"
            raise ValueError(f"{workdir} has no checkpoint of step {step}; it has {held}")
        kept = (*config.train.ema, *config.train.ema_widths)
        if ema is None or ema in kept:
            number = 0 if ema is None else kept.index(ema)
            step, params = _kept_average(checkpoints, like, step, number)
        else:
            step, params = _combined(checkpoints, config, like, step, ema)
    return Run(
        workdir=workdir,
        step=step,
        config=config,
        network=network,
        params=params,
        shape=shape,
        class_names=class_names,
    )


@functools.lru_cache(maxsize=4)
def _once(workdir: Path, step: int | None) -> Run:
    """`load`, but once: a sweep over w asks for the weaker network again and again."""
    return load(workdir, step=step)


def _kept_average(
    checkpoints: Checkpoints, like: Any, step: int | None, number: int
) -> tuple[int, Any]:
    """A step and the moving average of a number."""
    tree = {str(number): like}
    if step is not None:
        return step, checkpoints.restore_ema(step, tree)[str(number)]
    found = checkpoints.restore_newest_ema(tree, report=note)
    if found is None:
        raise ValueError(f"{checkpoints.path(0).parent.parent} has no checkpoint yet")
    return found[0], found[1][str(number)]


def _combined(
    checkpoints: Checkpoints, config: ConfigDict, like: Any, step: int | None, width: float
) -> tuple[int, Any]:
    """A step and the average of a width that was not kept, made from those that were."""
    first, widths = len(config.train.ema), config.train.ema_widths
    if not widths or not 0.0 < width < 0.28:
        raise ValueError(
            f"there is no average {width}; there are "
            + ", ".join(map(str, (*config.train.ema, *widths)))
            + (", and any width in (0, 0.28)" if widths else "")
        )
    steps = [at for at in checkpoints.steps() if step is None or at <= step]
    if not steps:
        raise ValueError(f"{checkpoints.path(0).parent.parent} has no checkpoint yet")
    shares = averages.weights(
        np.repeat(steps, len(widths)),
        np.tile(widths, len(steps)),
        step=steps[-1],
        width=width,
    ).reshape(len(steps), len(widths))
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), like)
    for at, row in zip(steps, shares, strict=True):
        kept = checkpoints.restore_ema(at, {str(first + i): like for i in range(len(widths))})
        for i, share in enumerate(row):
            part = jax.device_get(kept[str(first + i)])
            total = jax.tree.map(lambda t, p, s=share: t + s * p, total, part)
    return steps[-1], jax.tree.map(lambda t: jnp.asarray(t, jnp.float32), total)
