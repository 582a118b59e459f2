"""The command `plan`: what a recipe needs on a TPU slice, before there is one."""

import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from cfg_jax import recipe
from cfg_jax.cli import flagging, say
from cfg_jax.parts import Facts
from cfg_jax.planning import topology as topologies
from cfg_jax.planning.plan import make_plan, search
from cfg_jax.planning.report import markdown
from cfg_jax.planning.search import Trial
from cfg_jax.runtime.files import atomic

PURPOSE = """Says whether a recipe's training step and sampler fit a slice of a TPU pod, and how
fast they can be at best. Compiles both with the real TPU compiler, which needs no TPU but minutes:
what was compiled once is kept. Nothing is run, and no data of the TFDS catalogue is downloaded."""


def run(argv: list[str]) -> None:
    """Parses the arguments, compiles, and prints the plan."""
    defined = flags.FlagValues()
    flagging.define_config(defined)
    flags.DEFINE_string(
        "topology", None, f"the slice, such as {topologies.EXAMPLES}", flag_values=defined
    )
    flags.DEFINE_integer(
        "fsdp",
        None,
        "chips that share one copy of parameters and optimiser state; the recipe's mesh.fsdp if "
        "not given",
        flag_values=defined,
    )
    flags.DEFINE_string(
        "shape",
        None,
        "one example's sides and channels, such as 64,64,3; the data's if not given",
        flag_values=defined,
    )
    flags.DEFINE_integer(
        "classes", None, "of the data; the data's if not given", flag_values=defined
    )
    flags.DEFINE_boolean(
        "search", False, "plan for the largest batch that fits", flag_values=defined
    )
    flags.DEFINE_integer(
        "samples",
        None,
        "images sampled at a time, over all chips; 0 leaves the sampler out; a training batch if "
        "not given",
        flag_values=defined,
    )
    flags.DEFINE_string(
        "out", None, "a Markdown file, .md, to write it to as well", flag_values=defined
    )
    values = flagging.parse(defined, "plan", PURPOSE, argv)
    config = flagging.config(values)
    if values["fsdp"] is not None:
        config.mesh.fsdp = values["fsdp"]
    if values["samples"] is not None and values["samples"] < 0:
        raise ValueError(f"--samples must be at least 0, got {values['samples']}")
    out = flagging.written(values, "out", ".md") if values["out"] is not None else None
    slice_ = topologies.load(flagging.required(values, "topology"))
    there: dict[str, Any] = {"facts": _facts(values, config), "report": _say}
    if out:
        flagging.folder_of(out)
    trials: list[Trial] = []
    if values["search"]:
        config, trials = search(config, slice_, **there)
    plan = make_plan(config, slice_, samples=values["samples"], **there)
    name = Path(values["config"]).stem
    text = markdown(plan, title=name, trials=trials)
    if out:
        with atomic(out) as file:
            file.write(f"{text}\n    python -m cfg_jax plan {shlex.join(argv)}\n".encode())
    say(text.removesuffix("\n"))


def _facts(values: dict[str, Any], config: ConfigDict) -> Facts:
    """What is known of the data, as the flags or else the data say."""
    given, classes = values["shape"], values["classes"]
    if classes is not None and classes < 0:
        raise ValueError(f"--classes must be at least 0, got {classes}")
    if given and classes is not None:
        arrays = {"label": jax.ShapeDtypeStruct((), np.int32)} if classes else {}
        return Facts(_shape(given), tuple(map(str, range(classes))), arrays)
    facts = recipe.make(config.data, "data", path="config.data").peek()
    if given:
        facts = facts._replace(shape=_shape(given))
    if classes is not None:
        facts = facts._replace(class_names=tuple(map(str, range(classes))))
    return facts


def _shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) not in (2, 3, 4) or not all(p.strip().isdecimal() and int(p) for p in parts):
        raise ValueError(
            f"--shape takes one example's sides and channels, such as 64,64,3; got {text!r}"
        )
    return tuple(int(part) for part in parts)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
