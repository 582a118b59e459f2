"""ImageNet at 64×64, with the settings of the classifier-free guidance paper.

    python -m cfg_jax train --config configs/imagenet64.py --workdir runs/imagenet64

The first run downloads and prepares the data, which needs TensorFlow (pip install
'cfg-jax[prepare]'); reading it does not. λ in [-20, 20], p_uncond 0.1, v = 0.3, 256 steps, and the
ADM 64×64 network of 296 M parameters at batch 2,048: a TPU pod or many GPUs.

Expected, from the paper and not measured here (Ho & Salimans 2022, Table 1, p_uncond 0.1, after
400 k steps): FID 1.55 and IS 66.11 at w = 0.1; FID 26.22 and IS 260.2 at w = 4.
"""

from cfg_jax.training import config as recipe


def get_config():
    config = recipe.default()
    config.data.name = "tfds:imagenet_resized/64x64"
    config.data.workers = 8
    config.schedule.logsnr_min = -20.0
    config.schedule.logsnr_max = 20.0
    config.p_uncond = 0.1
    config.model.channels = 192
    config.model.channel_mult = (1, 2, 3, 4)
    config.model.blocks = 3
    config.model.attention_resolutions = (32, 16, 8)
    config.model.head_channels = 64
    config.model.dropout = 0.1
    config.model.dtype = "bfloat16"
    config.optim.learning_rate = 3e-4
    config.optim.warmup = 5_000
    config.train.steps = 400_000
    config.train.batch_size = 2_048
    config.train.sample_every = 25_000
    config.sample.w = 0.1
    config.sample.steps = 256
    config.sample.v = 0.3
    return config
