"""What networks are told of the noise level: features of λ."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion.schedules import DiscreteSchedule
from cfg_jax.nn.fields import flag

LevelFeatures = Callable[[Float[Array, " batch"], int], Float[Array, "batch _"]]
"""`(logsnr, channels) -> features`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSNRFeatures:
    """Cosines and sines of λ, at frequencies from 10 to 0.01 radians per unit of λ.

    The fastest resolves a hundredth of the usual range of λ, the slowest is monotonic over all of
    it.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.nn import LogSNRFeatures
    >>> LogSNRFeatures()(jnp.zeros(1), 4).tolist()
    [[1.0, 1.0, 0.0, 0.0]]
    """

    def __call__(
        self, logsnr: Float[Array, " batch"], channels: int
    ) -> Float[Array, "batch {channels}"]:
        """The features of λ."""
        frequencies = jnp.logspace(1.0, -2.0, channels // 2)
        return _waves(logsnr.astype(jnp.float32)[:, None] * frequencies)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimestepFeatures:
    """Cosines and sines of the time step t(λ), for networks that were trained in discrete time.

    cos(t f_i) and sin(t f_i) with f_i = 10000^(-2 i / channels), i from 0 to channels / 2 - 1: from
    1 radian a step down (Vaswani et al. 2017, "Attention Is All You Need", Section 3.5; Ho et al.
    2020, Appendix B).

    Attributes:
      schedule: The discrete schedule of T levels that makes t of λ; None until it is known.
      rescaled: Take 1000 t / T in the place of t, so that it covers the same range for every T.
    """

    schedule: Any = None
    rescaled: bool = False

    def __post_init__(self):
        if not isinstance(self.schedule, DiscreteSchedule | None):
            raise ValueError(
                "schedule must be one of discrete time steps, such as LinearBeta, got "
                f"{self.schedule!r}"
            )
        flag("rescaled", self.rescaled)

    def __call__(
        self, logsnr: Float[Array, " batch"], channels: int
    ) -> Float[Array, "batch {channels}"]:
        """The features of λ; t is whole on the schedule's own levels, and not between them.

        Raises:
          ValueError: There is no schedule.
        """
        if self.schedule is None:
            raise ValueError("schedule must be given: there are no time steps without one")
        t = self.schedule.time(logsnr) * (1000.0 / self.schedule.steps if self.rescaled else 1.0)
        frequencies = 10000.0 ** (-2.0 / channels * jnp.arange(channels // 2))
        return _waves(t[:, None] * frequencies)


def _waves(angles: Float[Array, "batch frequencies"]) -> Float[Array, "batch _"]:
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


LEVEL_FEATURES = {kind.__name__: kind for kind in (LogSNRFeatures, TimestepFeatures)}
"""The features by their names."""
