"""The tiny recipe that tests train: real digits, one level, batches for eight devices."""

from pathlib import Path

from cfg_jax.training import config as recipe

SOURCE = '''"""A tiny recipe, for tests."""
from recipes import tiny


def get_config():
    return tiny()
'''


def tiny():
    config = recipe.default()
    config.model.channels = 8
    config.model.channel_mult = (1,)
    config.model.blocks = 1
    config.model.attention_resolutions = ()
    config.model.head_channels = 8
    config.optim.learning_rate = 1e-2
    config.train.steps = 6
    config.train.batch_size = 16
    config.train.checkpoint_every = 3
    config.train.log_every = 2
    config.train.sample_every = 0
    config.sample.steps = 2
    config.sample.w = 0.5
    return config


def tiny_classifier():
    """Of the same data: a noisy classifier to guide with."""
    config = tiny()
    config.objective = "classifier"
    config.p_uncond = 0.0
    config.optim.weight_decay = 0.1
    return config


def tiny_upscaler():
    """Of the same data: makes digits of 4×4 pixels large, these noised or hidden now and then."""
    config = tiny()
    config.model.upscale = 2
    config.small.logsnr_min, config.small.p_uncond = 0.0, 0.2
    config.train.sample_every = 6
    config.optim.learning_rate = 0.1  # networks start at zero: else nothing would be seen
    return config


def write(folder: Path) -> Path:
    """Puts the recipe into a file, as the commands want it."""
    path = folder / "tiny.py"
    path.write_text(SOURCE)
    return path
