"""A noisy classifier of the digits, p(c|z_λ): what guides `configs/digits.py` by its gradient.

python -m cfg_jax train --config configs/digits_classifier.py --workdir runs/digits_classifier

0.4 M parameters. Expect one to two minutes of training, and from `evaluate` (measured, 1,000 noisy
held-out images a level) an accuracy of 99 % where λ > 4, 54 % around λ = -1, chance below λ = -6,
and over λ ~ p(λ) 66 % and a cross-entropy of 0.95. optim.weight_decay = 0.05, as Dhariwal & Nichol
2021 have it for ImageNet, changes none of that.
"""

from cfg_jax import recipe
from cfg_jax.networks import Encoder
from cfg_jax.objectives import CrossEntropy


def get_config():
    config = recipe.default()
    config.objective = recipe.node(CrossEntropy)
    config.network = recipe.node(Encoder)
    config.condition.label.p_uncond = 0.0
    config.network.channels = 32
    config.network.channel_mult = (1, 2)
    config.network.blocks = 1
    config.network.attention_resolutions = (4,)
    config.network.head_channels = 32
    config.network.dropout = 0.3
    config.optimiser.learning_rate = 1e-3
    config.optimiser.warmup = 100
    config.optimiser.decay = "cosine"
    config.train.steps = 1_500
    config.train.batch_size = 64
    config.averages.ema.decay = 0.999
    config.train.checkpoint_every = 500
    config.train.log_every = 50
    config.train.sample_every = 0
    return config
