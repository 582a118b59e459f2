"""What training descends on: objectives, and the weightings of their errors over λ."""

from cfg_jax.objectives.bound import Hybrid
from cfg_jax.objectives.classification import CrossEntropy
from cfg_jax.objectives.denoising import Denoising
from cfg_jax.objectives.draw import Draw
from cfg_jax.objectives.weighting import P2, SNR, MinSNR, Sigmoid, TruncatedSNR, Uniform

OBJECTIVES = {kind.__name__: kind for kind in (Denoising, Hybrid, CrossEntropy)}
"""The objectives by the names that recipes use."""

WEIGHTINGS = {kind.__name__: kind for kind in (Uniform, SNR, TruncatedSNR, MinSNR, Sigmoid, P2)}
"""The weightings by the names that recipes use."""

__all__ = [
    "OBJECTIVES",
    "P2",
    "SNR",
    "WEIGHTINGS",
    "CrossEntropy",
    "Denoising",
    "Draw",
    "Hybrid",
    "MinSNR",
    "Sigmoid",
    "TruncatedSNR",
    "Uniform",
]
