"""Guidance: one denoiser made of others, its strength an ordinary array.

The strength is always the paper's w: 0 is no guidance, and any real number is allowed. Other
libraries count s = 1 + w; `from_scale` and `to_scale` convert.
"""

from cfg_jax.guidance.agreement import Similarity, agreement
from cfg_jax.guidance.autoguidance import Autoguidance, autoguidance
from cfg_jax.guidance.base import Guidance
from cfg_jax.guidance.classifier_free import ClassifierFree, classifier_free, negative
from cfg_jax.guidance.composed import Composed, composed
from cfg_jax.guidance.cutouts import CutoutLoss, cut_out, cutouts
from cfg_jax.guidance.gradient import Ascent, Classifier, Energy, ascent, classifier, energy
from cfg_jax.guidance.interval import Interval, interval
from cfg_jax.guidance.plus_plus import PlusPlus, plus_plus
from cfg_jax.guidance.projected import Projected, projected
from cfg_jax.guidance.rescaled import Rescaled, rescaled
from cfg_jax.guidance.scale import from_scale, to_scale
from cfg_jax.guidance.scheduled import Scheduled, scheduled
from cfg_jax.guidance.unconditional import Unconditional, unconditional
from cfg_jax.guidance.zero_star import ZeroStar, zero_star

__all__ = [
    "Ascent",
    "Autoguidance",
    "Classifier",
    "ClassifierFree",
    "Composed",
    "CutoutLoss",
    "Energy",
    "Guidance",
    "Interval",
    "PlusPlus",
    "Projected",
    "Rescaled",
    "Scheduled",
    "Similarity",
    "Unconditional",
    "ZeroStar",
    "agreement",
    "ascent",
    "autoguidance",
    "classifier",
    "classifier_free",
    "composed",
    "cut_out",
    "cutouts",
    "energy",
    "from_scale",
    "interval",
    "negative",
    "plus_plus",
    "projected",
    "rescaled",
    "scheduled",
    "to_scale",
    "unconditional",
    "zero_star",
]
