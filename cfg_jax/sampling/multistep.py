"""Solvers of one call a step that remember their last estimates: DPM-Solver++ and UniPC.

Each step integrates a polynomial through the last x̂ (see `exponential`). Where estimates are yet
few, at the start, the polynomial is of lower degree; the last step, to λ' = ∞, returns x̂.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.denoiser import read
from cfg_jax.diffusion.logsnr import alpha, expand, floating, log_sigma, root, sigma
from cfg_jax.sampling.exponential import integral, moments
from cfg_jax.sampling.solver import LONGEST, check_knob, fresh, register, scalar

_AHEAD = 3.0
"""How many times as long as the last step a step may be that extrapolates earlier estimates."""


class History(NamedTuple):
    """The last estimates, the newest first.

    Attributes:
      x: x̂, (length, batch, ...).
      logsnr: Their λ, (length, batch).
      made: How many there have been.
    """

    x: Float[Array, "length ..."]
    logsnr: Float[Array, "length batch"]
    made: Int[Array, ""]

    @classmethod
    def empty(cls, z: Float[Array, "..."], length: int) -> "History":
        """No estimates yet: zeros, at levels that differ from each other and from all others."""
        never = -1000.0 * (1.0 + jnp.arange(length, dtype=z.dtype))
        levels = jnp.broadcast_to(never[:, None], (length, len(z)))
        return cls(jnp.zeros((length, *z.shape), z.dtype), levels, jnp.zeros((), jnp.int32))

    def add(self, x: Float[Array, "..."], logsnr: ArrayLike) -> "History":
        """With a new estimate first, the oldest dropped."""
        level = jnp.broadcast_to(jnp.asarray(logsnr, self.logsnr.dtype), self.logsnr.shape[1:])
        return History(
            jnp.concatenate([x[None].astype(self.x.dtype), self.x])[: len(self.x)],
            jnp.concatenate([level[None], self.logsnr])[: len(self.logsnr)],
            self.made + 1,
        )


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolverPP:
    """DPM-Solver++, multistep: "2M" is order 2, "3M" order 3; order 1 is deterministic DDIM.

    With ℓ = λ/2, h = ℓ' - ℓ and κ = 1 + η²,

        z' = (σ'/σ) e^(-η² h) z + α' κ ∫_0^h e^(κ (u-h)) x̂(ℓ + u) du + σ' sqrt(1 - e^(-2 η² h)) n

    (Lu et al. 2022b, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic
    Models": η = 0 is Proposition 4.1, η = 1 its stochastic form, SDE-DPM-Solver++). Order 2 takes
    the integrand's line at the middle of the step, as their Algorithm 2 does; order 3 integrates
    the parabola exactly. (The published "3M" weighs the second difference by half, and so is
    another method, less exact.)

    Attributes:
      order: 1, 2 or 3; static.
      eta: η, in [0, 1]: 0 is deterministic and draws no noise, 1 the SDE of the forward process
        reversed.

    Raises:
      ValueError: order is none of 1, 2, 3, or eta is outside [0, 1].

    >>> import jax
    >>> from cfg_jax import solvers
    >>> jax.tree.leaves(solvers.DPMSolverPP(order=3, eta=1.0))
    [1.0]
    """

    reads_eps: ClassVar[bool] = False

    order: int = dataclasses.field(default=2, metadata={"static": True})
    eta: ArrayLike = 0.0

    def __post_init__(self):
        object.__setattr__(self, "order", checks.whole("order", self.order, 1, 3))
        check_knob("eta", self.eta, 0.0, 1.0)

    def init(self, z):
        """As many estimates as the order needs."""
        return History.empty(z, self.order)

    def step(self, denoiser, z, state, cond, noise, *, logsnr, logsnr_next):
        """Integrates the polynomial through the last `order` estimates, this one included."""
        state = state.add(read(denoiser, z, logsnr, cond).x, logsnr)
        eta = scalar("eta", self.eta)
        kappa = 1.0 + eta**2
        h = _half_gap(logsnr, logsnr_next)
        m = moments(kappa * h, self.order)  # everything in κ u: κ e^(κ u) du is e^(κ u) d(κ u)
        if self.order == 2:
            m[1] = m[0] * kappa * h / 2.0
        nodes = [kappa * (level - logsnr) / 2.0 for level in state.logsnr]
        drift = integral(m, nodes, list(state.x), _known(state, logsnr_next))
        kept = _ratio(logsnr, logsnr_next) * jnp.exp(-(eta**2) * h)
        mean = expand(kept, z) * z + expand(alpha(logsnr_next), z) * drift
        # 1 - e^(-2 η² h) = 2 η² h · mean of e^-t over [0, 2 η² h], smooth in η.
        spread = eta * root(2.0 * h * _mean_decay(2.0 * eta**2 * h))
        return mean + fresh(noise, sigma(logsnr_next) * spread), state

    def calls(self, steps):
        """One a step."""
        return steps


class Corrigible(NamedTuple):
    """What UniPC remembers: earlier estimates, and z where the newest of them was made."""

    history: History
    z: Float[Array, "..."]


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class UniPC:
    """The unified predictor-corrector, in the form that predicts the data.

    A step first corrects: with x̂ at hand it takes the *last* step again, the polynomial now also
    through x̂ (UniC-p, of order p + 1). Then it predicts: the polynomial through the last p
    estimates, x̂ included, goes on to λ' (UniP-p, of order p). Both need one call between them
    (Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of
    Diffusion Models", Algorithms 1 and 2, with data prediction).

    The paper's coefficients solve R_p(h) a = φ_p(h) / B(h) and are multiplied by B(h). Solved
    whole, as here, they are the exact integrals of the interpolating polynomial and B(h) cancels;
    it stays only where an implementation sets a_1 = 1/2 instead. Published samplers do so, and take
    the last steps with a lower order: their numbers are others.

    Attributes:
      order: p = 1, 2 or 3; static.
      corrector: Whether to correct; without, it is UniP-p. Static.

    Raises:
      ValueError: order is none of 1, 2, 3, or corrector is no truth value.

    >>> from cfg_jax import solvers
    >>> solvers.UniPC(order=3).calls(10)
    10
    """

    reads_eps: ClassVar[bool] = False

    order: int = dataclasses.field(default=2, metadata={"static": True})
    corrector: bool = dataclasses.field(default=True, metadata={"static": True})

    def __post_init__(self):
        object.__setattr__(self, "order", checks.whole("order", self.order, 1, 3))
        checks.truth("corrector", self.corrector)

    def init(self, z):
        """As many estimates as the order needs, and z."""
        return Corrigible(History.empty(z, self.order), z)

    def step(self, denoiser, z, state, cond, noise, *, logsnr, logsnr_next):
        """Corrects z by the estimate made from it, and predicts the next."""
        x = read(denoiser, z, logsnr, cond).x
        if self.corrector:
            z = jnp.where(state.history.made > 0, self._correct(state, x, logsnr), z)
        history = state.history.add(x, logsnr)
        return self._predict(history, z, logsnr, logsnr_next), Corrigible(history, z)

    def calls(self, steps):
        """One a step."""
        return steps

    def _correct(self, state: Corrigible, x, logsnr):
        """UniC-p: the last step, taken again with x̂ at its end."""
        history, z = state
        start = jnp.where(history.made > 0, history.logsnr[0], logsnr - 1.0)
        h = _half_gap(start, logsnr)
        earlier = [(level - start) / 2.0 for level in history.logsnr[1:]]
        integrated = integral(
            moments(h, self.order + 1),
            [jnp.zeros_like(h), h, *earlier],
            [history.x[0], x, *history.x[1:]],
            1 + jnp.minimum(history.made, self.order),
        )
        return expand(_ratio(start, logsnr), z) * z + expand(alpha(logsnr), z) * integrated

    def _predict(self, history: History, z, logsnr, logsnr_next):
        """UniP-p: on to λ'."""
        m = moments(_half_gap(logsnr, logsnr_next), self.order)
        nodes = [(level - logsnr) / 2.0 for level in history.logsnr]
        integrated = integral(m, nodes, list(history.x), _known(history, logsnr_next))
        kept, signal = _ratio(logsnr, logsnr_next), alpha(logsnr_next)
        return expand(kept, z) * z + expand(signal, z) * integrated


def _mean_decay(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """(1 - e^-t) / t, 1 at t = 0, with its derivative."""
    near = t < 1e-2
    series = 1.0 - t / 2 * (1.0 - t / 3 * (1.0 - t / 4 * (1.0 - t / 5 * (1.0 - t / 6))))
    far = jnp.where(near, 1.0, t)
    return jnp.where(near, series, -jnp.expm1(-far) / far)


def _half_gap(logsnr: ArrayLike, logsnr_next: ArrayLike) -> Float[Array, "..."]:
    """(λ' - λ) / 2, at most 100: beside 1, e^(-100) is 0 as e^(-∞) is, and powers stay finite."""
    return jnp.minimum(0.5 * (floating(logsnr_next) - logsnr), 100.0)


def _ratio(logsnr: ArrayLike, logsnr_next: ArrayLike) -> Float[Array, "..."]:
    """σ' / σ, 0 at λ' = ∞."""
    return jnp.exp(log_sigma(logsnr_next) - log_sigma(logsnr))


def _known(history: History, logsnr_next: ArrayLike) -> Int[Array, "..."]:
    """How many estimates a step may use: all there are, but the newest alone for a long step.

    Long is a step above `LONGEST`, such as that to λ' = ∞, or above `_AHEAD` times the last one.
    """
    gap = floating(logsnr_next) - history.logsnr[0]
    last = history.logsnr[0] - history.logsnr[min(1, len(history.logsnr) - 1)]
    return jnp.where(gap > jnp.minimum(LONGEST, _AHEAD * last), 1, history.made)
