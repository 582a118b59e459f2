"""A trained network, loaded from its work directory, with all that using it needs."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int
from ml_collections import ConfigDict

from cfg_jax import guidance
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.networks import Encoder, UNet
from cfg_jax.networks.encoder import LogProb
from cfg_jax.networks.unet import NAMES, LearnedVariance
from cfg_jax.optim import averages
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.sampling import sample, sharded_sample
from cfg_jax.sampling.grids import Grid
from cfg_jax.sampling.solvers import Ancestral, Solver
from cfg_jax.training import conditions
from cfg_jax.training import config as recipe
from cfg_jax.training.guided import guided
from cfg_jax.training.journal import note
from cfg_jax.training.workdir import describe

FORMS = ("eps", "mean")
"""What a classifier may move: ε̂, or the mean of an ancestral step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network and its recipe.

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
    network: Any
    params: Any
    shape: tuple[int, ...]
    class_names: tuple[str, ...]

    @property
    def schedule(self) -> Schedule:
        """The p(λ) it was trained with."""
        return recipe.schedule(self.config)

    @property
    def checkpoint(self) -> Path:
        """Where its parameters lie."""
        return self.workdir.resolve() / "checkpoints" / str(self.step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyClassifier(Trained):
    """A trained p(c|z_λ) and its recipe; made by `load_noisy_classifier`."""

    network: Encoder

    @property
    def log_prob(self) -> LogProb:
        """`(z, logsnr, cond) -> log p(c|z_λ)`, as `guidance.classifier` wants it."""
        return LogProb(network=self.network, params=self.params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Trained):
    """A trained diffusion model and its recipe; made by `load`."""

    network: UNet

    @property
    def denoiser(self) -> Denoiser:
        """`(z, logsnr, cond) -> eps`, unguided; the parameters are its leaves."""
        return jax.tree_util.Partial(self.network.apply, self.params)

    @property
    def null(self) -> int | None:
        """The label that stands for none: the number of classes. None if it takes no labels.

        A network of `config.model.null = False` was never trained with it.
        """
        return self.network.num_classes or None

    @property
    def nothing(self) -> Any:
        """What guidance puts into the condition's place, by the recipe's `guidance.hides`.

        The null label where the condition is labels; else the null of each part, those that stay
        being `condition.KEPT`. None where there is nothing to hide.
        """
        return recipe.null(self.config, self.network)

    @property
    def learned_variance(self) -> LearnedVariance | None:
        """`(z, logsnr, cond) -> v` for `solvers.Ancestral(v=...)`; None if it learned none."""
        if not self.network.learned_variance:
            return None
        return LearnedVariance(network=self.network, params=self.params)

    @property
    def solver(self) -> Solver | None:
        """The recipe's, with the variance that the network learned if it says so."""
        return recipe.solver(self.config, self.network, self.params)

    def guided(
        self,
        w: ArrayLike,
        *,
        classifier: Callable | None = None,
        classifier_scale: ArrayLike = 1.0,
        classifier_form: str = "eps",
    ) -> Denoiser:
        """The denoiser under the recipe's guidance of strength w, its x̂ kept within [-1, 1].

        Classifier-free guidance, if the recipe names no other; see `config.guidance`. A noisy
        classifier guides what that makes: with w = 0 the conditional network, with w = -1 the
        unconditional one, each evaluated alone where w is a plain number.

        Args:
          w: The strength.
          classifier: As in `sample`.
          classifier_scale: As in `sample`.
          classifier_form: As in `sample`; "mean" leaves the denoiser to the other guidance.

        Raises:
          ValueError: The recipe's guidance has a mistake, or takes a label for none of a network
            that has no such label.
        """
        weaker = self.weaker
        weak = None if weaker is None else weaker.denoiser
        denoiser, null = self.denoiser, self.nothing
        if not self.network.null and self.config.guidance.name != "autoguidance":
            if np.any(np.asarray(w) != 0.0):
                raise ValueError(
                    f"the network of {self.workdir} was trained without a label for none: "
                    f"w must be 0, got {w}"
                )
            null = None
        if classifier is not None:
            denoiser, null = self._alone(w, null)
            if weak is not None and self.null is None:
                weak = guidance.unconditional(weak, null=None)
        return guided(
            self.config,
            denoiser,
            w=w,
            null=null,
            weak=weak,
            log_prob=classifier if classifier_form == "eps" else None,
            scale=classifier_scale,
        )

    def _alone(self, w: ArrayLike, null: Any) -> tuple[Denoiser, Any]:
        """What a classifier guides, and its null: no second half where w needs but one."""
        if self.null is None:
            return guidance.unconditional(self.denoiser, null=None), None
        if self.config.guidance.name == "classifier_free" and isinstance(w, (int, float)):
            if w == 0.0:
                return self.denoiser, None
            if w == -1.0:
                return guidance.unconditional(self.denoiser, null=null), None
        return self.denoiser, null

    def _solver(
        self, solver: Solver | None, classifier: Callable | None, scale: ArrayLike, form: str
    ) -> Solver | None:
        """The solver, or the recipe's; its mean shifted by the classifier if that is the form."""
        solver = self.solver if solver is None else solver
        if classifier is None:
            return solver
        if form not in FORMS:
            raise ValueError(f"classifier_form must be one of {', '.join(FORMS)}; got {form!r}")
        if isinstance(solver, Ancestral) and self.null is None and callable(solver.v):
            solver = dataclasses.replace(solver, v=guidance.unconditional(solver.v, null=None))
        if form == "eps":
            return solver
        if not isinstance(solver, Ancestral):
            raise ValueError("classifier_form mean shifts the mean of ancestral, no other solver's")
        if {self.config.guidance.low, self.config.guidance.high} != {None}:
            raise ValueError("guidance.low and .high do not limit classifier_form mean")
        return dataclasses.replace(solver, shift=guidance.ascent(classifier, w=scale))

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

    def sample(
        self,
        key: jax.Array,
        labels: ArrayLike | Sequence[int] | None = None,
        *,
        w: ArrayLike | None = None,
        classifier: Callable | None = None,
        classifier_scale: ArrayLike = 1.0,
        classifier_form: str = "eps",
        steps: int | None = None,
        solver: Solver | None = None,
        grid: Grid | None = None,
        vector: Float[ArrayLike, "batch length"] | None = None,
        small: Float[ArrayLike, "batch _ _ channels"] | None = None,
        small_logsnr: ArrayLike | None = None,
        batch: int | None = None,
        offset: int = 0,
        mesh: Mesh | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Samples images.

        Args:
          key: A JAX random key; image i draws from `fold_in(key, offset + i)`.
          labels: One an image, in [0, number of classes]; the last is the null. None if
            unconditional.
          w: The guidance strength, a scalar or (batch,); when None the recipe's, or 0 beside a
            classifier.
          classifier: A noisy classifier that guides as well, `(z, logsnr, cond) -> log p(c|z_λ)`,
            such as a `NoisyClassifier`'s log_prob. It may guide an unconditional network, and
            alone sees the labels then.
          classifier_scale: Its strength, s of Dhariwal & Nichol 2021, a scalar or (batch,).
          classifier_form: "eps" moves ε̂ (their Algorithm 2), for every solver; "mean" the mean of
            `Ancestral` (Algorithm 1). See `guidance.gradient`.
          steps: The number of steps; the recipe's when None.
          solver: The solver; the recipe's, on its grid, when None.
          grid: The noise levels; uniform in u when a solver is named without one.
          vector: One an image, for a network that takes vectors; all zeros for none.
          small: The images to enlarge, in [-1, 1], for a network that does that.
          small_logsnr: The λ that they are noised to for a network that was trained with such noise
            (`config.small.logsnr_min`), a scalar or (batch,); the recipe's when None, and that of
            the cleanest images if it says none.
          batch: The number of images, where no condition tells it.
          offset: The number of the first image.
          mesh: Devices to split the images over; the images are the same.

        Returns:
          Images, (batch, height, width, channels), in [-1, 1] unless the recipe clips nothing.

        Raises:
          ValueError: A part of the condition is missing, not taken or out of range, steps < 1, w or
            classifier_scale is not finite, or the form of the classifier's guidance is not one of
            the solver's.
        """
        sampling = self.config.sample
        front = sample if mesh is None else functools.partial(sharded_sample, mesh=mesh)
        if w is None:
            w = sampling.w if classifier is None else 0.0
        chosen = self._solver(solver, classifier, classifier_scale, classifier_form)
        denoiser = self.guided(
            w,
            classifier=classifier,
            classifier_scale=classifier_scale,
            classifier_form=classifier_form,
        )
        return front(
            denoiser,
            key,
            self._condition(
                {"label": labels, "vector": vector, "small": small},
                classifier,
                key=key,
                offset=offset,
                small_logsnr=small_logsnr,
            ),
            shape=self.shape,
            schedule=self.schedule,
            solver=chosen,
            grid=recipe.grid(self.config) if solver is None and grid is None else grid,
            steps=sampling.steps if steps is None else steps,
            batch=batch,
            offset=offset,
        )

    def _condition(
        self, given: dict[str, Any], classifier: Callable | None, *, key: jax.Array, **noise: Any
    ) -> Any:
        """What the network is given beside z and λ, or a classifier that guides it."""
        takes = self.network.takes
        if classifier is not None:
            takes = ("label",)
            if given["label"] is None:
                raise ValueError("a classifier guides towards labels: give some")
        for part, value in given.items():
            if (value is not None) != (part in takes):
                does = "takes no" if value is not None else "needs"
                raise ValueError(f"the network of {self.workdir} {does} {NAMES[part]}")
        parts = {part: jnp.asarray(given[part]) for part in takes}
        if "label" in parts:
            parts["label"] = self.check_labels(given["label"], classifier=classifier)
        return conditions.assemble(self.config, self.network, key, parts, **noise)

    def check_classifier(self, noisy: NoisyClassifier, form: str) -> None:
        """Raises ValueError where a classifier, or its form, cannot guide this network."""
        if noisy.shape != self.shape:
            raise ValueError(
                f"the classifier {noisy.workdir} is of images of {noisy.shape}, "
                f"{self.workdir} of {self.shape}"
            )
        if self.network.takes_more_than_labels:
            raise ValueError("a classifier cannot guide a network that takes more than labels")
        self.classes(noisy.log_prob)
        self._solver(None, noisy.log_prob, 1.0, form)

    def classes(self, classifier: Callable | None = None) -> int:
        """How many labels there are: the network's, or those of a classifier that guides it.

        Raises:
          ValueError: There are none, or the classifier has others.
        """
        own = self.null or len(self.class_names)
        if classifier is None and self.null is None:
            raise ValueError(f"the network of {self.workdir} is unconditional and takes no labels")
        held = classifier.network.num_classes if isinstance(classifier, LogProb) else own
        if own not in (0, held):
            raise ValueError(f"the classifier has {held} classes, {self.workdir} {own}")
        return held

    def check_labels(
        self, labels: ArrayLike | Sequence[int], *, classifier: Callable | None = None
    ) -> Int[Array, " batch"]:
        """The labels as an array, unless one is out of range.

        Raises:
          ValueError: A label is outside [0, null], or [0, null - 1] for a network without a label
            for none and beside a classifier; or nothing takes labels.
        """
        count = self.classes(classifier)
        if count and not isinstance(labels, jax.core.Tracer):
            hidden = classifier is None and self.network.null
            last = count if hidden else count - 1
            wrong = [int(n) for n in np.ravel(np.asarray(labels)) if not 0 <= n <= last]
            if wrong:
                none = f", or be {count} for none" if hidden else ""
                raise ValueError(f"labels must lie in [0, {count - 1}]{none}; got {wrong[0]}")
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
    return Run(**_read(Path(workdir), "diffusion", step, ema))


def load_noisy_classifier(
    workdir: str | Path, *, step: int | None = None, ema: float | None = None
) -> NoisyClassifier:
    """Loads a noisy classifier that `train` made, as `load` loads a diffusion model.

    Raises:
      ValueError: As `load`.
    """
    return NoisyClassifier(**_read(Path(workdir), "classifier", step, ema))


HOLDS = {"diffusion": "a diffusion model", "classifier": "a noisy classifier"}
"""What the run of an objective is called."""


def _read(workdir: Path, objective: str, step: int | None, ema: float | None) -> dict[str, Any]:
    """The fields of a `Trained`."""
    config, shape, class_names = describe(workdir)
    if config.objective != objective:
        raise ValueError(f"{workdir} holds {HOLDS[config.objective]}, not {HOLDS[objective]}")
    network = recipe.trained(config, len(class_names))
    like = network.shapes(shape)
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
    return {
        "workdir": workdir,
        "step": step,
        "config": config,
        "network": network,
        "params": params,
        "shape": shape,
        "class_names": class_names,
    }


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
