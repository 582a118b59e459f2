"""A denoiser, `(z, logsnr, cond) -> eps`, and the adapters that make one of any network.

A denoiser is any callable whose parameters are the leaves of a pytree: a
`jax.tree_util.Partial(apply, params)`, a module of a library that registers its modules with JAX,
or a plain function without parameters. So it travels through jit, pmap and grad as an argument, and
new parameters never compile anything anew.

Most denoisers return ε alone. One whose opinions of x and ε do not follow from each other, or that
learned the reverse variance, returns an `Estimate`; `read` and `as_pair` make one of either.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks, prediction, schedules
from cfg_jax.diffusion.condition import Condition
from cfg_jax.diffusion.logsnr import alpha, expand, floating, sigma
from cfg_jax.diffusion.prediction import Estimate
from cfg_jax.diffusion.schedules import DiscreteSchedule


@runtime_checkable
class Denoiser(Protocol):
    """Estimates the noise in z."""

    def __call__(
        self, z: Float[Array, "..."], logsnr: ArrayLike, cond: Condition
    ) -> Float[Array, "..."] | Estimate:
        """Estimates ε given z_λ of (batch, ...), λ (a scalar or (batch,)) and the condition."""


def read(
    denoiser: Denoiser, z: Float[Array, "..."], logsnr: ArrayLike, cond: Condition
) -> Estimate:
    """Calls a denoiser and returns x̂, ε̂, and v where it was learned, each of z's shape."""
    return as_pair(denoiser(z, logsnr, cond), z, logsnr)


def as_pair(
    output: Float[Array, "..."] | Estimate, z: Float[Array, "..."], logsnr: ArrayLike
) -> Estimate:
    """The `Estimate` that a denoiser returned for z, or the one made of ε̂ alone.

    Raises:
      ValueError: It returned neither an `Estimate` nor an array of z's shape.
    """
    said = prediction.checked(output, z)
    if isinstance(said, Estimate):
        return said
    return prediction.estimate(said, z, logsnr=logsnr, kind=prediction.EPS)


def learned_v(pair: Estimate) -> Float[Array, "..."]:
    """The v that a denoiser learned.

    Raises:
      ValueError: It learned none.
    """
    if pair.v is None:
        raise ValueError(
            "v is None, which stands for the variance that a network learned, but this denoiser "
            "learned none; give a number in [0, 1]"
        )
    return pair.v


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class FromPrediction:
    """The denoiser of a network, which is asked once whatever it predicts.

    Attributes:
      network: `(z, logsnr, cond) -> p`, or a pair of p as its `value` and a learned `v`.
      kind: What p predicts, a kind of `prediction`.
    """

    network: Any
    kind: prediction.Kind = dataclasses.field(metadata={"static": True})

    def __call__(self, z, logsnr, cond):
        """Returns ε̂ if that is all it predicts, else the `Estimate` that its prediction implies."""
        said = self.network(prediction.scaled(z, logsnr=logsnr, kind=self.kind), logsnr, cond)
        p, v = prediction.checked(getattr(said, "value", said), z), getattr(said, "v", None)
        if v is None and self.kind is prediction.EPS:
            return p
        return prediction.estimate(p, z, logsnr=logsnr, kind=self.kind)._replace(v=v)


def from_prediction(network: Any, kind: prediction.Kind | str) -> FromPrediction:
    """Makes a denoiser of a network that predicts something other than ε, or its variance beside.

    Args:
      network: `(z, logsnr, cond) -> p`, p of z's shape, or a pair with p as its `value` and the `v`
        of the reverse variance, such as `parts.Prediction`. It is shown z times the kind's scale,
        which is 1 but for `FLOW` and `edm()`.
      kind: What p predicts: `prediction.X`, `V`, `SCORE`, `FLOW`, `edm(sigma_data)` or `EPS`, or
        its name.

    Returns:
      A denoiser.

    Raises:
      TypeError: network cannot be called, or kind is none.
      ValueError: No kind has that name.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import prediction
    >>> from cfg_jax.diffusion import denoiser
    >>> knows_x = denoiser.from_prediction(lambda z, logsnr, cond: jnp.ones_like(z), prediction.X)
    >>> denoiser.read(knows_x, jnp.zeros((1, 2)), 0.0, None).x.tolist()
    [[1.0, 1.0]]
    """
    checks.function("network", network, "(z, logsnr, cond) -> p")
    return FromPrediction(network=network, kind=prediction.kind_of(kind))


_BOUNDS = (1e-30, 1e30)
"""What the range of the data may be."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped:
    """A denoiser whose x̂ stays within [-bound, bound]; ε̂ moves so that both still make up z.

    Attributes:
      denoiser: The denoiser whose x̂ is clipped.
      bound: The largest |x̂|.
    """

    denoiser: Any
    bound: ArrayLike = 1.0

    def __call__(self, z, logsnr, cond):
        """Returns the clipped `Estimate`."""
        raw = read(self.denoiser, z, logsnr, cond)
        bound = floating(self.bound)
        return _with_data(raw, jnp.clip(raw.x, -bound, bound), logsnr)


def clipped(denoiser: Denoiser, bound: ArrayLike = 1.0) -> Clipped:
    """Keeps a denoiser's x̂ within the range of the data.

    Acts in data space, on whatever it wraps: around a guided denoiser it clips the guided x̂, which
    is the usual place.

    Args:
      denoiser: Any denoiser, guided or not.
      bound: The largest |x̂|; data in [-1, 1] want 1.

    Returns:
      A denoiser that returns the pair (x̂, ε̂) with z = α x̂ + σ ε̂.

    Raises:
      TypeError: denoiser cannot be called.
      ValueError: bound is not positive and finite.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.diffusion.denoiser import clipped
    >>> zero = lambda z, logsnr, cond: jnp.zeros_like(z)
    >>> clipped(zero)(jnp.full((1, 1), 5.0), 0.0, None).x.tolist()
    [[1.0]]
    """
    checks.function("denoiser", denoiser)
    checks.within("bound", bound, *_BOUNDS)
    return Clipped(denoiser=denoiser, bound=bound)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class FromDiscrete:
    """A network that is told the time step t of a discrete-time diffusion, asked in λ instead.

    Attributes:
      network: `(z, t, cond) -> p`, t of (batch,).
      schedule: The noise levels that the network was trained on.
      rounded: Ask at the nearest whole t, as int32.
    """

    network: Any
    schedule: DiscreteSchedule = dataclasses.field(metadata={"static": True})
    rounded: bool = dataclasses.field(default=False, metadata={"static": True})

    def __call__(self, z, logsnr, cond):
        """Returns the network's prediction at t(λ)."""
        t = self.schedule.time(logsnr)
        t = jnp.rint(t).astype(jnp.int32) if self.rounded else t
        return self.network(z, jnp.broadcast_to(t, z.shape[:1]), cond)


def from_discrete(
    network: Any, schedule: DiscreteSchedule | str, *, rounded: bool = False
) -> FromDiscrete:
    """Makes a denoiser of a network that was trained in discrete time.

    Args:
      network: `(z, t, cond) -> eps`, t of (batch,) in [0, T - 1]. One that predicts something else
        than ε goes through `from_prediction` around this.
      schedule: The noise levels it was trained on, `schedules.LinearBeta` or `CosineBeta`, or its
        name.
      rounded: Give it the nearest whole t, as int32, instead of t as a float. On the schedule's own
        grid t is whole either way.

    Returns:
      A denoiser, `(z, logsnr, cond) -> eps`.

    Raises:
      TypeError: network cannot be called, or schedule is no discrete one.
      ValueError: No discrete schedule has that name, or rounded is not True or False.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import schedules
    >>> from cfg_jax.diffusion import denoiser
    >>> schedule = schedules.LinearBeta(steps=1000)
    >>> tells_t = denoiser.from_discrete(lambda z, t, cond: t[:, None] + 0.0 * z, schedule)
    >>> tells_t(jnp.zeros((1, 2)), schedule.at(250), None).tolist()
    [[250.0, 250.0]]
    """
    checks.function("network", network, "(z, t, cond) -> eps")
    checks.truth("rounded", rounded)
    made = schedules.made(schedule, DiscreteSchedule)
    return FromDiscrete(network=network, schedule=made, rounded=rounded)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicallyThresholded:
    """A denoiser whose x̂ is clipped at its own percentile; made by `dynamically_thresholded`.

    Attributes:
      denoiser: The denoiser whose x̂ is clipped.
      percentile: p, a fraction in [0, 1].
      bound: The largest |x̂| that results.
    """

    denoiser: Any
    percentile: ArrayLike = 0.995
    bound: ArrayLike = 1.0

    def __call__(self, z, logsnr, cond):
        """Returns the thresholded `Estimate`."""
        raw = read(self.denoiser, z, logsnr, cond)
        bound = floating(self.bound)
        sizes = jnp.abs(raw.x).reshape(len(raw.x), -1)
        largest = jnp.quantile(floating(sizes), floating(self.percentile), axis=1)
        s = expand(jnp.maximum(largest, bound), raw.x)
        return _with_data(raw, jnp.clip(raw.x, -s, s) * (bound / s), logsnr)


def dynamically_thresholded(
    denoiser: Denoiser, percentile: ArrayLike = 0.995, bound: ArrayLike = 1.0
) -> DynamicallyThresholded:
    """Keeps x̂ within the range of the data, by shrinking an example that leaves it.

    x̂' = clip(x̂, -s, s) · bound / s,  s = max(bound, the p-th percentile of an example's |x̂|)

    (Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language
    Understanding", Section 2.3.) Acts in data space, on whatever it wraps, usually a guided
    denoiser. It counts on data that fill [-bound, bound]; latents do not.

    Args:
      denoiser: Any denoiser, guided or not.
      percentile: p as a fraction, in [0, 1]; 1 only rescales, nothing is clipped.
      bound: The largest |x̂|; data in [-1, 1] want 1.

    Returns:
      A denoiser that returns the pair (x̂, ε̂) with z = α x̂ + σ ε̂; where the percentile does not
      exceed the bound it is `clipped`.

    Raises:
      TypeError: denoiser cannot be called.
      ValueError: percentile lies outside [0, 1], or bound is not positive and finite.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.diffusion.denoiser import dynamically_thresholded
    >>> zero = lambda z, logsnr, cond: jnp.zeros_like(z)
    >>> z = jnp.array([[4.0, 2.0, 0.0]])
    >>> dynamically_thresholded(zero, 1.0)(z, 0.0, None).x.round(6).tolist()
    [[1.0, 0.5, 0.0]]
    """
    checks.function("denoiser", denoiser)
    checks.within("percentile", percentile, 0.0, 1.0)
    checks.within("bound", bound, *_BOUNDS)
    return DynamicallyThresholded(denoiser=denoiser, percentile=percentile, bound=bound)


def _with_data(pair: Estimate, x: Float[Array, "..."], logsnr: ArrayLike) -> Estimate:
    """Replaces x̂; moving ε̂ by what x̂ moved leaves it untouched, to the last bit, elsewhere."""
    moved = expand(alpha(logsnr), x) * (pair.x - x) / expand(sigma(logsnr), x)
    return pair._replace(x=x, eps=pair.eps + moved)
