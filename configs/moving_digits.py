"""Videos of real digits that move and bounce: 8 frames of 16×16, on two CPU cores.

python -m cfg_jax train --config configs/moving_digits.py --workdir runs/moving_digits

Samples are written as animations: python -m cfg_jax sample --workdir runs/moving_digits
--labels 0-9 --per-label 4 --out digits.gif.

Measured after its 1,000 steps (some 15 minutes; 100 samples a strength, 25 steps of the sampler): a
classifier that is right on 99.3 % of held-out videos sees the digit asked for in 66, 95 and 99 % of
samples at w = 0, 1 and 3. Predicting v keeps the background black; ε left it grey at random.
"""

from cfg_jax import recipe
from cfg_jax.data import MovingDigits
from cfg_jax.objectives import Denoising


def get_config():
    config = recipe.default()
    config.data = recipe.node(MovingDigits)
    config.network.channels = 24
    config.network.channel_mult = (1, 2)
    config.network.blocks = 1
    config.network.attention_resolutions = (8,)
    config.network.head_channels = 24
    config.network.dropout = 0.1
    config.objective = recipe.node(Denoising, target="v")
    config.optimiser.learning_rate = 1e-3
    config.optimiser.warmup = 100
    config.optimiser.decay = "cosine"
    config.averages.ema.decay = 0.999
    config.train.steps = 1_000
    config.train.batch_size = 16
    config.train.checkpoint_every = 500
    config.train.log_every = 50
    config.train.sample_every = 500
    config.sample.w = 1.0
    config.sample.steps = 50
    return config
