"""Small versions of the data, which the network enlarges: super-resolution."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax import parts
from cfg_jax.diffusion import checks
from cfg_jax.diffusion.condition import Noisy, noised
from cfg_jax.diffusion.noise import Stream
from cfg_jax.nn import downsample, space_axes, upsample
from cfg_jax.parts import Conditioner, Facts
from cfg_jax.runtime.files import read_arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class Small(Conditioner):
    """The example itself, its sides divided by `factor`: the network makes it large again.

    With `logsnr_min` it is noised, and the network is told how much: noise-conditioning
    augmentation (Ho et al. 2022, "Cascaded Diffusion Models", Section 4.2). Training draws
    λ ~ p(λ), cut off below logsnr_min; sampling noises to `logsnr`. The null is all zeros, at a λ
    of 10 below logsnr_min.

    Attributes:
      p_uncond: How often training hides it.
      guided: Whether guidance compares with a network that does not see it.
      factor: By how much each side is enlarged, from 2 to 65,536.
      logsnr_min: The noisiest λ of training; None for no noise at all.
      logsnr: The λ that sampling noises to; the schedule's cleanest when None.

    Raises:
      ValueError: A value is out of range, or logsnr is not for such a network.
    """

    guided: bool = False
    factor: int = 2
    logsnr_min: float | None = None
    logsnr: float | None = None
    shape: tuple[int, ...] | None = dataclasses.field(default=None, metadata=parts.BOUND)
    name: str = dataclasses.field(default="small", repr=False, metadata=parts.BOUND)

    help = (
        "an .npz file of small images, as `sample` writes it; held-out ones made small if not given"
    )

    def __post_init__(self):
        super().__post_init__()
        checks.whole("factor", self.factor, 2, 65_536)
        for name in ("logsnr_min", "logsnr"):
            if getattr(self, name) is not None:
                checks.logsnr(name, getattr(self, name))
        if self.logsnr is None:
            return
        if self.logsnr_min is None:
            raise ValueError("logsnr needs a network trained with noise: logsnr_min is None")
        if self.logsnr < self.logsnr_min:
            raise ValueError(
                f"logsnr must be at least logsnr_min, {self.logsnr_min}; got {self.logsnr}"
            )

    def bind(self, name: str, facts: Facts) -> "Small":
        """Takes the shape from the data."""
        x = jax.ShapeDtypeStruct((1, *facts.shape), jnp.float32)
        sides = [x.shape[axis] for axis in space_axes(x.ndim)]
        if any(side % self.factor for side in sides):
            raise ValueError(
                f"{name} is enlarged {self.factor} times, so each side must be a multiple of "
                f"{self.factor}; got {'×'.join(map(str, sides))}"
            )
        small = jax.eval_shape(lambda x: downsample(x, self.factor), x)
        return dataclasses.replace(self, shape=small.shape[1:], name=name)

    @property
    def inlet(self) -> parts.Beside:
        """Enlarged and laid beside z."""
        if self.shape is None:
            raise ValueError(f"{self.name} has no shape yet: bind it to data")
        return parts.Beside(self.shape, noised=self.logsnr_min is not None)

    @property
    def null(self) -> Any:
        """All zeros; a network that is told the noise level is told one that no image has."""
        return 0.0 if self.logsnr_min is None else Noisy(0.0, self.logsnr_min - _BELOW)

    def read(self, params, batch, x):
        """The batch's data, made small."""
        return downsample(x, self.factor)

    def shown(self, keys, entry, schedule):
        """Noised to λ ~ p(λ), above logsnr_min."""
        if self.logsnr_min is None:
            return entry
        checks.within(
            f"{self.name}.logsnr_min", self.logsnr_min, schedule.logsnr_min, schedule.logsnr_max
        )
        folded = jax.vmap(jax.random.fold_in, (0, None))(keys, int(Stream.AUGMENTATION_LEVEL))
        u = jax.vmap(jax.random.uniform)(folded) * schedule.u(self.logsnr_min)
        return _noised(keys, entry, schedule.logsnr(u))

    def given(self, value: Any, params: Any = None) -> Any:
        """Small images in [-1, 1] of (batch, *shape), or {"x": images, "logsnr": λ}.

        Raises:
          ValueError: They have another shape, or hold a NaN or an infinity; or λ is given to a
            network that knows no noise, or is below logsnr_min.
        """
        given = dict(value) if isinstance(value, dict) else {"x": value}
        if set(given) - {"x", "logsnr"} or "x" not in given:
            raise ValueError(f'{self.name} must be images, or {{"x": images, "logsnr": λ}}')
        checks.numbers(self.name, given["x"])
        checks.no_bytes(self.name, given["x"])
        x, wanted = jnp.asarray(given["x"], jnp.float32), self.inlet.shape
        if x.shape[1:] != wanted:
            raise ValueError(f"{self.name} must have shape (batch, {wanted}), got {x.shape}")
        if not isinstance(x, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(x))):
            raise ValueError(f"{self.name} must be finite")
        if self.logsnr_min is None:
            if "logsnr" in given:
                raise ValueError(
                    f"{self.name} takes no logsnr: the network was trained without noise"
                )
            return x
        logsnr = given.get("logsnr", self.logsnr)
        if logsnr is not None:
            checks.within(f"{self.name}.logsnr", logsnr, self.logsnr_min, float("inf"))
        level = jnp.asarray(jnp.inf if logsnr is None else logsnr, jnp.float32)
        return Noisy(x, jnp.broadcast_to(level, x.shape[:1]))

    def sampled(self, keys, entry, schedule):
        """Noised as was asked for, or to the schedule's cleanest level."""
        if self.logsnr_min is None:
            return entry
        return _noised(keys, entry.z, jnp.minimum(entry.logsnr, schedule.logsnr_max))

    def parse(self, text: str) -> np.ndarray:
        """`arr_0` of an .npz file, uint8, as floats."""
        images = read_arrays(text, ("arr_0",), needed=("arr_0",))["arr_0"]
        if images.dtype != np.uint8 or images.shape[1:] != self.inlet.shape or not len(images):
            raise ValueError(
                f"arr_0 of {text} must be uint8 images of {self.inlet.shape}, "
                f"got {images.dtype}{images.shape}"
            )
        return images.astype(np.float32) / np.float32(127.5) - np.float32(1.0)

    def lend(self, examples, x):
        """The examples, made small."""
        return np.asarray(downsample(jnp.asarray(x), self.factor))

    def drawn(self, value, x):
        """Each small place as a square of so many."""
        small = value["x"] if isinstance(value, dict) else value
        return np.asarray(upsample(jnp.asarray(small), self.factor))


_BELOW = 10.0


def _noised(keys: jax.Array, x: jax.Array, logsnr: jax.Array) -> Noisy:
    """Each example noised to its λ by noise of its own key."""
    folded = jax.vmap(jax.random.fold_in, (0, None))(keys, int(Stream.AUGMENTATION))
    return noised(folded, x, logsnr=logsnr)
