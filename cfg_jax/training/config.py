"""What a recipe may say, with its defaults, and the objects it stands for."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cfg_jax.diffusion import checks, schedules
from cfg_jax.diffusion.schedules import Schedule
from cfg_jax.models import UNet
from cfg_jax.sampling import grids, solvers
from cfg_jax.sampling.grids import Grid
from cfg_jax.sampling.solvers import Solver

SCHEDULES = {"cosine": schedules.Cosine, "uniform": schedules.Uniform}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
DECAYS = ("constant", "cosine")
SOLVERS = ("default", *solvers.SOLVERS)

MAY_CHANGE = {
    "data.dir",
    "data.workers",
    "data.skip_bad",
    "model.remat",
    "train.checkpoint_every",
    "train.keep",
    "train.log_every",
    "train.sample_every",
    "train.tensorboard",
}
"""Fields that a run may change when it goes on: they do not change what is trained."""


def default() -> ConfigDict:
    """Every field of a recipe; a recipe changes what it needs to.

    Returns:
      A locked config: assigning a field that does not exist raises AttributeError.
    """
    config = ConfigDict()

    config.data = ConfigDict()
    config.data.name = "digits"  # digits | folder | tfds:NAME
    config.data.path = ""  # folder: a directory or zip of class folders
    config.data.test_path = ""  # folder: held-out images; "" holds out a part of `path`
    config.data.held_out = 0.1  # folder: the part held out where there is no test_path
    config.data.image_size = (
        0  # folder: resize and crop to this square; 0 keeps the images' own size
    )
    config.data.channels = 3  # folder: 1 or 3
    config.data.skip_bad = False  # folder: leave unreadable files out instead of stopping
    config.data.dir = ""  # where prepared data lies; "" is TFDS's own place
    config.data.flip = False  # mirror half of the images, at random
    config.data.workers = 0  # processes that read; 0 reads in threads of this one

    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # cosine | uniform
    config.schedule.logsnr_min = -20.0
    config.schedule.logsnr_max = 20.0

    config.p_uncond = 0.1  # how often training hides the label

    config.model = ConfigDict()
    config.model.conditional = True
    config.model.channels = 64
    config.model.channel_mult = (1, 2, 2)
    config.model.blocks = 2
    config.model.attention_resolutions = (16, 8)
    config.model.head_channels = 64
    config.model.dropout = 0.0
    config.model.dtype = "float32"  # float32 | bfloat16: of the activations
    config.model.remat = False

    config.optim = ConfigDict()
    config.optim.learning_rate = 1e-4
    config.optim.warmup = 0  # steps of linear warm-up
    config.optim.decay = "constant"  # constant | cosine, to zero at train.steps
    config.optim.b1 = 0.9
    config.optim.b2 = 0.999
    config.optim.clip_norm = 1.0  # of the gradient's global norm

    config.train = ConfigDict()
    config.train.seed = 0
    config.train.steps = 100_000
    config.train.batch_size = 128  # over all devices
    config.train.ema = 0.9999  # decay; ramped up over the first steps
    config.train.checkpoint_every = 5_000
    config.train.keep = 3  # checkpoints
    config.train.log_every = 100
    config.train.sample_every = 5_000  # a grid of images; 0 for none
    config.train.tensorboard = False  # also write TensorBoard events (needs tensorboardX)

    config.sample = ConfigDict()
    config.sample.w = 0.3
    config.sample.steps = 256
    config.sample.solver = "ancestral"  # default | ancestral | ddim | euler | heun | dpmpp | unipc
    config.sample.grid = "uniform_u"  # uniform_u | uniform_logsnr | karras | secant
    config.sample.v = 0.3  # of ancestral
    config.sample.eta = 0.0  # of ddim and dpmpp
    config.sample.order = 2  # of dpmpp and unipc
    return config.lock()


def _one_of(name: str, value: Any, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"config.{name} must be one of {', '.join(allowed)}; got {value!r}")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"config.{name} must be at least {least}; got {value}")


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the field, where a value is outside what is allowed."""
    _one_of("schedule.name", config.schedule.name, SCHEDULES)
    _one_of("model.dtype", config.model.dtype, DTYPES)
    _one_of("optim.decay", config.optim.decay, DECAYS)
    _one_of("sample.solver", config.sample.solver, SOLVERS)
    _one_of("sample.grid", config.sample.grid, grids.GRIDS)
    for name in ("steps", "batch_size", "checkpoint_every", "keep", "log_every"):
        _at_least(f"train.{name}", config.train[name], 1)
    _at_least("sample.steps", config.sample.steps, 1)
    for name in ("channels", "blocks", "head_channels"):
        _at_least(f"model.{name}", config.model[name], 1)
    for name, value in {
        "optim.warmup": config.optim.warmup,
        "train.sample_every": config.train.sample_every,
        "data.workers": config.data.workers,
        "optim.learning_rate": config.optim.learning_rate,
    }.items():
        _at_least(name, value, 0)
    for name, value in {
        "p_uncond": config.p_uncond,
        "model.dropout": config.model.dropout,
        "train.ema": config.train.ema,
        "sample.v": config.sample.v,
        "sample.eta": config.sample.eta,
    }.items():
        checks.within(f"config.{name}", value, 0.0, 1.0)
    checks.finite("config.sample.w", config.sample.w)
    schedule(config)
    solver(config)


def schedule(config: ConfigDict) -> Schedule:
    """The p(λ) that a config names."""
    kind = SCHEDULES[config.schedule.name]
    return kind(logsnr_min=config.schedule.logsnr_min, logsnr_max=config.schedule.logsnr_max)


def solver(config: ConfigDict) -> Solver | None:
    """The solver that a config names, with those of the knobs that it has; None for the default.

    Raises:
      ValueError: There is no such solver, or a knob is out of range.
    """
    name = config.sample.solver
    _one_of("sample.solver", name, SOLVERS)
    if name == "default":
        return None
    kind = solvers.SOLVERS[name]
    knobs = {field.name for field in dataclasses.fields(kind)} & {"v", "eta", "order"}
    return kind(**{knob: config.sample[knob] for knob in knobs})


def grid(config: ConfigDict) -> Grid | None:
    """The grid that a config names; None where the default solver brings its own.

    Raises:
      ValueError: There is no such grid.
    """
    _one_of("sample.grid", config.sample.grid, grids.GRIDS)
    return None if config.sample.solver == "default" else grids.GRIDS[config.sample.grid]()


def network(config: ConfigDict, num_classes: int) -> UNet:
    """The U-Net that a config describes, for data of so many classes."""
    return UNet(
        channels=config.model.channels,
        channel_mult=tuple(config.model.channel_mult),
        blocks=config.model.blocks,
        attention_resolutions=tuple(config.model.attention_resolutions),
        head_channels=config.model.head_channels,
        num_classes=num_classes if config.model.conditional else 0,
        dropout=config.model.dropout,
        dtype=DTYPES[config.model.dtype],
        remat=config.model.remat,
    )


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam behind a clip of the gradient's global norm, with warm-up and decay."""
    optim = config.optim
    after = max(config.train.steps - optim.warmup, 1)
    decayed = {
        "constant": optax.constant_schedule(optim.learning_rate),
        "cosine": optax.cosine_decay_schedule(optim.learning_rate, after),
    }[optim.decay]
    warmup = optax.linear_schedule(0.0, optim.learning_rate, optim.warmup)
    rate = optax.join_schedules([warmup, decayed], [optim.warmup]) if optim.warmup else decayed
    return optax.chain(
        optax.clip_by_global_norm(optim.clip_norm), optax.adam(rate, b1=optim.b1, b2=optim.b2)
    )


def flatten(config: ConfigDict) -> dict[str, Any]:
    """A config as one level of plain values: {"train.steps": 1000, …}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{name}.{inner}": v for inner, v in flatten(value).items()})
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def unflatten(flat: dict[str, Any]) -> ConfigDict:
    """The config that `flatten` made a dictionary of; a field it lacks keeps its default."""
    config = default()
    for name, value in flat.items():
        config.update_from_flattened_dict(
            {name: tuple(value) if isinstance(value, list) else value}
        )
    return config


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Where two configs would train different things, a line a field: `name: old -> new`.

    More steps only go on, unless the learning rate's decay is stretched over them.
    """
    before, after = flatten(old), flatten(new)
    free = MAY_CHANGE | ({"train.steps"} if new.optim.decay == "constant" else set())
    free |= {name for name in before if name.startswith("sample.")}
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if name not in free and before.get(name) != after.get(name)
    ]
