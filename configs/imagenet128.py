"""ImageNet at 128×128: the ADM network of the guidance paper's larger experiment.

    python -m cfg_jax train --config configs/imagenet128.py --workdir runs/imagenet128

TFDS prepares `imagenet2012` from archives that you download yourself, with TensorFlow (pip install
'cfg-jax[prepare]'); reading it does not need that, and resizes every image as it is read. Channels,
levels, attention, batch and learning rate are those of ADM 128×128 (Dhariwal & Nichol 2021,
Appendix I, Table 11), which Ho & Salimans 2022, Section 4, say they took; λ in [-20, 20], p_uncond
0.1, v = 0.2. 422 M parameters at batch 256.

Expected: not trained by this project. `python -m cfg_jax plan` says what it fits on.
"""

from cfg_jax import recipe
from cfg_jax.data import Catalogue
from cfg_jax.sampling.grids import UniformU
from cfg_jax.sampling.solvers import Ancestral


def get_config():
    config = recipe.default()
    config.data = recipe.node(Catalogue, name="imagenet2012")
    config.data.image_size = 128
    config.data.workers = 8
    config.schedule.logsnr_min = -20.0
    config.schedule.logsnr_max = 20.0
    config.condition.label.p_uncond = 0.1
    config.network.channels = 256
    config.network.channel_mult = (1, 1, 2, 3, 4)
    config.network.blocks = 2
    config.network.attention_resolutions = (32, 16, 8)
    config.network.head_channels = 64
    config.network.dtype = "bfloat16"
    config.optimiser.learning_rate = 1e-4
    config.optimiser.warmup = 5_000
    config.train.steps = 2_700_000
    config.train.batch_size = 256
    config.train.sample_every = 25_000
    config.sample.w = 0.3
    config.sample.steps = 256
    config.sample.solver = recipe.node(Ancestral, v=0.2)
    config.sample.grid = recipe.node(UniformU)
    return config
