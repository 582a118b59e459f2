"""CIFAR-10, class-conditional, from the TFDS catalogue.

    python -m cfg_jax train --config configs/cifar10.py --workdir runs/cifar10

The first run downloads and prepares the data, which needs TensorFlow (pip install
'cfg-jax[prepare]'); reading it does not. 36 M parameters, bfloat16. Not yet trained to the end by
this project: no figures to expect.
"""

from cfg_jax import recipe
from cfg_jax.data import Catalogue


def get_config():
    config = recipe.default()
    config.data = recipe.node(Catalogue, name="cifar10")
    config.data.flip = True
    config.data.workers = 2
    config.network.channels = 128
    config.network.channel_mult = (1, 2, 2)
    config.network.blocks = 3
    config.network.attention_resolutions = (16, 8)
    config.network.head_channels = 64
    config.network.dropout = 0.1
    config.network.dtype = "bfloat16"
    config.optimiser.learning_rate = 2e-4
    config.optimiser.warmup = 5_000
    config.train.steps = 500_000
    config.train.batch_size = 256
    config.sample.w = 0.1
    return config
