"""What training descends on: objectives, and the weightings of their errors over λ."""

from cfg_jax.objectives.bound import Hybrid
from cfg_jax.objectives.classification import CrossEntropy
from cfg_jax.objectives.contrastive import Contrastive
from cfg_jax.objectives.denoising import Denoising
from cfg_jax.objectives.draw import Draw, Losses
from cfg_jax.objectives.lpips import LPIPS
from cfg_jax.objectives.reconstruction import Reconstruction
from cfg_jax.objectives.weighting import P2, SNR, MinSNR, Sigmoid, TruncatedSNR, Uniform

OBJECTIVES = {
    kind.__name__: kind for kind in (Denoising, Hybrid, CrossEntropy, Reconstruction, Contrastive)
}
"""The objectives by the names that recipes use."""

DISTANCES = {LPIPS.__name__: LPIPS}
"""The distances between pictures by the names that recipes use."""

WEIGHTINGS = {kind.__name__: kind for kind in (Uniform, SNR, TruncatedSNR, MinSNR, Sigmoid, P2)}
"""The weightings by the names that recipes use."""

__all__ = [
    "DISTANCES",
    "LPIPS",
    "OBJECTIVES",
    "P2",
    "SNR",
    "WEIGHTINGS",
    "Contrastive",
    "CrossEntropy",
    "Denoising",
    "Draw",
    "Hybrid",
    "Losses",
    "MinSNR",
    "Reconstruction",
    "Sigmoid",
    "TruncatedSNR",
    "Uniform",
]
