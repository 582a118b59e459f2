"""What a recipe may say, with its defaults, and the objects it stands for."""

import dataclasses
import functools
import re
from typing import Any

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from cfg_jax.diffusion import checks, objective, schedules
from cfg_jax.diffusion.condition import KEPT
from cfg_jax.diffusion.schedules import DiscreteSchedule, Schedule
from cfg_jax.networks import Encoder, UNet
from cfg_jax.networks.blocks import REMAT, RESAMPLE
from cfg_jax.networks.unet import LearnedVariance, joined
from cfg_jax.nn.layers import LevelFeatures, TimestepFeatures, noise_level_features
from cfg_jax.optim.averages import Average, Constant, Power, exponent
from cfg_jax.sampling import grids, solvers
from cfg_jax.sampling.grids import Grid
from cfg_jax.sampling.solvers import Solver
from cfg_jax.training import guided
from cfg_jax.training.step import Loss

SCHEDULES = {"cosine": schedules.Cosine, "uniform": schedules.Uniform}
DISCRETE = {"linear_beta": schedules.LinearBeta, "cosine_beta": schedules.CosineBeta}
TOLD = ("logsnr", "timestep", "rescaled_timestep")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
DECAYS = ("constant", "cosine")
OBJECTIVES = ("diffusion", "classifier")
SOLVERS = ("default", *solvers.SOLVERS)

MAY_CHANGE = {
    "data.dir",
    "data.workers",
    "data.skip_bad",
    "mesh.fsdp",
    "mesh.min_size",
    "mesh.rules",
    "model.remat",
    "train.accumulate",
    "train.checkpoint_every",
    "train.data_timeout",
    "train.keep",
    "train.keep_every",
    "train.log_every",
    "train.max_skipped",
    "train.sample_every",
    "train.spike",
    "train.tensorboard",
}
"""Fields that a run may change when it goes on: they do not change what is trained."""


def default() -> ConfigDict:
    """Every field of a recipe; a recipe changes what it needs to.

    Returns:
      A locked config: assigning a field that does not exist raises AttributeError.
    """
    config = ConfigDict()

    config.objective = "diffusion"  # diffusion | classifier: of ε, or p(c|z_λ) to guide with

    config.data = ConfigDict()
    config.data.name = "digits"  # digits | folder | npz | tfds:NAME
    config.data.path = ""  # folder: a directory or zip of class folders; npz: a file, see README
    config.data.test_path = ""  # folder, npz: held-out images; "" holds out a part of `path`
    config.data.held_out = 0.1  # folder, npz: the part held out where there is no test_path
    config.data.image_size = (
        0  # folder: resize and crop to this square; 0 keeps the images' own size
    )
    config.data.channels = 3  # folder: 1 or 3
    config.data.skip_bad = False  # go on without images that cannot be read, instead of stopping
    config.data.dir = ""  # where prepared data lies; "" is TFDS's own place
    config.data.flip = False  # mirror half of the images, at random
    config.data.workers = 0  # processes that read; 0 reads in threads of this one

    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # cosine | uniform | linear_beta | cosine_beta
    config.schedule.logsnr_min = -20.0  # of cosine and uniform
    config.schedule.logsnr_max = 20.0  # of cosine and uniform
    config.schedule.timesteps = 1000  # of the betas: the number of noise levels
    config.schedule.spacing = "even"  # even | leading: of the betas, which of them sampling visits

    config.p_uncond = 0.1  # how often training hides label and vector

    config.small = ConfigDict()  # of the small images of model.upscale, made of the data's own
    config.small.p_uncond = 0.0  # how often training hides them too
    config.small.logsnr_min = placeholder(float)  # they are noised, down to this λ; None: never

    config.model = ConfigDict()
    config.model.conditional = True
    config.model.channels = 64
    config.model.channel_mult = (1, 2, 2)
    config.model.blocks = 2
    config.model.attention_resolutions = (16, 8)
    config.model.head_channels = 64
    config.model.heads = 0  # attention heads; 0 for as many as head_channels make
    config.model.resample = "residual"  # residual | conv: how levels change size
    config.model.told = "logsnr"  # logsnr | timestep | rescaled_timestep: what tells the noise
    config.model.null = True  # whether there is a label for none
    config.model.vector = 0  # length of the vectors that the data has beside images; 0 for none
    config.model.upscale = 0  # the factor by which small images are enlarged; 0 for no such network
    config.model.learned_variance = False  # whether it also tells the reverse variance
    config.model.dropout = 0.0
    config.model.dtype = "float32"  # float32 | bfloat16: of the activations
    config.model.remat = "none"  # none | products | blocks: what the backward pass recomputes

    config.vlb = ConfigDict()  # the bound that a learned variance learns from
    config.vlb.weight = 0.001
    config.vlb.steps = 256  # of the sampler that it bounds: as many as will be sampled with

    config.optim = ConfigDict()
    config.optim.learning_rate = 1e-4
    config.optim.warmup = 0  # steps of linear warm-up
    config.optim.decay = "constant"  # constant | cosine, to zero at train.steps
    config.optim.b1 = 0.9
    config.optim.b2 = 0.999
    config.optim.clip_norm = 1.0  # of the gradient's global norm
    config.optim.weight_decay = 0.0  # decoupled, of all parameters: AdamW; 0 is Adam

    config.train = ConfigDict()
    config.train.seed = 0
    config.train.steps = 100_000
    config.train.batch_size = 128  # over all devices
    config.train.accumulate = 1  # parts that a batch's gradient is computed in, one after another
    config.train.ema = (0.9999,)  # decays of moving averages; sampling takes the first
    config.train.ema_widths = ()  # σ_rel of power-function averages, see `training.averages`
    config.train.max_skipped = 0  # steps that may be skipped, their gradient not being finite
    config.train.spike = 10.0  # standard deviations above its mean that a loss is reported at; or 0
    config.train.data_timeout = 600.0  # seconds without a batch that stop the run
    config.train.checkpoint_every = 5_000
    config.train.keep = 3  # newest checkpoints that stay
    config.train.keep_every = 0  # steps whose multiples' checkpoints stay for good; 0 for none
    config.train.log_every = 100
    config.train.sample_every = 5_000  # a grid of images; 0 for none
    config.train.tensorboard = False  # also write TensorBoard events (needs tensorboardX)

    config.mesh = ConfigDict()
    config.mesh.fsdp = 1  # devices that share one copy of parameters and optimiser state
    config.mesh.rules = ((".*", "largest"),)  # (path, dimension to split), see `training.mesh`
    config.mesh.min_size = 65_536  # arrays of fewer entries stay whole

    config.sample = ConfigDict()
    config.sample.w = 0.3
    config.sample.steps = 256
    config.sample.solver = "ancestral"  # default | ancestral | ddim | euler | heun | dpmpp | unipc
    config.sample.grid = "uniform_u"  # uniform_u | uniform_logsnr | karras | secant
    config.sample.v = 0.3  # of ancestral
    config.sample.learned_v = False  # of ancestral: what the network tells, in the place of v
    config.sample.eta = 0.0  # of ddim and dpmpp
    config.sample.order = 2  # of dpmpp and unipc
    config.sample.clip = "static"  # static | dynamic | none: how x̂ is kept within [-1, 1]
    config.sample.percentile = 0.995  # of dynamic: of |x̂|, beyond which an example is shrunk
    config.sample.small_logsnr = placeholder(float)  # small images are noised to it; None: not

    # A knob that is None has the method's own default; see `training.guided`.
    config.guidance = ConfigDict()
    config.guidance.name = "classifier_free"  # see `training.guided.METHODS`
    config.guidance.hides = ("label", "vector")  # what it hides of: label, vector, small
    config.guidance.low = placeholder(float)  # no guidance below this λ …
    config.guidance.high = placeholder(float)  # … or from this one on
    config.guidance.cond = placeholder(int)  # of negative: the label to move away from
    config.guidance.conds = placeholder(tuple)  # of composed: further labels
    config.guidance.ws = placeholder(tuple)  # of composed: their weights, each times w
    config.guidance.eta = placeholder(float)  # of projected: the share of the parallel part
    config.guidance.norm_threshold = placeholder(float)  # of projected: the longest step
    config.guidance.phi = placeholder(float)  # of rescaled: 0 is plain guidance
    config.guidance.space = placeholder(str)  # of rescaled, zero_star: eps | x | v | velocity | …
    config.guidance.weak = placeholder(str)  # of autoguidance: WORKDIR, WORKDIR:STEP or :STEP
    return config.lock()


def _one_of(name: str, value: Any, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"config.{name} must be one of {', '.join(allowed)}; got {value!r}")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"config.{name} must be at least {least}; got {value}")


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the field, where a value is outside what is allowed."""
    _one_of("objective", config.objective, OBJECTIVES)
    _one_of("schedule.name", config.schedule.name, (*SCHEDULES, *DISCRETE))
    _one_of("model.dtype", config.model.dtype, DTYPES)
    _one_of("model.remat", config.model.remat, REMAT)
    _one_of("model.resample", config.model.resample, RESAMPLE)
    _one_of("model.told", config.model.told, TOLD)
    _one_of("optim.decay", config.optim.decay, DECAYS)
    _one_of("sample.solver", config.sample.solver, SOLVERS)
    _one_of("sample.grid", config.sample.grid, grids.GRIDS)
    for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "keep", "log_every"):
        _at_least(f"train.{name}", config.train[name], 1)
    _at_least("sample.steps", config.sample.steps, 1)
    _at_least("vlb.steps", config.vlb.steps, 1)
    for name in ("channels", "blocks", "head_channels"):
        _at_least(f"model.{name}", config.model[name], 1)
    for name, value in {
        "optim.warmup": config.optim.warmup,
        "train.sample_every": config.train.sample_every,
        "data.workers": config.data.workers,
        "optim.learning_rate": config.optim.learning_rate,
        "optim.weight_decay": config.optim.weight_decay,
        "train.max_skipped": config.train.max_skipped,
        "train.spike": config.train.spike,
        "train.keep_every": config.train.keep_every,
        "mesh.min_size": config.mesh.min_size,
        "model.heads": config.model.heads,
        "model.upscale": config.model.upscale,
        "model.vector": config.model.vector,
        "vlb.weight": config.vlb.weight,
    }.items():
        _at_least(name, value, 0)
    for name, value in {
        "p_uncond": config.p_uncond,
        "small.p_uncond": config.small.p_uncond,
        "model.dropout": config.model.dropout,
        "sample.v": config.sample.v,
        "sample.eta": config.sample.eta,
    }.items():
        checks.within(f"config.{name}", value, 0.0, 1.0)
    if not config.train.data_timeout > 0:
        raise ValueError(
            f"config.train.data_timeout must be above 0 seconds; got {config.train.data_timeout}"
        )
    checks.finite("config.sample.w", config.sample.w)
    if config.p_uncond and not config.model.null:
        raise ValueError("config.p_uncond must be 0 where config.model.null is False")
    if config.sample.learned_v and not config.model.learned_variance:
        raise ValueError("config.sample.learned_v needs a network with model.learned_variance")
    if config.objective == "classifier":
        _check_classifier(config)
    _check_small(config)
    level_features(config)
    guided.check(config)
    averages(config)
    _check_rules(config.mesh.rules)
    schedule(config)
    solver(config)
    readers = guided.SOLVERS_OF_EPS
    if config.guidance.name == "plus_plus" and config.sample.solver not in readers:
        raise ValueError(
            f"plus_plus guidance needs a sample.solver that reads ε̂, one of {', '.join(readers)}; "
            f"got {config.sample.solver!r}"
        )


def _check_classifier(config: ConfigDict) -> None:
    """A classifier always sees its label, and draws no samples."""
    wanted = {
        "p_uncond": 0,
        "train.sample_every": 0,
        "model.conditional": True,
        "model.learned_variance": False,
        "model.vector": 0,
        "model.upscale": 0,
    }
    held = flatten(config)
    for name, value in wanted.items():
        if held[name] != value:
            raise ValueError(
                f"config.{name} must be {value} where config.objective is classifier; "
                f"got {held[name]}"
            )


def _check_small(config: ConfigDict) -> None:
    """What is said of small images must be meant for a network that takes them."""
    small, levels = config.small, schedule(config)
    if "small" in config.guidance.hides and not small.p_uncond:
        raise ValueError("guidance.hides=small needs a network trained with small.p_uncond")
    if not config.model.upscale:
        for name, given in {
            "small.p_uncond": small.p_uncond != 0.0,
            "small.logsnr_min": small.logsnr_min is not None,
            "sample.small_logsnr": config.sample.small_logsnr is not None,
        }.items():
            if given:
                raise ValueError(f"config.{name} needs a network with model.upscale")
    if small.logsnr_min is not None:
        lowest, highest = levels.logsnr_min, levels.logsnr_max
        checks.within("config.small.logsnr_min", small.logsnr_min, lowest, highest)
        if config.sample.small_logsnr is not None:
            chosen = config.sample.small_logsnr
            checks.within("config.sample.small_logsnr", chosen, small.logsnr_min, highest)
    elif config.sample.small_logsnr is not None:
        raise ValueError("config.sample.small_logsnr needs a network trained with small.logsnr_min")


def check_data(config: ConfigDict, vector: int) -> None:
    """Raises ValueError where the network takes vectors of another length than the data have."""
    if config.model.vector not in (0, vector):
        have = f"vectors of length {vector}" if vector else "no vectors"
        raise ValueError(
            f"config.model.vector is {config.model.vector}, and the data {config.data.name} "
            f"have {have}"
        )


def _check_rules(rules: Any) -> None:
    for rule in rules:
        try:
            pattern, chosen = rule
            re.compile(pattern)
        except (TypeError, ValueError, re.error):
            raise ValueError(
                f"config.mesh.rules must be (regular expression, dimension) pairs; got {rule!r}"
            ) from None
        if chosen not in ("largest", "whole") and not isinstance(chosen, int):
            raise ValueError(
                "a dimension of config.mesh.rules must be a number, largest or whole; "
                f"got {chosen!r}"
            )


def schedule(config: ConfigDict) -> Schedule:
    """The p(λ) that a config names."""
    chosen = config.schedule
    if chosen.name in DISCRETE:
        return DISCRETE[chosen.name](steps=chosen.timesteps, spacing=chosen.spacing)
    kind = SCHEDULES[chosen.name]
    return kind(logsnr_min=chosen.logsnr_min, logsnr_max=chosen.logsnr_max)


def level_features(config: ConfigDict) -> LevelFeatures:
    """What a config's network is told of the noise level: λ, or the time step of its schedule.

    Raises:
      ValueError: It is to be a time step, and the schedule has none.
    """
    told, levels = config.model.told, schedule(config)
    if told == "logsnr":
        return noise_level_features
    if not isinstance(levels, DiscreteSchedule):
        raise ValueError(
            f"config.model.told={told} needs a schedule.name of time steps, one of "
            f"{', '.join(DISCRETE)}; got {config.schedule.name!r}"
        )
    return TimestepFeatures(schedule=levels, rescaled=told == "rescaled_timestep")


def solver(config: ConfigDict, network: UNet | None = None, params: Any = None) -> Solver | None:
    """The solver that a config names, with those of the knobs that it has; None for the default.

    Args:
      config: The recipe.
      network: The network, which tells ancestral its variance if `config.sample.learned_v`.
      params: Its variables.

    Raises:
      ValueError: There is no such solver, or a knob is out of range.
    """
    name = config.sample.solver
    _one_of("sample.solver", name, SOLVERS)
    if name == "default":
        return None
    made = solvers.SOLVERS[name](**{knob: config.sample[knob] for knob in knobs(config)})
    if network is not None and config.sample.learned_v and isinstance(made, solvers.Ancestral):
        return dataclasses.replace(made, v=LearnedVariance(network=network, params=params))
    return made


def knobs(config: ConfigDict) -> set[str]:
    """Which of v, eta and order the config's solver has."""
    if config.sample.solver == "default":
        return set()
    fields = dataclasses.fields(solvers.SOLVERS[config.sample.solver])
    return {field.name for field in fields} & {"v", "eta", "order"}


def grid(config: ConfigDict) -> Grid | None:
    """The grid that a config names; None where the default solver brings its own.

    Raises:
      ValueError: There is no such grid.
    """
    _one_of("sample.grid", config.sample.grid, grids.GRIDS)
    return None if config.sample.solver == "default" else grids.GRIDS[config.sample.grid]()


def trained(config: ConfigDict, num_classes: int) -> UNet | Encoder:
    """The network that a config trains, for data of so many classes.

    Raises:
      ValueError: It is a classifier, and the data have no classes.
    """
    if config.objective == "diffusion":
        return network(config, num_classes)
    if not num_classes:
        raise ValueError("config.objective=classifier needs data with labels")
    return encoder(config, num_classes)


def loss(config: ConfigDict) -> Loss:
    """What a config's network descends on."""
    if config.objective == "classifier":
        return objective.cross_entropy
    if not config.model.learned_variance:
        return objective.squared_error
    bound = functools.partial(
        objective.hybrid,
        schedule=schedule(config),
        steps=config.vlb.steps,
        weight=config.vlb.weight,
    )
    return lambda network, x, draw: bound(
        functools.partial(network, method="eps_and_variance"), x, draw
    )


def network(config: ConfigDict, num_classes: int) -> UNet:
    """The U-Net that a config describes, for data of so many classes."""
    return UNet(
        **_levels(config),
        num_classes=num_classes if config.model.conditional else 0,
        null=config.model.null,
        vector=config.model.vector,
        upscale=config.model.upscale,
        augmented=config.small.logsnr_min is not None,
        learned_variance=config.model.learned_variance,
    )


def null(config: ConfigDict, network: UNet) -> Any:
    """What a config's guidance puts into the place of the condition.

    Returns:
      A null that hides the parts which `config.guidance.hides` names and keeps the others; None
      where the network takes none of those.
    """
    nulls = network.nulls(null_logsnr=schedule(config).logsnr_min)
    if not set(nulls) & set(config.guidance.hides):
        return None
    hides = config.guidance.hides
    return joined({part: value if part in hides else KEPT for part, value in nulls.items()})


def encoder(config: ConfigDict, num_classes: int) -> Encoder:
    """The noisy classifier of a config's levels, for data of so many classes."""
    return Encoder(**_levels(config), num_classes=num_classes)


def _levels(config: ConfigDict) -> dict[str, Any]:
    """What U-Net and encoder share."""
    return {
        "channels": config.model.channels,
        "channel_mult": tuple(config.model.channel_mult),
        "blocks": config.model.blocks,
        "attention_resolutions": tuple(config.model.attention_resolutions),
        "head_channels": config.model.head_channels,
        "heads": config.model.heads,
        "resample": config.model.resample,
        "level_features": level_features(config),
        "dropout": config.model.dropout,
        "dtype": DTYPES[config.model.dtype],
        "remat": config.model.remat,
    }


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam or AdamW behind a clip of the gradient's global norm, with warm-up and decay."""
    optim = config.optim
    after = max(config.train.steps - optim.warmup, 1)
    decayed = {
        "constant": optax.constant_schedule(optim.learning_rate),
        "cosine": optax.cosine_decay_schedule(optim.learning_rate, after),
    }[optim.decay]
    warmup = optax.linear_schedule(0.0, optim.learning_rate, optim.warmup)
    rate = optax.join_schedules([warmup, decayed], [optim.warmup]) if optim.warmup else decayed
    adam = functools.partial(optax.adam, rate, b1=optim.b1, b2=optim.b2)
    if optim.weight_decay:
        adam = functools.partial(
            optax.adamw, rate, b1=optim.b1, b2=optim.b2, weight_decay=optim.weight_decay
        )
    return optax.chain(optax.clip_by_global_norm(optim.clip_norm), adam())


def averages(config: ConfigDict) -> tuple[Average, ...]:
    """The moving averages that a config names: those of constant decay, then power functions.

    Raises:
      ValueError: There is none, or a decay or width is out of range.
    """
    train = config.train
    for decay in train.ema:
        checks.within("config.train.ema", decay, 0.0, 1.0)
    for width in train.ema_widths:
        exponent(width)
    found: tuple[Average, ...] = (*map(Constant, train.ema), *map(Power, train.ema_widths))
    if not found:
        raise ValueError("config.train.ema must name one decay at least, such as (0.9999,)")
    return found


def flatten(config: ConfigDict) -> dict[str, Any]:
    """A config as one level of plain values: {"train.steps": 1000, …}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{name}.{inner}": v for inner, v in flatten(value).items()})
        else:
            flat[name] = _nested(list, value)
    return flat


def _nested(kind: type, value: Any) -> Any:
    """Lists and tuples within each other, all as one of the two: JSON has lists alone."""
    if isinstance(value, (list, tuple)):
        return kind(_nested(kind, entry) for entry in value)
    return value


def unflatten(flat: dict[str, Any]) -> ConfigDict:
    """The config that `flatten` made a dictionary of; a field it lacks keeps its default."""
    config = default()
    for name, value in flat.items():
        config.update_from_flattened_dict({name: _nested(tuple, value)})
    return config


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Where two configs would train different things, a line a field: `name: old -> new`.

    More steps only go on, unless the learning rate's decay is stretched over them.
    """
    before, after = flatten(old), flatten(new)
    free = MAY_CHANGE | ({"train.steps"} if new.optim.decay == "constant" else set())
    free |= {name for name in after if name.startswith(("sample.", "guidance."))}
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if name not in free and before.get(name) != after.get(name)
    ]
