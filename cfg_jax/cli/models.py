"""The model that a command samples from: the flags that name it, and those that say how."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from cfg_jax import beside, recipe
from cfg_jax.blueprint import conditioners_of
from cfg_jax.cli import flagging, recipes
from cfg_jax.exchange import ELSEWHERE
from cfg_jax.loading import describe, load, sampling_as
from cfg_jax.model import Model
from cfg_jax.parts import Conditioner

PLACES = {
    "solver": "sample.solver",
    "grid": "sample.grid",
    "clip": "sample.clip",
    "guidance": "guidance",
    "steps": "sample.steps",
    "condition": "condition",
}
"""The flags that change how a model samples, by the part of the recipe that each stands for."""


STRONGEST = 1e6
"""The strength of guidance, of either sign, at most."""


class Chosen(NamedTuple):
    """What a command samples from.

    Attributes:
      model: The model, sampling as the flags say.
      config: Its recipe, with these changes.
      classifier: The noisy classifier that guides as well; None without.
    """

    model: Model
    config: Any
    classifier: Model | None


def split(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Flags such as --solver.gamma=0.1 as fields of a recipe and their values, and the others."""
    changes, others = [], []
    arguments = iter(argv)
    for argument in arguments:
        match = re.fullmatch(r"--?([a-z]+)((?:\.\w+)*)(?:=(.*))?", argument, re.DOTALL)
        if match is None or match[1] not in PLACES:
            others.append(argument)
            continue
        value = next(arguments, None) if match[3] is None else match[3]
        if value is None or (match[3] is None and value.startswith("--")):
            raise ValueError(f"{argument} needs a value: {argument}=VALUE")
        changes.append((PLACES[match[1]] + match[2], value))
    return changes, others


def place_of(argv: Sequence[str], *names: str) -> str | None:
    """The value of the first of some flags that is given, before the others are known."""
    for i, argument in enumerate(argv):
        match = re.fullmatch(rf"--?(?:{'|'.join(names)})(?:=(.*))?", argument, re.DOTALL)
        if match:
            return match[1] if match[1] is not None else (*argv[i + 1 :], None)[0]
    return None


def conditioners(argv: Sequence[str]) -> tuple[tuple[str, Conditioner], ...]:
    """The conditioners of the model that the arguments name, or else of the classifier.

    An unconditional model is guided towards the classifier's labels. Without a model: none.
    """
    for names in (("workdir", "model"), ("classifier",)):
        place = place_of(argv, *names)
        if not place:
            return ()
        description = describe(flagging.expanded(place, f"--{names[0]}"))
        if found := conditioners_of(description.config, description.facts):
            return found
    return ()


def flag_of(name: str, made: Conditioner) -> str:
    """The flag of an entry of the condition."""
    return made.flag or f"{name}{made.flag_suffix}"


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags that every command that samples has, those of the model's condition among them."""
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text("workdir", None, "the run to sample from", flag_values=values)
    text("model", None, "anything that cfg_jax.load takes, in its place", flag_values=values)
    whole("step", None, "its checkpoint; the newest if not given", flag_values=values)
    text("ema", None, "which moving average: its name, decay or width", flag_values=values)
    whole("seed", 0, "random seed of the noise, in [0, 2³²)", flag_values=values)
    whole("batch", 256, "samples at a time, over the devices of a process", flag_values=values)
    text("classifier", None, "the run of a noisy classifier, which guides too", flag_values=values)
    text(
        "classifier-form",
        beside.FORMS[0],
        "eps: it moves ε̂; mean: the mean of an Ancestral step",
        flag_values=values,
    )
    text("data-path", None, "the run's data, if they have moved", flag_values=values)
    for name, made in conditioners(argv):
        if made.help:
            text(flag_of(name, made), None, made.help, flag_values=values)
        if made.negative_flag:
            told = f"a {name} that guidance leads away from, one for all samples"
            text(made.negative_flag, None, told, flag_values=values)


def negative(model: Model, values: dict[str, Any]) -> dict[str, Any]:
    """What the flags put in the null's place, by entries' names."""
    return {
        name: made.parse(values[made.negative_flag])
        for name, made in model.conditioners
        if made.negative_flag and values[made.negative_flag] is not None
    }


def help_of_sampling() -> str:
    """What --help says of the flags that stand for fields of the recipe."""
    lines = [
        "How to sample, each the recipe's if not given; a kind begins with its own defaults:\n"
    ]
    for flag, path in PLACES.items():
        kinds = recipes.kinds_of(path)
        lines.append(f"  --{flag}" + (f"\n      one of {', '.join(kinds)}" if kinds else ""))
        lines += [f"  --{flag}.{field}\n      {told}" for field, told in recipes.fields_of(path)]
    return "\n".join(lines)


def chosen(
    place: Path, model: Model, values: dict[str, Any], changes: Sequence[tuple[str, str]]
) -> Chosen:
    """A model that samples as the flags say, and the classifier that is to guide it.

    Args:
      place: Where the model lies.
      model: As `named` read it.
      values: The flags.
      changes: From `split`.

    Raises:
      ValueError: A flag is missing or wrong, or something cannot be read.
    """
    if model.kind is None:
        raise ValueError(f"{place} holds a {model.role}, not a diffusion model")
    config = recipe.copied(describe(place).config)
    recipe.override_all(config, changes)
    model = sampling_as(model, config)
    return Chosen(model, config, _classifier(model, values))


def named(values: dict[str, Any]) -> tuple[Path, Model]:
    """The place that --workdir or --model names, and the model there.

    Raises:
      ValueError: Both are given or neither, nothing can be read there, or --batch or --seed is out
        of range.
    """
    if values["batch"] < 1:
        raise ValueError(f"--batch must be at least 1, got {values['batch']}")
    if not 0 <= values["seed"] < 2**32:
        raise ValueError(f"--seed must lie in [0, {2**32 - 1}], got {values['seed']}")
    if values["workdir"] and values["model"]:
        raise ValueError("give --workdir or --model, not both")
    place = flagging.path(values, "model" if values["model"] else "workdir")
    return place, _whole(place, load(place, step=values["step"], ema=average(values["ema"])))


def _whole(place: Any, model: Model) -> Model:
    """The model, whose parameters are numbers.

    Raises:
      ValueError: One is NaN or infinite.
    """
    for path, leaf in jax.tree.leaves_with_path(model.params):
        if not bool(jnp.all(jnp.isfinite(leaf))):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"the parameters of {place} are not finite: {name}")
    return model


def average(text: str | None) -> Any:
    """A moving average's name, or its number."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _classifier(model: Model, values: dict[str, Any]) -> Model | None:
    if values["classifier"] is None:
        for name, default in (("classifier-scale", None), ("classifier-form", beside.FORMS[0])):
            if values[name] != default:
                raise ValueError(f"--{name} needs --classifier beside it")
        return None
    place = flagging.path(values, "classifier")
    noisy = _whole(place, load(place))
    if noisy.kind is not None:
        raise ValueError(f"{values['classifier']} holds a diffusion model, not a noisy classifier")
    beside.check(model, noisy)
    return noisy


def guiding(
    classifier: Model | None, values: dict[str, Any], *, w: float, scale: float
) -> dict[str, Any]:
    """How strongly what is to guide, as arguments of `Model.sample`."""
    if classifier is None:
        return {"w": w}
    form = values["classifier-form"]
    return {
        "w": w,
        "classifier": classifier,
        "classifier_scale": scale,
        "classifier_form": form,
    }


def data_of(config: Any, path: str | None) -> Any:
    """The data of a recipe, that may have moved.

    Raises:
      ValueError: The recipe's data lie at no path.
    """
    if path and "path" not in config.data:
        raise ValueError(
            f"--data-path is where data have moved, and {config.data.kind} has no path"
        )
    if path:
        recipe.override(config, "data.path", path)
    elif config.data.get("path", None) == ELSEWHERE:
        raise ValueError("the model was trained elsewhere: give its data as --data-path")
    return recipe.make(config.data, "data", path="config.data")
