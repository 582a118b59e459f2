"""A model and the work directory that it was loaded from, with its recipe and step."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from cfg_jax import conditions
from cfg_jax.blueprint import (
    Blueprint,
    FrozenParameters,
    blueprint,
    conditioners_of,
    profiles,
    sampling,
)
from cfg_jax.conditions import Conditioners
from cfg_jax.model import Model
from cfg_jax.optim import Power, averages
from cfg_jax.recipe.description import describe, hashable
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.runtime.notes import note


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Run(Model):
    """A model, and where it was trained; made by `load`.

    Attributes:
      workdir: The directory.
      step: The number of training steps.
      config: The recipe.
    """

    workdir: Path = dataclasses.field(metadata={"static": True})
    step: int = dataclasses.field(metadata={"static": True})
    config: FrozenConfigDict = dataclasses.field(metadata={"static": True})

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {self.workdir} at step {self.step})"

    @property
    def checkpoint(self) -> Path:
        """Where its parameters lie."""
        return self.workdir.resolve() / "checkpoints" / str(self.step)

    def sampling_as(self, config: ConfigDict) -> "Run":
        """The run, sampling as another recipe's `sample` and `guidance` say.

        Raises:
          ValueError: They have a mistake, or autoguidance's weaker model cannot be read.
        """
        chosen = sampling(config)
        changed = {
            "sampling": chosen,
            "weak": weaker(chosen.guidance, self),
            "config": hashable(config),
            "conditioners": shown_as(self, config),
        }
        return dataclasses.replace(self, **changed)


def load_run(workdir: str | Path, *, step: int | None = None, ema: Any = None) -> Run:
    """Loads a run: see `cfg_jax.load`."""
    workdir = Path(workdir)
    description = describe(workdir)
    config, facts = description.config, description.facts
    with Checkpoints(workdir) as checkpoints:
        if step is not None and step not in checkpoints.steps():
            held = ", ".join(map(str, checkpoints.steps())) or "none"
            raise ValueError(f"{workdir} has no checkpoint of step {step}; it has {held}")
        frozen = frozen_of(checkpoints)
        plan = blueprint(config, facts, frozen)
        step, params = _average(checkpoints, config, plan, step, ema)
    fields = plan.model(params)
    run = Run(**fields, workdir=workdir, step=step, config=hashable(config))
    return dataclasses.replace(run, weak=weaker(run.sampling.guidance, run))


def named_run(name: str, default: Path | None = None) -> Run:
    """Loads the run "DIRECTORY" or "DIRECTORY:STEP"; without a directory, of the default one.

    Raises:
      ValueError: It cannot be read.
    """
    match = re.fullmatch(r"(.*?)(?::(\d{1,18}))?", name, re.DOTALL)
    assert match is not None  # the expression matches everything
    place = Path(os.path.expanduser(match[1])) if match[1] or default is None else default
    return load_run(place, step=int(match[2]) if match[2] else None)


def weaker(guidance: Any, run: Run) -> Run | None:
    """The run of autoguidance's weaker network; None under another guidance.

    Raises:
      ValueError: It cannot be read, or is of other data or conditions.
    """
    name = getattr(guidance, "weak", None)
    if not name:
        return None
    found = named_run(name, run.workdir)
    if (found.shape, found.conditioners) != (run.shape, run.conditioners):
        raise ValueError(
            f"guidance.weak must be of the same data and conditions as {run!r}, got {found!r}"
        )
    return dataclasses.replace(found, weak=None)


def shown_as(model: Model, config: ConfigDict) -> Conditioners:
    """A model's conditioners as another recipe says: what guidance hides, how clean an entry is.

    Raises:
      ValueError: They have a mistake, or make entries that the network was not trained with.
    """
    made = conditioners_of(config, model.facts)
    if conditions.inlets(made) != conditions.inlets(model.conditioners):
        raise ValueError(
            f"config.condition must make what the network was trained with, "
            f"{dict(conditions.inlets(model.conditioners))}; got {dict(conditions.inlets(made))}"
        )
    for (name, other), (_, own) in zip(made, model.conditioners, strict=True):
        for field in getattr(other, "trained", ()):
            if getattr(other, field) != getattr(own, field):
                raise ValueError(
                    f"config.condition.{name}.{field} must stay as the network was trained with it"
                )
    return made


def frozen_of(checkpoints: Checkpoints) -> FrozenParameters:
    """The parameters that were not trained, beside the checkpoints."""
    found = checkpoints.restore_frozen() or {}
    return FrozenParameters(found.get("codec", {}), found.get("condition", {}))


def _average(
    checkpoints: Checkpoints, config: ConfigDict, plan: Blueprint, step: int | None, ema: Any
) -> tuple[int, Any]:
    """A step, and the moving average that was asked for."""
    like = jax.eval_shape(plan.init, jax.random.key(0))
    made = profiles(config)
    names = [name for name, node in config.averages.items() if node is not None]
    numbers = [getattr(profile, "width", getattr(profile, "decay", None)) for profile in made]
    if ema is None or ema in numbers or ema in names:
        number = 0 if ema is None else (names if ema in names else numbers).index(ema)
        return _kept(checkpoints, like, step, number)
    widths = {i: profile.width for i, profile in enumerate(made) if isinstance(profile, Power)}
    if not widths or not isinstance(ema, (int, float)) or not 0.0 < ema < 0.28:
        raise ValueError(
            f"there is no average {ema}; there are {', '.join(map(str, [*names, *numbers]))}"
            + (", and any width in (0, 0.28)" if widths else "")
        )
    return _combined(checkpoints, like, step, ema, widths)


def _kept(checkpoints: Checkpoints, like: Any, step: int | None, number: int) -> tuple[int, Any]:
    """A step and the moving average of a number."""
    tree = {str(number): like}
    if step is not None:
        return step, checkpoints.restore_ema(step, tree)[str(number)]
    found = checkpoints.restore_newest_ema(tree, report=note)
    if found is None:
        raise ValueError(f"{checkpoints.path(0).parent.parent} has no checkpoint yet")
    return found[0], found[1][str(number)]


def _combined(
    checkpoints: Checkpoints, like: Any, step: int | None, width: float, widths: dict[int, float]
) -> tuple[int, Any]:
    """A step and the average of a width that was not kept, made from those that were."""
    steps = [at for at in checkpoints.steps() if step is None or at <= step]
    if not steps:
        raise ValueError(f"{checkpoints.path(0).parent.parent} has no checkpoint yet")
    shares = averages.weights(
        np.repeat(steps, len(widths)),
        np.tile(list(widths.values()), len(steps)),
        step=steps[-1],
        width=width,
    ).reshape(len(steps), len(widths))
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), like)
    for at, row in zip(steps, shares, strict=True):
        kept = checkpoints.restore_ema(at, {str(number): like for number in widths})
        for number, share in zip(widths, row, strict=True):
            part = jax.device_get(kept[str(number)])
            total = jax.tree.map(lambda t, p, s=share: t + s * p, total, part)
    return steps[-1], jax.tree.map(lambda t: jnp.asarray(t, jnp.float32), total)
