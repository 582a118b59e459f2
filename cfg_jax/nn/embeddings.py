"""What networks are told of the noise level and of places: features of λ and of positions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
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
        return _waves(t[:, None] * _frequencies(channels // 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowTimeFeatures:
    """Cosines and sines of 1000 t, for networks of rectified flow, where t = σ / (α + σ).

    cos(1000 t f_i) and sin(1000 t f_i) with the frequencies of `TimestepFeatures`; λ = -2 logit t
    (Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
    Section 3).

    >>> import jax.numpy as jnp, numpy as np
    >>> from cfg_jax.nn import FlowTimeFeatures
    >>> print(np.asarray(FlowTimeFeatures()(jnp.zeros(1), 2)).round(3))  # cos 500 and sin 500
    [[-0.884 -0.468]]
    """

    def __call__(
        self, logsnr: Float[Array, " batch"], channels: int
    ) -> Float[Array, "batch {channels}"]:
        """The features of λ."""
        t = jax.nn.sigmoid(-0.5 * logsnr.astype(jnp.float32))
        return _waves(1000.0 * t[:, None] * _frequencies(channels // 2))


def sincos_positions(
    sides: Sequence[int], channels: int, period: float = 10_000.0
) -> Float[Array, "*sides {channels}"]:
    """Sines and cosines of the place along each side, for any number of sides, float32.

    The channels are shared out evenly among the sides, the last side first: sin(i f_j), then
    cos(i f_j), of the index i along that side, f_j from 1 towards 1/period radians. What cannot be
    shared out in pairs is 0. In two dimensions and with the default period these are the positions
    of Peebles & Xie 2023, "Scalable Diffusion Models with Transformers".

    >>> import numpy as np
    >>> from cfg_jax.nn import sincos_positions
    >>> print(np.asarray(sincos_positions((2, 3), 4)[1, 2]).round(3))  # sin 2, cos 2, sin 1, cos 1
    [ 0.909 -0.416  0.841  0.54 ]
    """
    pairs = channels // (2 * len(sides))
    shares = []
    for index in reversed(jnp.indices(tuple(sides), dtype=jnp.float32)):
        angles = index[..., None] * _frequencies(pairs, period)
        shares += [jnp.sin(angles), jnp.cos(angles)]
    shares.append(jnp.zeros((*sides, channels - 2 * pairs * len(sides))))
    return jnp.concatenate(shares, axis=-1)


def _frequencies(count: int, period: float = 10_000.0) -> Float[Array, " {count}"]:
    """From 1 down to nearly 1/period, evenly in the logarithm."""
    return period ** (-jnp.arange(count) / count)


def _waves(angles: Float[Array, "batch frequencies"]) -> Float[Array, "batch _"]:
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


LEVEL_FEATURES = {
    kind.__name__: kind for kind in (LogSNRFeatures, TimestepFeatures, FlowTimeFeatures)
}
"""The features by their names."""
