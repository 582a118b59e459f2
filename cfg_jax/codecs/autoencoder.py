"""Latent diffusion's autoencoders: z is a small array that stands for large data.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", Section 3.1 and
Appendix G: either with Gaussian latents, kept near N(0, 1) by a KL term, or with a codebook.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.codecs import latents
from cfg_jax.codecs.coders import Coder
from cfg_jax.diffusion import checks
from cfg_jax.networks.base import MOST_CHANNELS, SIDES
from cfg_jax.nn import space_axes

Factors = float | tuple[float, ...]
"""One number, or one a channel of z."""


class Coded(NamedTuple):
    """An autoencoder's output in training.

    Attributes:
      x: The data as they come back.
      latents: What lies between: `Moments` of a KL, `Quantised` of a VQ.
    """

    x: Float[Array, "batch *sides channels"]
    latents: Any


class Autoencoder(Coder):
    """Encoder and decoder, and z between them at a scale that diffusion works at; a base.

    Data are (batch, length, channels), (batch, height, width, channels) or (batch, frames, height,
    width, channels) in [-1, 1]; z has the sides of space divided by `factor`, and frames as many as
    the data. With ẑ for what the decoder decodes, z = (ẑ - shift) · scale and ẑ = z / scale +
    shift.

    Attributes:
      latent_channels: Channels of ẑ, from 1 to 65,536.
      data_channels: Channels of the data, from 1 to 65,536.
      scale: One over the standard deviation of ẑ, one number or one a channel: 0.18215 for Stable
        Diffusion 1 and 2, 0.13025 for XL, 0.3611 for FLUX. Where it is None, a model that is
        trained in latents measures each channel's scale and shift over its data, and keeps them.
      shift: The mean of ẑ, one number or one a channel: 0.1159 for FLUX.
      run: The work directory where the codec was trained, for a model that is trained in its
        latents.
      cached: Whether that model reads latents that were encoded once, see `encode`, rather than
        encodes in every step.

    The other attributes are those of `coders.Coder`.
    """

    latent_channels: int = 4
    data_channels: int = 3
    scale: Factors | None = None
    shift: Factors = 0.0
    run: str = ""
    cached: bool = True

    bound = None

    last_kernel = ("decoder", "output", "Conv_0", "kernel")
    """Where the kernel of the decoder's last layer lies among the parameters."""

    def __post_init__(self):
        checks.whole("latent_channels", self.latent_channels, 1, MOST_CHANNELS)
        checks.whole("data_channels", self.data_channels, 1, MOST_CHANNELS)
        if self.scale is not None:
            self.scale = _each("scale", self.scale, self.z_channels, 0.0)
        if not isinstance(self.run, str):
            raise ValueError(f"run must be a work directory, got {checks.told(self.run)}")
        checks.truth("cached", self.cached)
        self.shift = _each("shift", self.shift, self.z_channels)
        super().__post_init__()

    @property
    def z_channels(self) -> int:
        """Channels of z."""
        return self.latent_channels

    @nn.nowrap
    def shapes(self, shape: tuple[int, ...]) -> Any:
        """The shapes of its variables, for examples of (*sides, channels).

        Raises:
          ValueError: It cannot code that size.
        """
        x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        return jax.eval_shape(self.init, jax.random.key(0), x)

    @nn.nowrap
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where examples of (*sides, channels) cannot be coded."""
        who, f = f"the {type(self).__name__} autoencoder", self.factor
        if len(shape) - 1 not in SIDES or shape[-1] != self.data_channels:
            raise ValueError(
                f"{who} takes (length, channels), (height, width, channels) or (frames, height, "
                f"width, channels) with {self.data_channels} channels; got {shape}"
            )
        sides = [shape[axis - 1] for axis in space_axes(len(shape) + 1)]
        if any(side % f or not side for side in sides):
            lower = "×".join(str(max(side // f, 1) * f) for side in sides)
            upper = "×".join(str(max(-(-side // f), 1) * f) for side in sides)
            near = lower if lower == upper else f"{lower} or {upper}"
            raise ValueError(
                f"{who} divides {SIDES[len(shape) - 1]} by {f} and takes multiples of it: not "
                f"{'×'.join(map(str, sides))}, but {near}"
            )

    @nn.nowrap
    def frozen(self) -> Any:
        """The variables of the run that trained it; without one random ones, to plan with.

        Raises:
          ValueError: There is no such run, or it did not train this autoencoder.
        """
        sides = (self.factor,) * 2
        if not self.run:
            return self.init(jax.random.key(0), jnp.zeros((1, *sides, self.data_channels)))
        return latents.of_run(self.run, self.shapes((*sides, self.data_channels)))

    @nn.nowrap
    def learned(self, variables: Any, data: Any) -> Any:
        """The variables with the scale and the shift of z over data, where those are not given.

        Raises:
          ValueError: It was not trained yet.
        """
        if not self.run:
            raise ValueError(
                f"the {type(self).__name__} autoencoder must be trained first, see configs/"
                "scenes_codec.py: name its run in config.codec.run"
            )
        if self.scale is not None:
            return variables
        return {**variables, "latents": latents.statistics(self, variables, data)}

    @nn.nowrap
    def kept(self, variables: Any, data: Any) -> latents.Kept:
        """What `described` says of all examples of data, on disk."""
        return latents.kept(self, variables, data)

    @nn.nowrap
    def attached(self, variables: Any, data: Any) -> Any:
        """Data whose examples bring what `described` says of them as "latents"."""
        return latents.attached(self, variables, data) if self.cached else data

    @nn.nowrap
    def _factors(self) -> tuple[Array, Array]:
        """Scale and shift."""
        scale: Any
        shift: Any
        if self.scope is not None and self.has_variable("latents", "scale"):
            scale, shift = (self.get_variable("latents", name) for name in ("scale", "shift"))
        else:
            scale, shift = 1.0 if self.scale is None else self.scale, self.shift
        return jnp.asarray(scale), jnp.asarray(shift)

    @nn.nowrap
    def scaled(self, latents: Float[Array, "batch *sides _"]) -> Float[Array, "batch *sides _"]:
        """Z of ẑ."""
        scale, shift = self._factors()
        return (latents - shift) * scale

    @nn.nowrap
    def unscaled(self, z: Float[Array, "batch *sides _"]) -> Float[Array, "batch *sides _"]:
        """ẑ of z."""
        scale, shift = self._factors()
        return z / scale + shift

    def decode(self, z: Float[Array, "batch *sides _"]) -> Float[Array, "batch *_ channels"]:
        """The data of z, float32, not clipped."""
        return self.finish(self.begin(z, 1), 1)

    def begin(self, z: Float[Array, "batch *sides _"], levels: int) -> Float[Array, "batch *_ _"]:
        """The first part of `decode`, with so many levels of the decoder, at least one."""
        return self.decoder.begin(self.decoded(self.unscaled(z)), levels)

    def finish(
        self, h: Float[Array, "batch *sides _"], levels: int
    ) -> Float[Array, "batch *_ channels"]:
        """What follows upon `begin`."""
        return self.decoder.finish(h, levels)

    def decoded(self, latents: Float[Array, "batch *sides _"]) -> Float[Array, "batch *sides _"]:
        """What the decoder is given of ẑ."""
        raise NotImplementedError


def _each(name: str, value: Any, channels: int, above: float = -math.inf) -> Factors:
    """A number or one a channel, checked; above 0 where `above` is."""
    many = isinstance(value, (tuple, list))
    if many and len(value) != channels:
        raise ValueError(f"{name} must be one number or {channels}, one a channel; got {value!r}")
    for number in value if many else (value,):
        checks.number(name, number, above, ends="(]")
    return tuple(value) if many else value
