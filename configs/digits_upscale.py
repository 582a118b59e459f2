"""Digits of 8×8 pixels from 4×4 ones and their label: super-resolution, in minutes.

python -m cfg_jax train --config configs/digits_upscale.py --workdir runs/digits_upscale

0.8 M parameters; two minutes in all. The network sees the small digit enlarged beside z, is told
how much noise was laid on it, and takes the label, which training hides now and then. Expect from
`evaluate --samples 360` (measured, every held-out digit once) label accuracy 98.9, 99.7 and 100 %
and a Fréchet distance of 2.0, 2.8 and 5.9 at w = 0, 0.3 and 1.
"""

from cfg_jax import recipe
from cfg_jax.conditions import Small


def get_config():
    config = recipe.default()
    config.condition.small = recipe.node(Small, factor=2, logsnr_min=0.0)
    config.network.channels = 32
    config.network.channel_mult = (1, 2)
    config.network.blocks = 1
    config.network.attention_resolutions = (4,)
    config.network.head_channels = 32
    config.network.dropout = 0.3
    config.optimiser.learning_rate = 1e-3
    config.optimiser.warmup = 100
    config.optimiser.decay = "cosine"
    config.train.steps = 1_200
    config.train.batch_size = 64
    config.averages.ema.decay = 0.999
    config.train.checkpoint_every = 400
    config.train.log_every = 50
    config.train.sample_every = 600
    config.sample.w = 0.3
    config.sample.steps = 50
    return config
