"""Your own pictures: a folder or zip file with one folder of images a class.

    python -m cfg_jax train --config configs/folder.py --workdir runs/mine \
        --config.data.path=PICTURES

Resizes and crops to 32×32 colour images. A network of 7.7 M parameters, level with the small one
of Dhariwal & Nichol's code. Expect hours on one GPU; two CPU cores make about 10 images a second,
enough to see that everything works (--config.train.steps=200 --config.train.batch_size=32).
"""

from cfg_jax import recipe
from cfg_jax.data import Folder


def get_config():
    config = recipe.default()
    config.data = recipe.node(Folder)
    config.data.image_size = 32
    config.data.flip = True
    config.network.attention_resolutions = (16,)
    config.network.head_channels = 32
    config.network.dropout = 0.1
    config.optimiser.learning_rate = 2e-4
    config.optimiser.warmup = 1_000
    config.train.steps = 100_000
    config.train.batch_size = 128
    return config
