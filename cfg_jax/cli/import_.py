"""The command `import`: a run made of weights that were trained elsewhere."""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from cfg_jax import exchange
from cfg_jax.cli import flagging
from cfg_jax.interop import guided_diffusion, torch_file
from cfg_jax.interop.guided_diffusion import ARCHITECTURES, Architecture
from cfg_jax.networks import Encoder
from cfg_jax.training import config as recipe
from cfg_jax.training.workdir import Description

PURPOSE = """Makes a run of weights that were trained elsewhere, for `sample` and `evaluate`.
Nothing in a file is ever executed."""

SOURCES = ("guided-diffusion", "cfg-jax")


def run(argv: list[str]) -> None:
    """Parses the arguments, reads the weights and writes the run."""
    defined = flags.FlagValues()
    flags.DEFINE_string(
        "from",
        None,
        "whose weights: guided-diffusion, a .pt file; or cfg-jax, a .safetensors file of `export`",
        flag_values=defined,
    )
    flags.DEFINE_string(
        "arch",
        None,
        f"of guided-diffusion: the published network, one of {', '.join(ARCHITECTURES)}",
        flag_values=defined,
    )
    flags.DEFINE_string("workdir", None, "the run to make", flag_values=defined)
    values = flagging.parse(defined, "import", PURPOSE, argv, operand="FILE")
    source, path = flagging.required(values, "from"), Path(values["FILE"])
    if source not in SOURCES:
        raise ValueError(f"--from must be one of {', '.join(SOURCES)}; got {source!r}")
    workdir = Path(flagging.required(values, "workdir"))
    if source == "cfg-jax":
        if values["arch"] is not None:
            raise ValueError("--arch belongs to --from guided-diffusion")
        exchange.import_run(path, workdir)
        print(f"{path}: {workdir}")
        return
    name = flagging.required(values, "arch")
    _guided_diffusion(path, name, workdir)
    print(f"{path}, {name}: {workdir}")


def _guided_diffusion(path: Path, name: str, workdir: Path) -> None:
    """Makes a run of one of guided-diffusion's files."""
    arch = guided_diffusion.architecture(name)
    tensors = torch_file.read(path)
    try:
        params = guided_diffusion.parameters(tensors, arch)
    except ValueError as error:
        raise ValueError(f"{path} is not of {name}: {error}") from None
    names = tuple(map(str, range(arch.network.num_classes)))
    description = Description(_recipe(arch), arch.shape, names)
    exchange.create_run(workdir, description, params)


def _recipe(arch: Architecture) -> ConfigDict:
    """The recipe of a published network, sampled as it was published: 250 steps, no guidance."""
    config = recipe.default()
    network, schedules = arch.network, {kind: name for name, kind in recipe.DISCRETE.items()}
    if isinstance(network, Encoder):
        config.objective, config.train.sample_every = "classifier", 0
    config.data.name = "folder"
    config.data.image_size = arch.side
    config.schedule.name = schedules[type(arch.schedule)]
    config.schedule.timesteps = arch.schedule.steps
    config.p_uncond = 0.0
    for field in config.model:
        if hasattr(network, field) and field != "dtype":
            config.model[field] = getattr(network, field)
    config.model.conditional = network.num_classes > 0
    config.model.told = "timestep"
    config.sample.w = 0.0
    config.sample.steps = 250
    config.sample.learned_v = config.model.learned_variance
    recipe.check(config)
    return config
