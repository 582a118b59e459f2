"""CIFAR-10 made large, from 8×8 to 32×32: class-conditional super-resolution, from your own folder.

    python -m cfg_jax train --config configs/cifar10_upscale.py --workdir runs/cifar10_upscale \
        --config.data.path=PICTURES

PICTURES is a folder or zip file with one folder of images a class, see `configs/folder.py`. The
network sees the small image enlarged beside z and is told how much noise was laid on it
(noise-conditioning augmentation), so that it also enlarges what a base model drew; now and then it
sees none, and learns to do without. A network of 7.7 M parameters. Expect hours on one GPU; two CPU
cores make about 10 images a second, enough to see that everything works
(--config.train.steps=200 --config.train.batch_size=32).
"""

from cfg_jax import recipe
from cfg_jax.conditions import Small
from cfg_jax.data import Folder


def get_config():
    config = recipe.default()
    config.data = recipe.node(Folder)
    config.data.image_size = 32
    config.data.flip = True
    config.condition.small = recipe.node(Small, factor=4, logsnr_min=0.0, p_uncond=0.1)
    config.network.attention_resolutions = (16,)
    config.network.head_channels = 32
    config.network.dropout = 0.1
    config.optimiser.learning_rate = 2e-4
    config.optimiser.warmup = 1_000
    config.train.steps = 100_000
    config.train.batch_size = 128
    config.sample.steps = 50
    return config
