"""Text to image: scenes of one to three real digits in six colours, 32×32, on two CPU cores.

python -m cfg_jax train --config configs/scenes.py --workdir runs/scenes
python -m cfg_jax sample --workdir runs/scenes --prompt "a red three left of a blue seven" \
        --per-label 8 --w 3 --out scenes.png

The tokenizer is learned from the captions and the encoder trained along with the U-Net. It has not
been trained to the end yet.
"""

from cfg_jax import recipe
from cfg_jax.conditions import Text
from cfg_jax.data import Scenes


def get_config():
    config = recipe.default()
    config.data = recipe.node(Scenes)
    del config.condition.label
    config.condition.text = recipe.node(Text, length=32)
    config.network.channels = 48
    config.network.channel_mult = (1, 2, 2)
    config.network.blocks = 1
    config.network.attention_resolutions = (16, 8)
    config.network.head_channels = 48
    config.optimiser.learning_rate = 1e-3
    config.optimiser.warmup = 200
    config.optimiser.decay = "cosine"
    config.averages.ema.decay = 0.999
    config.train.steps = 10_000
    config.train.batch_size = 64
    config.train.checkpoint_every = 1_000
    config.train.log_every = 50
    config.train.sample_every = 1_000
    config.sample.w = 3.0
    config.sample.steps = 20
    return config
