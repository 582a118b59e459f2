"""The tiny recipe that tests train: real digits, a block of a transformer, eight devices."""

from pathlib import Path

from cfg_jax import recipe
from cfg_jax.codecs import KL
from cfg_jax.conditions import Small, Text
from cfg_jax.data import Scenes
from cfg_jax.networks import Coding, DiT, Encoder, PatchDiscriminator, Towers, UNet
from cfg_jax.objectives import Contrastive, CrossEntropy, Reconstruction
from cfg_jax.text import CLIPText

SOURCE = '''"""A tiny recipe, for tests."""
from recipes import tiny


def get_config():
    return tiny()
'''


def tiny():
    """A transformer of one block: it compiles in half the time that a U-Net takes."""
    config = recipe.default()
    config.network = recipe.node(DiT, patch=4, width=8, depth=1, heads=1)
    config.optimiser.learning_rate = 1e-2
    config.train.steps = 6
    config.train.batch_size = 16
    config.train.checkpoint_every = 3
    config.train.log_every = 2
    config.train.sample_every = 0
    config.sample.steps = 2
    config.sample.w = 0.5
    return config


def tiny_unet():
    """The same with a U-Net, where the network matters."""
    config = tiny()
    config.network = recipe.node(UNet)
    smallest(config)
    return config


def smallest(config):
    """A network of one level."""
    config.network.channels = 8
    config.network.channel_mult = (1,)
    config.network.blocks = 1
    config.network.attention_resolutions = ()
    config.network.head_channels = 8


def captioned(config, **fields):
    """The condition is a caption alone, encoded by a transformer of one layer."""
    encoder = recipe.node(CLIPText, width=8, layers=1, heads=2, activation="gelu", pool="argmax")
    del config.condition.label
    config.condition.text = recipe.node(Text, vocabulary=300, encoder=encoder, **fields)


def tiny_captioned():
    """Of scenes: sixteen patches attend to captions."""
    config = tiny()
    config.data = recipe.node(Scenes, scenes=64)
    config.network.patch = 8
    captioned(config, length=40)
    config.train.steps = 4
    config.train.checkpoint_every = 2
    config.train.sample_every = 4
    config.sample.w = 1.0
    return config


def tiny_classifier():
    """Of the same data: a noisy classifier to guide with."""
    config = tiny()
    config.objective = recipe.node(CrossEntropy)
    config.network = recipe.node(Encoder)
    smallest(config)
    config.condition.label.p_uncond = 0.0
    config.optimiser.weight_decay = 0.1
    return config


CODEC = {
    "channels": 4,
    "channel_mult": (1, 2),
    "blocks": 1,
    "middle_attention": False,
    "latent_channels": 2,
    "data_channels": 1,
}


def tiny_codec(kind=KL, **fields):
    """Of the same data: an autoencoder that halves the sides, and what judges its digits."""
    config = tiny()
    config.condition.label = None
    config.network = recipe.node(
        Coding,
        codec=recipe.node(kind, **CODEC, **fields),
        discriminator=recipe.node(PatchDiscriminator, channels=4, layers=1),
    )
    config.objective = recipe.node(Reconstruction, judged_from=1)
    config.train.sample_every = 6
    return config


def tiny_latent(run, kind=KL, **fields):
    """The tiny recipe in the latents of a codec that was trained so."""
    config = tiny()
    config.codec = recipe.node(kind, **CODEC, **fields, run=str(run))
    return config


def tiny_towers(**fields):
    """Of scenes: embeds pictures and captions; the fields are the objective's."""
    config = tiny()
    config.data = recipe.node(Scenes, scenes=64)
    config.objective = recipe.node(Contrastive, **fields)
    config.network = recipe.node(Towers, features=8)
    smallest(config)
    captioned(config, length=40, p_uncond=0.0)
    config.network.channel_mult = (1, 1)
    config.network.attention_resolutions = ()
    return config


def tiny_upscaler():
    """Of the same data: makes digits of 4×4 pixels large, these noised or hidden now and then."""
    config = tiny()
    config.condition.small = recipe.node(Small, factor=2, logsnr_min=0.0, p_uncond=0.2)
    config.train.sample_every = 6
    config.optimiser.learning_rate = 0.1  # networks start at zero: else nothing would be seen
    return config


def write(folder: Path) -> Path:
    """Puts the recipe into a file, as the commands want it."""
    path = folder / "tiny.py"
    path.write_text(SOURCE)
    return path
