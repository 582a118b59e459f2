"""Text to image in latents: scenes of one to three real digits in six colours, on two CPU cores.

python -m cfg_jax train --config configs/scenes_codec.py --workdir runs/scenes_codec
python -m cfg_jax train --config configs/scenes.py --workdir runs/scenes
python -m cfg_jax sample --workdir runs/scenes --prompt "a red three left of a blue seven" \
        --per-label 8 --w 3 --out scenes.png

The codec is that of configs/scenes_codec.py. The tokenizer is learned from the captions, and the
encoder trained along with the U-Net. About 100 pictures a second, so four hours; it has been run
for its first 1,000 steps alone, see docs/latents.md.
"""

from cfg_jax import recipe
from cfg_jax.codecs import KL
from cfg_jax.conditions import Text
from cfg_jax.data import Scenes
from cfg_jax.text import CLIPText


def get_config():
    config = recipe.default()
    config.data = recipe.node(Scenes)
    config.codec = recipe.node(
        KL,
        channels=32,
        patch=2,
        channel_mult=(1, 2),
        blocks=1,
        middle_attention=False,
        latent_channels=8,
        run="runs/scenes_codec",
    )
    del config.condition.label
    config.condition.text = recipe.node(
        Text,
        length=32,
        encoder=recipe.node(
            CLIPText, width=96, layers=2, heads=4, activation="gelu", pool="argmax"
        ),
    )
    config.network.channels = 64
    config.network.channel_mult = (1, 2)
    config.network.blocks = 1
    config.network.attention_resolutions = (8, 4)
    config.network.head_channels = 32
    config.objective.target = "v"
    config.optimiser.learning_rate = 2e-3
    config.optimiser.warmup = 200
    config.optimiser.decay = "cosine"
    config.averages.ema.decay = 0.999
    config.train.steps = 40_000
    config.train.batch_size = 32
    config.train.checkpoint_every = 2_000
    config.train.log_every = 50
    config.train.sample_every = 2_000
    config.sample.w = 3.0
    config.sample.steps = 10
    return config
