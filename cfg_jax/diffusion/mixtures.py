"""Class-conditional Gaussian mixtures, whose denoisers and densities are known exactly.

    p(x|c) = Σ_k π_ck N(x; μ_ck, s_ck² I)
    p(z_λ|c) = Σ_k π_ck N(z; α μ_ck, (α² s_ck² + σ²) I)
    ε(z_λ, c) = -σ ∇_z log p(z_λ|c) = Σ_k r_ck(z) σ (z - α μ_ck) / (α² s_ck² + σ²)

with r_ck the posterior probability of component k. So samplers, guidance and likelihoods can be
held against the truth instead of against numbers that a program once printed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.logsnr import alpha, expand, floating, sigma
from cfg_jax.diffusion.precision import enable_x64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianMixture:
    """A mixture of isotropic Gaussians for each of several classes; itself an exact denoiser.

    As a denoiser it takes labels in [0, classes]; the last one, `null`, stands for no condition:
    the mixture of all classes by their priors. cond = None means the same for every example.

    Attributes:
      means: μ, (classes, modes, dim).
      stds: s, (classes, modes), 0 allowed.
      log_weights: log π of each mode within its class, (classes, modes); -∞ allowed.
      log_priors: log p(c), (classes,).
    """

    means: Float[Array, "classes modes dim"]
    stds: Float[Array, "classes modes"]
    log_weights: Float[Array, "classes modes"]
    log_priors: Float[Array, " classes"]

    @property
    def null(self) -> int:
        """The label that stands for no condition."""
        return self.means.shape[0]

    def __call__(
        self, z: Float[Array, "batch dim"], logsnr: ArrayLike, cond: Int[Array, " batch"] | None
    ) -> Float[Array, "batch dim"]:
        """The exact ε(z_λ, c) = E[ε | z_λ, c]."""
        logits, away, variance = self._components(z, logsnr, cond)
        responsibility = jax.nn.softmax(logits, axis=(1, 2)) / variance
        return expand(sigma(logsnr), z) * jnp.einsum("bcm,bcmd->bd", responsibility, away)

    def log_prob(
        self,
        z: Float[Array, "batch dim"],
        logsnr: ArrayLike,
        cond: Int[Array, " batch"] | None = None,
    ) -> Float[Array, " batch"]:
        """The exact log p(z_λ|c), or log p(z_λ) where cond is None or the null."""
        logits, _, _ = self._components(z, logsnr, cond)
        return jax.nn.logsumexp(logits, axis=(1, 2))

    def log_posterior(
        self, z: Float[Array, "batch dim"], logsnr: ArrayLike
    ) -> Float[Array, "batch classes"]:
        """The exact log p(c|z_λ): the perfect noisy classifier."""
        logits, _, _ = self._components(z, logsnr, None)
        return jax.nn.log_softmax(jax.nn.logsumexp(logits, axis=2), axis=1)

    def sample(self, key: jax.Array, cond: Int[Array, " batch"]) -> Float[Array, "batch dim"]:
        """Draws x ~ p(x|c), one for each label; the null draws a class first."""
        class_key, mode_key, noise_key = jax.random.split(key, 3)
        drawn = jax.random.categorical(class_key, self.log_priors, shape=cond.shape)
        label = jnp.where(cond == self.null, drawn, cond)
        mode = jax.random.categorical(mode_key, self.log_weights[label])
        noise = jax.random.normal(noise_key, (len(cond), self.means.shape[-1]), self.means.dtype)
        return self.means[label, mode] + self.stds[label, mode][:, None] * noise

    def _components(self, z, logsnr, cond) -> tuple[Array, Array, Array]:
        """Each component's log π N(z), z - α μ, and variance α² s² + σ², by example."""
        logsnr = jnp.broadcast_to(floating(logsnr), z.shape[:1])[:, None, None]
        signal, noise = alpha(logsnr), sigma(logsnr)
        away = z[:, None, None, :] - signal[..., None] * self.means
        variance = jnp.square(signal * self.stds) + jnp.square(noise)
        dim = z.shape[-1]
        log_normal = -0.5 * (
            jnp.sum(jnp.square(away), -1) / variance + dim * jnp.log(2 * jnp.pi * variance)
        )
        return log_normal + self._log_weight(cond, len(z)), away, variance

    def _log_weight(self, cond, batch: int) -> Float[Array, "batch classes modes"]:
        """The log weight of each component given the label: -∞ outside the label's own class."""
        classes = jnp.arange(self.null)
        label = jnp.full((batch,), self.null) if cond is None else cond
        of_class = jnp.where(
            (label == self.null)[:, None],
            self.log_priors,
            jnp.where(label[:, None] == classes, 0.0, -jnp.inf),
        )
        return of_class[:, :, None] + self.log_weights


def gaussian_mixture(
    means: ArrayLike | Sequence,
    stds: ArrayLike | Sequence,
    *,
    weights: ArrayLike | Sequence | None = None,
    priors: ArrayLike | Sequence | None = None,
) -> GaussianMixture:
    """Makes a class-conditional Gaussian mixture.

    Args:
      means: (classes, modes, dim).
      stds: The components' standard deviations, broadcast to (classes, modes); 0 is a point.
      weights: Of the modes within each class, (classes, modes), normalised here; equal when None.
      priors: p(c), (classes,), normalised here; equal when None.

    Returns:
      The mixture, an exact denoiser.

    Raises:
      ValueError: means has not three axes, a number is not finite, or a standard deviation or
        weight is negative.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax import guidance, mixtures, sample, schedules
    >>> clusters = mixtures.gaussian_mixture([[[-1.0, 0.0]], [[1.0, 0.0]]], 0.1)
    >>> guided = guidance.classifier_free(clusters, w=1.0, null=clusters.null)
    >>> x = sample(guided, jax.random.key(0), jnp.array([0, 1]), shape=(2,),
    ...            schedule=schedules.Cosine(), steps=64)
    >>> jnp.sign(x[:, 0]).tolist()
    [-1.0, 1.0]
    """
    given = {"means": means, "stds": stds, "weights": weights, "priors": priors}
    for name, value in given.items():
        if value is not None:
            checks.finite(name, value)
    means = _array(means)
    if means.ndim != 3:
        raise ValueError(f"means must have shape (classes, modes, dim), got {means.shape}")
    shape = means.shape[:2]
    stds = jnp.broadcast_to(_array(stds), shape).astype(means.dtype)
    weights = jnp.ones(shape) if weights is None else jnp.broadcast_to(_array(weights), shape)
    priors = jnp.ones(shape[0]) if priors is None else _array(priors)
    for name, value in {"stds": stds, "weights": weights, "priors": priors}.items():
        if not isinstance(value, jax.core.Tracer) and np.any(np.asarray(value) < 0):
            raise ValueError(f"{name} must not be negative, got {value}")
    return GaussianMixture(
        means=means,
        stds=stds,
        log_weights=jnp.log(weights / weights.sum(1, keepdims=True)).astype(means.dtype),
        log_priors=jnp.log(priors / priors.sum()).astype(means.dtype),
    )


def reference(
    denoiser: Denoiser,
    z: ArrayLike,
    cond: Any = None,
    *,
    logsnr_from: float,
    logsnr_to: float = 60.0,
    tolerance: float = 1e-10,
) -> np.ndarray:
    """Solves the probability-flow ODE of an exact (guided) denoiser in float64.

    In y = z / α and s = σ / α = e^(-λ/2) the flow is dy/ds = ε(α y, λ) (Song et al. 2021,
    "Denoising Diffusion Implicit Models", Equation 14); here it runs in log s, by an adaptive
    method of order 8 (SciPy's DOP853).

    Args:
      denoiser: Any denoiser that computes in float64 when asked to, such as a mixture or a guidance
        of it.
      z: z_λ at `logsnr_from`, (batch, ...).
      cond: The condition.
      logsnr_from: λ to start from, the noisier end.
      logsnr_to: λ to end at; at 60, σ is 1e-13 and z is x.
      tolerance: Relative and absolute, of the integration.

    Returns:
      z_λ at `logsnr_to`, float64, of z's shape.

    Raises:
      ValueError: The integration failed.
    """
    from scipy.integrate import solve_ivp

    from cfg_jax.diffusion.denoiser import read

    with enable_x64(True):
        start = np.asarray(z, np.float64)
        wide = jax.tree.map(_widen, (denoiser, cond))

        @jax.jit
        def slope(log_s, y):
            s = jnp.exp(log_s)
            scaled = alpha(-2.0 * log_s) * y.reshape(start.shape)
            return (s * read(wide[0], scaled, -2.0 * log_s, wide[1]).eps).ravel()

        solution = solve_ivp(
            lambda t, y: np.asarray(slope(t, y)),
            (-logsnr_from / 2.0, -logsnr_to / 2.0),
            (start / np.asarray(alpha(logsnr_from))).ravel(),
            method="DOP853",
            rtol=tolerance,
            atol=tolerance,
        )
        if not solution.success:
            raise ValueError(f"the reference solution failed: {solution.message}")
        return np.asarray(alpha(logsnr_to)) * solution.y[:, -1].reshape(start.shape)


def _array(values: ArrayLike | Sequence) -> Float[Array, "..."]:
    return floating(values if isinstance(values, jax.Array) else np.asarray(values))


def _widen(leaf: Any) -> Any:
    """float64 for every float, and other leaves as they are."""
    if isinstance(leaf, (jax.Array, np.ndarray, float)) and jnp.issubdtype(
        jnp.result_type(leaf), jnp.floating
    ):
        return jnp.asarray(np.asarray(leaf), jnp.float64)
    return leaf
