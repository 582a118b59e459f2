"""What a recipe says beside its kinds: how to train, over which devices, and how to sample."""

import dataclasses
import math
import re
from typing import Any

from ml_collections import ConfigDict

from cfg_jax.recipe import nodes
from cfg_jax.recipe.signature import told


def _whole(name: str, value: int, low: int, high: int = 2**31 - 1) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """How a run samples where a command does not say otherwise.

    Attributes:
      w: Guidance strength, in [-1e6, 1e6]: 0 is no guidance.
      steps: Steps of the solver, from 1 to 10,000.
      solver: The solver; None is the default of `cfg_jax.sample`.
      grid: The noise levels that it visits; None is the default of `cfg_jax.sample`.
      clip: What keeps x̂ within the codec's bound; None does not.
    """

    w: float = 0.3
    steps: int = 20
    solver: Any = None
    grid: Any = None
    clip: Any = None

    def __post_init__(self):
        if not abs(self.w) <= 1e6:
            raise ValueError(f"w must lie in [-1e6, 1e6], got {self.w}")
        _whole("steps", self.steps, 1, 10_000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """How a run trains.

    Attributes:
      seed: Random seed, in [0, 2³²).
      init: The run whose network training begins with, "DIRECTORY" or "DIRECTORY:STEP"; "" for a
        random one.
      steps: Steps of the optimiser, at least 1.
      batch_size: Examples of a step over all devices, at most 2²⁰.
      accumulate: Parts that a batch's gradient is computed in, one after another; it divides
        batch_size.
      max_skipped: Steps that may be skipped because their gradient is not finite.
      spike: Standard deviations above its mean at which a loss is reported; 0 for never.
      data_timeout: Seconds without a batch that stop the run, positive.
      checkpoint_every: Steps between checkpoints, at least 1.
      keep: Newest checkpoints that are kept, at least 1.
      keep_every: Checkpoints of this step's multiples are kept for good; 0 for none.
      log_every: Steps between rows of metrics.jsonl, at least 1.
      sample_every: Steps between grids of samples; 0 for none.
      tensorboard: Whether to write TensorBoard events as well (needs tensorboardX).
    """

    seed: int = 0
    init: str = ""
    steps: int = 100_000
    batch_size: int = 128
    accumulate: int = 1
    max_skipped: int = 0
    spike: float = 10.0
    data_timeout: float = 600.0
    checkpoint_every: int = 5_000
    keep: int = 3
    keep_every: int = 0
    log_every: int = 100
    sample_every: int = 5_000
    tensorboard: bool = False

    def __post_init__(self):
        _whole("seed", self.seed, 0, 2**32 - 1)
        _whole("batch_size", self.batch_size, 1, 2**20)
        for name in ("steps", "accumulate", "checkpoint_every", "keep", "log_every"):
            _whole(name, getattr(self, name), 1)
        for name in ("max_skipped", "keep_every", "sample_every"):
            _whole(name, getattr(self, name), 0)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide batch_size, {self.batch_size}, got {self.accumulate}"
            )
        if not 0.0 <= self.spike < math.inf:
            raise ValueError(f"spike must be at least 0 and finite, got {self.spike}")
        if not 0.0 < self.data_timeout < math.inf:
            raise ValueError(f"data_timeout must be positive and finite, got {self.data_timeout}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """The devices of a run, and how arrays lie on them; see `cfg_jax.runtime.mesh`.

    Attributes:
      fsdp: Devices that share one copy of parameters and optimiser state, at least 1.
      rules: (regular expression, dimension to split) pairs: a number, "largest" or "whole". The
        first that matches a parameter's path decides.
      min_size: Arrays of fewer entries stay whole.
    """

    fsdp: int = 1
    rules: tuple = ((".*", "largest"),)
    min_size: int = 65_536

    def __post_init__(self):
        _whole("fsdp", self.fsdp, 1)
        _whole("min_size", self.min_size, 0, 2**63 - 1)
        if not self.rules:
            raise ValueError('rules must hold one rule at least, such as (".*", "whole")')
        for rule in self.rules:
            try:
                pattern, chosen = rule
                re.compile(pattern)
            except (TypeError, ValueError, RecursionError, OverflowError, re.error):
                raise ValueError(
                    f"rules must be (regular expression, dimension) pairs, got {told(rule)}"
                ) from None
            is_number = isinstance(chosen, int) and not isinstance(chosen, bool)
            if chosen not in ("largest", "whole") and not is_number:
                raise ValueError(
                    f'rules must split along a number, "largest" or "whole", got {told(chosen)}'
                )


BLOCKS: dict[str, type] = {"sample": Sample, "train": Train, "mesh": Mesh}
"""The groups of plain fields in a recipe, by their names."""


def block(config: ConfigDict, name: str) -> Any:
    """The object of one of `BLOCKS`: `block(config, "train").steps`, nested nodes made.

    Raises:
      ValueError: A field is unknown, out of range or of another type; its path is named.
    """
    path = f"config.{name}"
    if not hasattr(config[name], "items"):
        raise ValueError(f"{path} must be a group of fields, got {told(config[name])}")
    given = nodes.arguments(BLOCKS[name], dict(config[name].items()), path)
    try:
        return BLOCKS[name](**given)
    except ValueError as error:
        raise ValueError(nodes.located(path, error, given)) from error


def plain_block(name: str, **changed: Any) -> Any:
    """The fields of one of `BLOCKS` with their defaults, as a recipe holds them."""
    known = {field.name: field.default for field in dataclasses.fields(BLOCKS[name])}
    return nodes.group(known | changed)
