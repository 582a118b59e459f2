"""The guidance that a recipe names: its method, that method's knobs, and where it is on.

A knob has the name it has in Python, and None where the method's own default shall hold; a label is
the same for all examples. Of a condition of several parts, guidance hides those that the recipe
names, and keeps the others. A noisy classifier may guide as well, beside any of them. What needs
another function of its own (an energy, a w that depends on λ) is made in Python.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import ArrayLike
from ml_collections import ConfigDict

from cfg_jax import guidance
from cfg_jax.diffusion import checks, prediction
from cfg_jax.diffusion.denoiser import Denoiser, clipped, dynamically_thresholded
from cfg_jax.diffusion.logsnr import floating
from cfg_jax.guidance.base import strength
from cfg_jax.networks.unet import NAMES

SPACES = {**prediction.KINDS, guidance.VELOCITY.name: guidance.VELOCITY}


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to guide.

    Attributes:
      make: (denoiser, w, null, **knobs) -> guidance.
      knobs: The knobs it has.
      needed: Those of them that have no default.
    """

    make: Callable[..., Any]
    knobs: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()


def _relabelled(null: Any, label: int) -> Any:
    """The null with a label in the place of that for none."""
    if not isinstance(null, dict):
        return label
    if "label" not in null:
        raise ValueError("negative and composed guidance need a network that takes labels")
    return {**null, "label": label}


def _negative(denoiser: Denoiser, *, w: ArrayLike, null: Any, cond: int) -> Any:
    return guidance.classifier_free(denoiser, w=w, null=_relabelled(null, cond))


def _composed(denoiser: Denoiser, *, w: Any, null: Any, conds: Any, ws: Any = None) -> Any:
    ws = (1.0,) * len(conds) if ws is None else ws
    if not conds or len(ws) != len(conds):
        raise ValueError(
            "guidance.conds must hold a label at least, and guidance.ws one weight for each; "
            f"got {len(conds)} and {len(ws)}"
        )
    weights = tuple(strength("guidance.ws", share * floating(w)) for share in ws)
    others = tuple(_relabelled(null, label) for label in conds)
    return guidance.Composed(denoiser=denoiser, conds=others, ws=weights, null=null)


def _autoguidance(denoiser: Denoiser, *, w: ArrayLike, null: Any, weak: Denoiser) -> Any:
    return guidance.autoguidance(denoiser, weak, w=w)


METHODS = {
    "classifier_free": Method(guidance.classifier_free),
    "negative": Method(_negative, ("cond",), ("cond",)),
    "composed": Method(_composed, ("conds", "ws"), ("conds",)),
    "autoguidance": Method(_autoguidance, ("weak",), ("weak",)),
    "rescaled": Method(guidance.rescaled, ("phi", "space"), ("phi",)),
    "projected": Method(guidance.projected, ("eta", "norm_threshold")),
    "plus_plus": Method(guidance.plus_plus),
    "zero_star": Method(guidance.zero_star, ("space",)),
}
"""The methods by the names that recipes and commands use."""

CLIPS: dict[str, Callable[[Denoiser, float], Denoiser]] = {
    "static": lambda denoiser, percentile: clipped(denoiser),
    "dynamic": dynamically_thresholded,
    "none": lambda denoiser, percentile: denoiser,
}
"""How x̂ is kept within [-1, 1]."""

KNOBS = sorted({knob for method in METHODS.values() for knob in method.knobs})
BOUNDS = ("low", "high")

SOLVERS_OF_EPS = ("ddim", "euler", "heun")
"""The solvers that read ε̂ too: under the others `plus_plus` would be `classifier_free`."""


def check(config: ConfigDict, null: int | None = None) -> None:
    """Raises ValueError, naming the field, where the guidance of a config is none.

    Args:
      config: The recipe.
      null: The number of classes, where it is known: no label may exceed it.
    """
    chosen = config.guidance
    for name, value, allowed in (
        ("guidance.name", chosen.name, METHODS),
        ("sample.clip", config.sample.clip, CLIPS),
        *((("guidance.space", chosen.space, SPACES),) if chosen.space is not None else ()),
    ):
        if value not in allowed:
            raise ValueError(f"config.{name} must be one of {', '.join(allowed)}; got {value!r}")
    for part in chosen.hides:
        if part not in NAMES:
            raise ValueError(f"config.guidance.hides must name {', '.join(NAMES)}; got {part!r}")
    checks.within("config.sample.percentile", config.sample.percentile, 0.0, 1.0)
    method = METHODS[chosen.name]
    given = {knob for knob in KNOBS if chosen[knob] is not None}
    for knob in sorted(given - set(method.knobs)):
        having = [name for name, other in METHODS.items() if knob in other.knobs]
        raise ValueError(
            f"guidance.{knob} belongs to {', '.join(having)}; guidance.name is {chosen.name}"
        )
    for knob in method.needed:
        if knob not in given:
            raise ValueError(f"{chosen.name} needs guidance.{knob}")
    if null is not None:
        _check_labels(chosen, null)
    _unclipped(config, _nothing, w=config.sample.w, null=0, weak=_nothing)


def _check_labels(chosen: ConfigDict, null: int) -> None:
    for knob, labels in (("cond", (chosen.cond,)), ("conds", chosen.conds)):
        wrong = [n for n in labels or () if n is not None and not 0 <= n <= null]
        if wrong:
            raise ValueError(
                f"guidance.{knob} must lie in [0, {null - 1}], or be {null} for none; "
                f"got {wrong[0]}"
            )


def describe(config: ConfigDict) -> str:
    """The guidance of a config in a line: "rescaled, phi=0.7, low=-2.0"."""
    chosen = config.guidance
    set_ = {knob: chosen[knob] for knob in KNOBS if chosen[knob] is not None}
    set_ |= _bounds(config)
    if "small" in chosen.hides:
        set_["hides"] = "+".join(chosen.hides)
    return ", ".join([chosen.name, *(f"{name}={value}" for name, value in set_.items())])


def guided(
    config: ConfigDict,
    denoiser: Denoiser,
    *,
    w: ArrayLike,
    null: Any,
    weak: Denoiser | None = None,
    log_prob: Callable | None = None,
    scale: ArrayLike = 1.0,
) -> Denoiser:
    """A network under the guidance of a config, its x̂ kept in range as the config says.

    Args:
      config: The recipe; its own w is not used.
      denoiser: The network.
      w: The strength, a scalar or (batch,).
      null: What stands for none: a label, or the parts of a null by their names. None for a network
        that nothing is hidden from, which no guidance but autoguidance can guide, and
        classifier-free guidance leaves as it is.
      weak: The weaker network of autoguidance.
      log_prob: A noisy classifier that guides whatever the config makes, as `guidance.classifier`.
      scale: Its strength, a scalar or (batch,).

    Returns:
      The denoiser.

    Raises:
      ValueError: The config's guidance has a mistake, or cannot be had here.
    """
    label = null.get("label") if isinstance(null, dict) else null
    check(config, label if isinstance(label, int) else None)
    chosen = config.guidance
    if chosen.name == "autoguidance" and weak is None:
        raise ValueError("autoguidance is for a trained network, with a weaker one beside it")
    if null is not None or chosen.name == "autoguidance":
        denoiser = _unclipped(config, denoiser, w=w, null=null, weak=weak)
    elif chosen.name != "classifier_free" or (log_prob is None and _bounds(config)):
        raise ValueError(f"an unconditional network cannot be guided by {describe(config)}")
    if log_prob is not None:
        denoiser = _limited(config, guidance.classifier(denoiser, log_prob, w=scale))
    return CLIPS[config.sample.clip](denoiser, config.sample.percentile)


def _unclipped(config: ConfigDict, denoiser: Denoiser, *, w: Any, null: Any, weak: Any) -> Denoiser:
    """The guidance, in the range of λ that the config names."""
    chosen, method = config.guidance, METHODS[config.guidance.name]
    knobs = {knob: chosen[knob] for knob in method.knobs if chosen[knob] is not None}
    if "space" in knobs:
        knobs["space"] = SPACES[knobs["space"]]
    if "weak" in knobs:
        knobs["weak"] = weak
    return _limited(config, method.make(denoiser, w=w, null=null, **knobs))


def _limited(config: ConfigDict, made: Any) -> Denoiser:
    """A guidance within the config's bounds."""
    bounds = _bounds(config)
    return guidance.interval(made, **bounds) if bounds else made


def _bounds(config: ConfigDict) -> dict[str, float]:
    chosen = config.guidance
    return {bound: chosen[bound] for bound in BOUNDS if chosen[bound] is not None}


def _nothing(z, logsnr, cond):
    """Stands for a network, where a config is only looked at."""
    return z
