"""Real 8×8 digits, in minutes on two CPU cores: the demo.

python -m cfg_jax train --config configs/digits.py --workdir runs/digits

0.8 M parameters. Expect two to three minutes of training, and from `evaluate` (measured, 1,000
samples a strength) label accuracy 97 % at w = 0 and 100 % at w = 1, an Inception score that rises
from 9.6 to 9.98 over w = 0 to 4, and a Fréchet distance that rises from 1.9 to 9.7.
"""

from cfg_jax.training import config as recipe


def get_config():
    config = recipe.default()
    config.data.name = "digits"
    config.model.channels = 32
    config.model.channel_mult = (1, 2)
    config.model.blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.head_channels = 32
    config.model.dropout = 0.3  # 1,437 images: without it, guidance pulls towards memorised ones
    config.optim.learning_rate = 1e-3
    config.optim.warmup = 100
    config.optim.decay = "cosine"
    config.train.steps = 1_700
    config.train.batch_size = 64
    config.train.ema = (0.999,)
    config.train.checkpoint_every = 500
    config.train.log_every = 50
    config.train.sample_every = 850
    config.sample.w = 1.0
    config.sample.steps = 50
    return config
