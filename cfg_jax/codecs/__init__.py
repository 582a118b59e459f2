"""The codecs: between data and z, what diffusion works on."""

from cfg_jax.codecs.autoencoder import Coded
from cfg_jax.codecs.folded import Folded
from cfg_jax.codecs.kl import KL
from cfg_jax.codecs.lapped import Lapped
from cfg_jax.codecs.moments import Moments
from cfg_jax.codecs.pixels import Pixels
from cfg_jax.codecs.quantise import Quantised
from cfg_jax.codecs.tiles import decode_in_tiles
from cfg_jax.codecs.vq import VQ

CODECS = {kind.__name__: kind for kind in (Pixels, Folded, Lapped, KL, VQ)}
"""The codecs by the names that recipes use."""

__all__ = [
    "CODECS",
    "KL",
    "VQ",
    "Coded",
    "Folded",
    "Lapped",
    "Moments",
    "Pixels",
    "Quantised",
    "decode_in_tiles",
]
