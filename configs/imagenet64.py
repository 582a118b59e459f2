"""ImageNet at 64×64, with the settings of the classifier-free guidance paper.

    python -m cfg_jax train --config configs/imagenet64.py --workdir runs/imagenet64

The first run downloads and prepares the data, which needs TensorFlow (pip install
'cfg-jax[prepare]'); reading it does not. λ in [-20, 20], p_uncond 0.1, v = 0.3 and 400 k training
steps are the paper's (Ho & Salimans 2022, Sections 4.1 and 4.2). It does not tell the sampling
steps at 64×64; 256 are what it prefers at 128×128 (Section 4.3). It takes the network, of 296 M
parameters, and the hyperparameters from ADM, batch 2,048 and learning rate 3e-4 among them
(Dhariwal & Nichol 2021, Table 11); the warm-up is ours. A TPU pod or many GPUs.

Expected, from the paper and not measured here (Table 1, p_uncond 0.1, 50,000 samples): FID 1.55 and
IS 66.11 at w = 0.1; FID 26.22 and IS 260.2 at w = 4.
"""

from cfg_jax import recipe
from cfg_jax.data import Catalogue
from cfg_jax.sampling.grids import UniformU
from cfg_jax.sampling.solvers import Ancestral


def get_config():
    config = recipe.default()
    config.data = recipe.node(Catalogue, name="imagenet_resized/64x64")
    config.data.workers = 8
    config.schedule.logsnr_min = -20.0
    config.schedule.logsnr_max = 20.0
    config.condition.label.p_uncond = 0.1
    config.network.channels = 192
    config.network.channel_mult = (1, 2, 3, 4)
    config.network.blocks = 3
    config.network.attention_resolutions = (32, 16, 8)
    config.network.head_channels = 64
    config.network.dropout = 0.1
    config.network.dtype = "bfloat16"
    config.optimiser.learning_rate = 3e-4
    config.optimiser.warmup = 5_000
    config.train.steps = 400_000
    config.train.batch_size = 2_048
    config.train.sample_every = 25_000
    config.sample.w = 0.1
    config.sample.steps = 256
    config.sample.solver = recipe.node(Ancestral, v=0.3)
    config.sample.grid = recipe.node(UniformU)
    return config
