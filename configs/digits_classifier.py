"""A noisy classifier of the digits, p(c|z_λ): what guides `configs/digits.py` by its gradient.

python -m cfg_jax train --config configs/digits_classifier.py --workdir runs/digits_classifier

0.4 M parameters. Expect one to two minutes of training, and from `evaluate` (measured, 1,000 noisy
held-out images a level) an accuracy of 99 % where λ > 4, 54 % around λ = -1, chance below λ = -6,
and over λ ~ p(λ) 66 % and a cross-entropy of 0.95. optim.weight_decay = 0.05, as Dhariwal & Nichol
2021 have it for ImageNet, changes none of that.
"""

from cfg_jax.training import config as recipe


def get_config():
    config = recipe.default()
    config.objective = "classifier"
    config.data.name = "digits"
    config.p_uncond = 0.0
    config.model.channels = 32
    config.model.channel_mult = (1, 2)
    config.model.blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.head_channels = 32
    config.model.dropout = 0.3
    config.optim.learning_rate = 1e-3
    config.optim.warmup = 100
    config.optim.decay = "cosine"
    config.train.steps = 1_500
    config.train.batch_size = 64
    config.train.ema = (0.999,)
    config.train.checkpoint_every = 500
    config.train.log_every = 50
    config.train.sample_every = 0
    return config
