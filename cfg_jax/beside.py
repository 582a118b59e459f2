"""What guides beside a model: a noisy classifier, or how well data and sentences agree."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike

from cfg_jax import guidance
from cfg_jax.diffusion import checks
from cfg_jax.diffusion.names import made
from cfg_jax.networks.towers import Agreement
from cfg_jax.sampling.solvers import SOLVERS, Ancestral, Solver

CLASSIFIER, PAIR = "noisy classifier", "pair of towers"
"""The `role` of networks that do not sample; a classifier's goes without saying."""

FORMS = ("eps", "mean")
"""What a classifier may move: ε̂, or the mean of an ancestral step."""


def log_prob_of(classifier: Any) -> Any:
    """A classifier's `(z, logsnr, cond) -> log p(c|z_λ)`: a model's, or the callable itself.

    Raises:
      TypeError: It is neither.
    """
    found = getattr(classifier, "log_prob", classifier)
    return checks.function("classifier", found, "(z, logsnr, cond) -> log p(c|z)")


def agreement_of(model: Any) -> Agreement:
    """How well data and sentences agree, by a model that is a pair of towers.

    Raises:
      ValueError: It is another model.
    """
    if model.role != PAIR:
        raise ValueError(f"{model!r} is a {model.role}, not a {PAIR}")
    (entry,) = model.network.takes
    return Agreement(
        network=model.network, params=model.params, of=entry, clean=model.schedule.logsnr_max
    )


def labels_of(classifier: Any, cond: Any, entries: dict[str, Any]) -> Any:
    """The condition of a network that takes none, which its classifier is shown.

    Raises:
      ValueError: There are no labels, or wrong ones.
    """
    if hasattr(classifier, "entries"):
        return classifier.entries(cond, **entries)
    given = cond if cond is not None else next(iter(entries.values()), None)
    if given is None:
        raise ValueError("a classifier guides towards labels: give some")
    return given


def check_labels(classifier: Any, shown: Any) -> None:
    """Raises ValueError where a condition asks a classifier for a class that it does not know."""
    for name, told in getattr(classifier, "conditioners", ()):
        labels = shown.get(name) if isinstance(shown, dict) else None
        if labels is None or isinstance(labels, jax.core.Tracer):
            continue
        last = len(told.class_names) - 1
        wrong = [int(label) for label in np.asarray(labels) if label > last]
        if wrong:
            raise ValueError(f"{name} must lie in [0, {last}] beside a classifier; got {wrong[0]}")


def scale_of(classifier: Any, scale: ArrayLike | None, form: str) -> ArrayLike:
    """A classifier's strength, 1 when None.

    Raises:
      ValueError: There is no such form; or a strength or another form than the first is given, and
        no classifier.
    """
    if form not in FORMS:
        raise ValueError(f"classifier_form must be one of {', '.join(FORMS)}; got {form!r}")
    if classifier is None and (scale is not None or form != FORMS[0]):
        name = "classifier_form" if scale is None else "classifier_scale"
        raise ValueError(f"{name} needs a classifier beside it")
    return 1.0 if scale is None else scale


def solver_of(solver: Any, classifier: Any, scale: ArrayLike | None, form: str, method: Any) -> Any:
    """The solver, its mean shifted by the classifier if that is the form.

    Args:
      solver: The solver, or its name; None for the default.
      classifier: The classifier; None shifts nothing.
      scale: Its strength; 1 when None.
      form: One of `FORMS`.
      method: The guidance beside it.

    Raises:
      ValueError: There is no such form or solver, the solver has no mean that can be shifted, or
        the guidance is off at some noise levels.
    """
    scale = scale_of(classifier, scale, form)
    if solver is not None:
        solver = made(SOLVERS, solver, "solver", lambda s: isinstance(s, Solver))
    if classifier is None or form == "eps":
        return solver
    if not isinstance(solver, Ancestral):
        raise ValueError("classifier_form mean shifts the mean of Ancestral, no other solver's")
    if method.bounded:
        raise ValueError("guidance.low and .high do not limit classifier_form mean")
    return dataclasses.replace(solver, shift=guidance.ascent(log_prob_of(classifier), w=scale))


def check(model: Any, classifier: Any) -> None:
    """Raises ValueError where a classifier cannot guide a model."""
    log_prob_of(classifier)
    if classifier.shape != model.shape:
        raise ValueError(f"{classifier!r} is of z of {classifier.shape}, {model!r} {model.shape}")
    ((entry, told),) = classifier.conditioners
    own = dict(model.conditioners)
    if own and set(own) != {entry}:
        raise ValueError(f"a classifier of {entry} cannot guide a model of {', '.join(own)}")
    held = own[entry].class_names if own else model.class_names
    if held and len(held) != len(told.class_names):
        raise ValueError(f"the classifier has {len(told.class_names)} classes, not {len(held)}")
