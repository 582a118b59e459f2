"""Text to image in latents: 64×64 pictures with names, such as emoji.

    python -m cfg_jax train --config configs/emoji_codec.py --workdir runs/emoji_codec \
        --config.data.path=PICTURES
    python -m cfg_jax train --config configs/emoji.py --workdir runs/emoji \
        --config.data.path=PICTURES
    python -m cfg_jax sample --workdir runs/emoji --prompt "firefighter dark skin tone" \
        --per-label 8 --w 3 --out firefighters.png

PICTURES is a folder or zip of pictures with captions: a metadata.jsonl or .csv beside them, or a
text file a picture. The tokenizer is learned from the captions, and their encoder trained along.
About 4,600 pictures a second on one H200 that was shared: five minutes. It has been run for 4,000
of its steps; experiments/emoji_tones.py says what it draws of captions that it never saw.
"""

from cfg_jax import recipe
from cfg_jax.codecs import KL
from cfg_jax.conditions import Text
from cfg_jax.data import Captioned
from cfg_jax.diffusion.schedules import LogitNormal
from cfg_jax.networks import DiT
from cfg_jax.text import CLIPText


def get_config():
    config = recipe.default()
    config.data = recipe.node(Captioned, image_size=64)
    config.codec = recipe.node(
        KL,
        channels=64,
        channel_mult=(1, 2, 4),
        blocks=1,
        latent_channels=4,
        run="runs/emoji_codec",
    )
    del config.condition.label
    config.condition.text = recipe.node(
        Text,
        length=32,
        vocabulary=1024,
        encoder=recipe.node(
            CLIPText,
            width=256,
            layers=4,
            heads=4,
            activation="gelu",
            pool="argmax",
            masked=True,
            causal=False,
        ),
    )
    config.network = recipe.node(
        DiT,
        patch=2,
        width=384,
        depth=12,
        heads=6,
        period=8.0,
        pooled=True,
        dropout=0.1,
    )
    config.schedule = recipe.node(LogitNormal, mean=1.0)
    config.objective.target = "v"
    config.optimiser.learning_rate = 5e-4
    config.optimiser.b2 = 0.95
    config.optimiser.warmup = 500
    config.optimiser.decay = "cosine"
    config.averages.ema.decay = 0.999
    config.train.steps = 10_000
    config.train.batch_size = 128
    config.train.checkpoint_every = 2_000
    config.train.log_every = 50
    config.train.sample_every = 5_000
    config.sample.w = 3.0
    config.sample.steps = 30
    return config
