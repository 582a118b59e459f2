"""The codecs: between data and z, what diffusion works on."""

from cfg_jax.codecs.folded import Folded
from cfg_jax.codecs.lapped import Lapped
from cfg_jax.codecs.pixels import Pixels

CODECS = {kind.__name__: kind for kind in (Pixels, Folded, Lapped)}
"""The codecs by the names that recipes use."""

__all__ = ["CODECS", "Folded", "Lapped", "Pixels"]
