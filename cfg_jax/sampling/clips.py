"""How a sampler keeps x̂ within the range of the data, as recipes name it.

Each is called with a denoiser and the data's bound, and returns a denoiser; a bound of None, as
latents have, keeps x̂ nowhere.
"""

import dataclasses

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.denoiser import Denoiser, clipped, dynamically_thresholded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Static:
    """Clips x̂ at the bound."""

    def __call__(self, denoiser: Denoiser, bound: float | None) -> Denoiser:
        """Returns the denoiser `clipped`."""
        return denoiser if bound is None else clipped(denoiser, bound)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dynamic:
    """Shrinks an example whose x̂ leaves the bound (Saharia et al. 2022, Section 2.3).

    Attributes:
      percentile: Of an example's |x̂|, as a fraction in [0, 1].

    Raises:
      ValueError: percentile lies outside [0, 1].
    """

    percentile: float = 0.995

    def __post_init__(self):
        checks.number("percentile", self.percentile, 0.0, 1.0)

    def __call__(self, denoiser: Denoiser, bound: float | None) -> Denoiser:
        """Returns the denoiser `dynamically_thresholded`."""
        return (
            denoiser if bound is None else dynamically_thresholded(denoiser, self.percentile, bound)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Off:
    """Leaves x̂ as it is."""

    def __call__(self, denoiser: Denoiser, bound: float | None) -> Denoiser:
        """Returns the denoiser."""
        return denoiser


CLIPS: dict[str, type] = {kind.__name__: kind for kind in (Static, Dynamic, Off)}
"""The clips by the names that recipes use."""
