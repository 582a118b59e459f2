"""An autoencoder of scenes, 32×32×3 to 4×4×32: what configs/scenes.py trains in the latents of.

python -m cfg_jax train --config configs/scenes_codec.py --workdir runs/scenes_codec
python -m cfg_jax evaluate --workdir runs/scenes_codec

Its patches of 8×8 are the cells in which digits stand, and its convolutions look at one at a time:
with windows of 3×3 it needs ten times as long. About 780 pictures a second, three minutes; after
1,000 of the steps PSNR is 33.6 dB on held-out scenes.
"""

from cfg_jax import recipe
from cfg_jax.codecs import KL
from cfg_jax.data import Scenes
from cfg_jax.networks import Coding
from cfg_jax.objectives import Reconstruction


def get_config():
    config = recipe.default()
    config.data = recipe.node(Scenes)
    config.condition.label = None
    config.network = recipe.node(
        Coding,
        codec=recipe.node(
            KL,
            channels=192,
            patch=8,
            window=1,
            channel_mult=(1,),
            blocks=1,
            middle_attention=False,
            latent_channels=32,
        ),
    )
    config.objective = recipe.node(Reconstruction, error="l2", kl_weight=1e-6)
    config.optimiser.learning_rate = 2e-3
    config.optimiser.b2 = 0.95
    config.optimiser.warmup = 50
    config.optimiser.decay = "cosine"
    config.averages.ema.decay = 0.99
    config.train.steps = 4_000
    config.train.batch_size = 32
    config.train.checkpoint_every = 1_000
    config.train.log_every = 50
    config.train.sample_every = 1_000
    return config
