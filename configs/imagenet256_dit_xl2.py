"""ImageNet at 256×256 in the latents of Stable Diffusion's autoencoder: DiT-XL/2.

    python -m cfg_jax train --config configs/imagenet256_dit_xl2.py \
        --workdir runs/imagenet256_dit_xl2 --config.codec.run=runs/kl_f8

runs/kl_f8 is a trained autoencoder of this codec's fields, KL-f8: 256×256×3 to 32×32×4. Network,
schedule, objective, batch, learning rate and average are those of Peebles & Xie 2023, "Scalable
Diffusion Models with Transformers", Section 4: 675 M parameters, which also learn the variance, in
7 M steps. They sampled with 250 ancestral steps and s = 1.5, w = 0.5 here: FID 2.27.

Expected: not trained by this project. `python -m cfg_jax plan` says what it fits on.
"""

from cfg_jax import recipe
from cfg_jax.codecs import KL
from cfg_jax.data import Catalogue
from cfg_jax.diffusion.schedules import LinearBeta
from cfg_jax.networks import DiT
from cfg_jax.objectives import Hybrid
from cfg_jax.sampling.solvers import Ancestral


def get_config():
    config = recipe.default()
    config.data = recipe.node(Catalogue, name="imagenet2012", image_size=256, flip=True, workers=8)
    config.codec = recipe.node(
        KL,
        channels=128,
        channel_mult=(1, 2, 4, 4),
        blocks=2,
        latent_channels=4,
        scale=0.18215,
    )
    config.network = recipe.node(
        DiT, patch=2, width=1152, depth=28, heads=16, learned_variance=True, dtype="bfloat16"
    )
    config.condition.label.p_uncond = 0.1
    config.schedule = recipe.node(LinearBeta)
    config.objective = recipe.node(Hybrid, bound_weight=1e-3, steps=1000)
    config.optimiser.learning_rate = 1e-4
    config.averages.ema.decay = 0.9999
    config.train.steps = 7_000_000
    config.train.batch_size = 256
    config.train.sample_every = 50_000
    config.sample.w = 0.5
    config.sample.steps = 250
    config.sample.solver = recipe.node(Ancestral)
    return config
