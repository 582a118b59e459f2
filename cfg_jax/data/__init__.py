"""Examples as (seed, step)-determined batches: digits, folders, files, sounds, videos, TFDS."""

from cfg_jax.data.arrays import Arrays
from cfg_jax.data.captioned import Captioned
from cfg_jax.data.catalogue import Catalogue
from cfg_jax.data.dataset import ArraySource, Dataset, Kind, UnreadableError
from cfg_jax.data.digits import Digits
from cfg_jax.data.folder import Folder
from cfg_jax.data.moving_digits import MovingDigits
from cfg_jax.data.pipeline import LostWorkerError, batches
from cfg_jax.data.scenes import Scenes
from cfg_jax.data.shards import Shards
from cfg_jax.data.sounds import Sounds
from cfg_jax.data.sources import SOURCES

__all__ = [
    "SOURCES",
    "ArraySource",
    "Arrays",
    "Captioned",
    "Catalogue",
    "Dataset",
    "Digits",
    "Folder",
    "Kind",
    "LostWorkerError",
    "MovingDigits",
    "Scenes",
    "Shards",
    "Sounds",
    "UnreadableError",
    "batches",
]
