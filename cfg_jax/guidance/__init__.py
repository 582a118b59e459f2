"""Guidance: one denoiser made of others, its strength an ordinary array.

The strength is always the paper's w: 0 is no guidance, and any real number is allowed. Other
libraries count s = 1 + w; `from_scale` and `to_scale` convert.
"""

from cfg_jax.guidance.classifier_free import ClassifierFree, classifier_free, negative
from cfg_jax.guidance.scale import from_scale, to_scale

__all__ = ["ClassifierFree", "classifier_free", "from_scale", "negative", "to_scale"]
