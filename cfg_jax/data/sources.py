"""The kinds of sources that a recipe may name."""

from cfg_jax.data.arrays import Arrays
from cfg_jax.data.captioned import Captioned
from cfg_jax.data.catalogue import Catalogue
from cfg_jax.data.dataset import Kind
from cfg_jax.data.digits import Digits
from cfg_jax.data.folder import Folder
from cfg_jax.data.moving_digits import MovingDigits
from cfg_jax.data.scenes import Scenes
from cfg_jax.data.shards import Shards
from cfg_jax.data.sounds import Sounds

SOURCES: dict[str, type[Kind]] = {
    kind.__name__: kind
    for kind in (
        *(Digits, Folder, Captioned, Shards, Arrays, Catalogue),
        *(Sounds, MovingDigits, Scenes),
    )
}
"""Kinds of sources by name."""
