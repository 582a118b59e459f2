"""ImageNet at 256×256 in the latents of a codebook: class-conditional LDM-4.

    python -m cfg_jax train --config configs/imagenet256_ldm4.py --workdir runs/imagenet256_ldm4 \
        --config.codec.run=runs/vq_f4

runs/vq_f4 is a trained autoencoder of this codec's fields, VQ-f4: 256×256×3 to 64×64×3, 8,192
codes. Network, codec, schedule, batch and learning rate are those of Rombach et al. 2022,
"High-Resolution Image Synthesis with Latent Diffusion Models", Appendix E, and of its published
configuration: the network attends to a learned vector of its class, which training hides one time
in ten. They sampled with 250 steps of DDIM and s = 1.5, w = 0.5 here: FID 3.60.

Expected: not trained by this project. `python -m cfg_jax plan` says what it fits on.
"""

from cfg_jax import recipe
from cfg_jax.codecs import VQ
from cfg_jax.conditions import AttendedLabel
from cfg_jax.data import Catalogue
from cfg_jax.diffusion.schedules import ScaledLinearBeta
from cfg_jax.sampling.solvers import DDIM


def get_config():
    config = recipe.default()
    config.data = recipe.node(Catalogue, name="imagenet2012", image_size=256, workers=8)
    config.codec = recipe.node(
        VQ,
        entries=8192,
        channels=128,
        channel_mult=(1, 2, 4),
        blocks=2,
        latent_channels=3,
        scale=1.0,
    )
    config.condition.label = recipe.node(AttendedLabel, width=512, p_uncond=0.1)
    config.schedule = recipe.node(ScaledLinearBeta, first=0.0015, last=0.0195)
    config.network.channels = 192
    config.network.channel_mult = (1, 2, 3, 5)
    config.network.blocks = 2
    config.network.attention_resolutions = (32, 16, 8)
    config.network.head_channels = 32
    config.network.resample = "conv"
    config.network.modulation = "shift"
    config.network.transformers = 1
    config.network.dtype = "bfloat16"
    config.optimiser.learning_rate = 1e-4
    config.optimiser.weight_decay = 0.01
    config.averages.ema.decay = 0.9999
    config.train.steps = 178_000
    config.train.batch_size = 1200
    config.train.sample_every = 10_000
    config.sample.w = 0.5
    config.sample.steps = 250
    config.sample.solver = recipe.node(DDIM)
    return config
