"""Real 8×8 digits, in minutes on two CPU cores: the demo.

python -m cfg_jax train --config configs/digits.py --workdir runs/digits

0.8 M parameters. Expect two to three minutes of training, and from `evaluate` (measured, 1,000
samples a strength, 20 steps of the default solver) label accuracy 90 % at w = 0 and 99 % at w = 1,
an Inception score that rises from 8.7 to 9.97 over w = 0 to 4, and a Fréchet distance that falls
from 2.1 to 1.6 at w = 0.3 and rises to 12.9 at w = 4. With 1,700 steps: 93 and 99.5 %, 9.0 to 9.95,
and 1.6, 1.4 at w = 0.1, 10.4.
"""

from cfg_jax import recipe


def get_config():
    config = recipe.default()
    config.network.channels = 32
    config.network.channel_mult = (1, 2)
    config.network.blocks = 1
    config.network.attention_resolutions = (4,)
    config.network.head_channels = 32
    config.network.dropout = 0.3  # 1,437 images: without it, guidance pulls towards memorised ones
    config.optimiser.learning_rate = 1e-3
    config.optimiser.warmup = 100
    config.optimiser.decay = "cosine"
    config.train.steps = 1_000
    config.train.batch_size = 64
    config.averages.ema.decay = 0.999
    config.train.checkpoint_every = 500
    config.train.log_every = 50
    config.train.sample_every = 500
    config.sample.w = 1.0
    config.sample.steps = 20
    return config
