"""CIFAR-10, class-conditional, from the TFDS catalogue.

    python -m cfg_jax train --config configs/cifar10.py --workdir runs/cifar10

The first run downloads and prepares the data, which needs TensorFlow (pip install
'cfg-jax[prepare]'); reading it does not. 36 M parameters, bfloat16. Not yet trained to the end by
this project: no figures to expect.
"""

from cfg_jax.training import config as recipe


def get_config():
    config = recipe.default()
    config.data.name = "tfds:cifar10"
    config.data.flip = True
    config.data.workers = 2
    config.model.channels = 128
    config.model.channel_mult = (1, 2, 2)
    config.model.blocks = 3
    config.model.attention_resolutions = (16, 8)
    config.model.head_channels = 64
    config.model.dropout = 0.1
    config.model.dtype = "bfloat16"
    config.optim.learning_rate = 2e-4
    config.optim.warmup = 5_000
    config.train.steps = 500_000
    config.train.batch_size = 256
    config.sample.w = 0.1
    return config
