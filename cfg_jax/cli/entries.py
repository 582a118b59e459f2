"""The conditions that a command samples under: named by flags, held by files, or lent by data."""

from typing import Any, NamedTuple

import numpy as np

from cfg_jax import beside
from cfg_jax.cli import models
from cfg_jax.cli.models import Chosen
from cfg_jax.data import Dataset
from cfg_jax.evaluation.of_model import by_label, check_data
from cfg_jax.exchange import ELSEWHERE
from cfg_jax.model import Model
from cfg_jax.parts import Conditioner
from cfg_jax.runtime.files import read_arrays


class Asked(NamedTuple):
    """What is sampled.

    Attributes:
      entries: The values of each entry of the condition, one a sample; none for a network that
        takes none.
      number: The number of samples.
      columns: Samples of one value, which make a row.
      lent: The examples that lent their conditions, as floats; None where none did.
      made: What makes each entry.
    """

    entries: dict[str, Any]
    number: int
    columns: int
    lent: np.ndarray | None
    made: dict[str, Conditioner]


def asked(chosen: Chosen, values: dict[str, Any]) -> Asked:
    """What the flags ask for.

    Raises:
      ValueError: A flag is wrong, or does not belong to this model; or files do not fit together.
    """
    made = dict(chosen.model.conditioners or _of_classifier(chosen.classifier))
    per = values["per-label"]
    if not 1 <= per <= 1_000_000:
        raise ValueError(f"--per-label must lie in [1, 1000000], got {per}")
    given = {
        name: values[models.flag_of(name, conditioner)]
        for name, conditioner in made.items()
        if values.get(models.flag_of(name, conditioner)) is not None
    }
    if not made:
        return Asked({}, per, per, None, {})
    held = chosen.model.condition_params
    parsed = {name: _parsed(made[name], text, held.get(name)) for name, text in given.items()}
    lists = {name: value for name, value in parsed.items() if isinstance(value, list)}
    beside.check_labels(chosen.classifier, lists)
    arrays = {name: value for name, value in parsed.items() if name not in lists}
    nameable = all(conditioner.every() is not None for conditioner in made.values())
    named = len(made) == 1 and (nameable or bool(lists))
    if values["data-path"] and (arrays or named):
        raise ValueError("--data-path is where held-out data lend their conditions; none do here")
    if arrays:
        return _of_files(made, given, arrays, lists, per)
    if named:
        ((name, conditioner),) = made.items()
        found = lists.get(name) or conditioner.every()
        repeated = [value for value in found for _ in range(per)]
        return Asked({name: repeated}, len(repeated), per, None, made)
    return _of_data(chosen, values, lists, per)


def _parsed(conditioner: Any, text: str, params: Any) -> Any:
    """What a flag's text gives; a mistake shows before anything is made.

    Raises:
      ValueError: It is no such entry, in the words of the conditioner, which may be a user's own.
    """
    try:
        value = conditioner.parse(text)
        conditioner.given(value, params)
    except ValueError as error:
        raise ValueError(str(error)) from error
    return value


def _of_classifier(classifier: Model | None) -> Any:
    return () if classifier is None else classifier.conditioners


def _of_files(
    made: dict[str, Any], given: dict[str, str], arrays: dict[str, Any], lists: Any, per: int
) -> Asked:
    """The entries that files hold, each file's own and those that lie beside it."""
    if lists:
        raise ValueError(f"files bring their own {', '.join(lists)}: name them there")
    found = dict(arrays)
    for name, conditioner in made.items():
        for text in given.values():
            if name not in found:
                held = conditioner.found(read_arrays(text, (name, "arr_1")))
                found |= {} if held is None else {name: held}
    missing = [name for name in made if name not in found]
    if missing:
        raise ValueError(
            f"{', '.join(given.values())} holds no {missing[0]}, which the model takes"
        )
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the files should be of the same number of examples, got {lengths}")
    return Asked(found, next(iter(lengths.values())), per, None, made)


def _of_data(chosen: Chosen, values: dict[str, Any], lists: dict[str, Any], per: int) -> Asked:
    """What held-out data lend."""
    model = chosen.model
    data = held_out(chosen, values["data-path"])
    labels = list(range(data.num_classes))
    for name, listed in lists.items():
        labels = [int(n) for n in dict(model.conditioners)[name].classes(listed)]
    examples = [data.source[number] for number in by_label(data, labels, per)]
    entries, x = model.lend(examples)
    return Asked(entries, len(x), per, x, dict(model.conditioners))


def held_out(chosen: Chosen, path: str | None) -> Dataset:
    """The held-out part of a run's data, that may have moved.

    Raises:
      ValueError: The run has no data, or they are others.
    """
    if not path and chosen.config.data.get("path", None) == ELSEWHERE:
        flags = [f"--{models.flag_of(name, made)}" for name, made in chosen.model.conditioners]
        raise ValueError(
            f"give {' and '.join(flags)}, or --data-path: {chosen.model!r} has no data of its own"
        )
    data = models.data_of(chosen.config, path).open("test")
    check_data(chosen.model, data)
    return data
