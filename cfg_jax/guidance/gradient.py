"""Guidance by a gradient with respect to z: of a noisy classifier, and of a loss of x̂.

    classifier:  ε̃(z_λ, c) = ε(z_λ, c) - w σ ∇_z log p(c|z_λ)
    energy:      ε̃(z_λ, c) = ε(z_λ, c) + w σ ∇_z ℓ(x̂(z_λ, c), z_λ, λ, c)

The first is Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", Algorithm 2,
and Ho & Salimans 2022, Section 3.1. The former's Algorithm 1 shifts the mean of an ancestral step
instead, by the step's variance times the gradient (`ascent`). Moving ε̂ moves that mean too:

    classifier:  (1 - e^(λ-λ')) σ² (α'/α) w ∇_z log p(c|z_λ)
    ascent:      (1 - e^(λ-λ')) (σ'²)^(1-v) (σ²)^v w ∇_z log p(c|z_λ)

The ratio, (α'/α) (σ²/σ'²)^(1-v), is above 1 and goes to 1 as λ' goes to λ: the two part where steps
are few, and where x̂ is clipped, which limits `classifier` and not `ascent`.

The energy's is the forward guidance of Bansal et al. 2023, "Universal Guidance for Diffusion
Models", Equation 6, with s(t) = w σ.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from cfg_jax.diffusion import checks, prediction
from cfg_jax.diffusion.denoiser import Denoiser, read
from cfg_jax.diffusion.logsnr import expand, sigma
from cfg_jax.guidance.base import Guidance, amount, moved, strength
from cfg_jax.guidance.unconditional import unconditional

_LOG_PROB = "(z, logsnr, cond) -> log p(c|z)"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(Guidance):
    """The denoiser ε - w σ ∇_z log p(c|z); made by `classifier`.

    Attributes:
      denoiser: The denoiser that the classifier guides.
      log_prob: `(z, logsnr, cond) -> (batch,)`.
      w: The strength, a scalar or `PerExample` of (batch,).
    """

    denoiser: Any
    log_prob: Any
    w: Any

    def __call__(self, z, logsnr, cond):
        """Returns the guided pair."""
        uphill = Ascent(log_prob=self.log_prob, w=self.w)(z, logsnr, cond)
        step = -expand(sigma(logsnr), z) * uphill
        return moved(read(self.denoiser, z, logsnr, cond), step, logsnr, prediction.EPS)


def classifier(
    denoiser: Denoiser, log_prob: Callable, *, w: ArrayLike, null: Any = None
) -> Classifier:
    """Guides a denoiser by a classifier of noisy data (Dhariwal & Nichol 2021, Algorithm 2).

    ε̃ = ε(c) - w σ ∇_z log p(c|z_λ), or with ε(∅) in the place of ε(c). Acts in ε-space, x̂ moving
    with it. w = 0 is the plain denoiser to the last bit. With an exact classifier, w around the
    conditional network and w + 1 around the unconditional one are the same (Ho & Salimans 2022,
    Section 3.1), and are `classifier_free` of w (Section 3.2): the s of classifier guidance around
    an unconditional network, 1 to sample from p(x|c), is w here.

    Args:
      denoiser: Any denoiser, which is not differentiated.
      log_prob: `(z, logsnr, cond) -> (batch,)`, log p(c|z_λ) of each example, differentiable in z:
        a callable pytree, or a plain function.
      w: The strength, any real number: a scalar, or (batch,) for one an example. It may be traced.
      null: When given, the denoiser is asked with this in the place of the condition, which only
        the classifier sees then.

    Returns:
      A denoiser that returns pairs.

    Raises:
      ValueError: w is no finite number or has more than one axis. When called: log_prob does not
        return (batch,), or null does not fit the condition.
      TypeError: denoiser or log_prob cannot be called.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> zero = lambda z, logsnr, cond: jnp.zeros_like(z)
    >>> log_prob = lambda z, logsnr, cond: -((z - 1.0) ** 2).sum(1)
    >>> guided = guidance.classifier(zero, log_prob, w=1.0)
    >>> round(guided(jnp.zeros((1, 1)), 0.0, None).eps.item(), 4)
    -1.4142
    """
    checks.function("denoiser", denoiser)
    checks.function("log_prob", log_prob, _LOG_PROB)
    if null is not None:
        denoiser = unconditional(denoiser, null=null)
    return Classifier(denoiser=denoiser, log_prob=log_prob, w=strength("w", w))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ascent:
    """The direction w ∇_z log p(c|z_λ); made by `ascent`.

    Attributes:
      log_prob: `(z, logsnr, cond) -> (batch,)`.
      w: The strength, a scalar or `PerExample` of (batch,).
    """

    log_prob: Any
    w: Any

    def __call__(self, z, logsnr, cond):
        """Returns the direction, of z's shape."""
        gradient = jax.grad(lambda z: _total("log_prob", self.log_prob(z, logsnr, cond), z))(z)
        return amount(self.w, z) * gradient


def ascent(log_prob: Callable, *, w: ArrayLike) -> Ascent:
    """The direction in which a classifier moves the mean of an ancestral step.

    For `solvers.Ancestral(shift=...)`, whose mean then is μ̃ + w σ̃² ∇_z log p(c|z_λ): Dhariwal &
    Nichol 2021, Algorithm 1, with s for w. `classifier` moves ε̂ instead, for every solver.

    Args:
      log_prob: As in `classifier`.
      w: The strength, any real number; it may be traced.

    Returns:
      `(z, logsnr, cond) -> direction`.

    Raises:
      ValueError: w is no finite number. When called: log_prob does not return (batch,).
      TypeError: log_prob cannot be called.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> log_prob = lambda z, logsnr, cond: -(z**2).sum(1)
    >>> guidance.ascent(log_prob, w=0.5)(jnp.ones((1, 2)), 0.0, None).tolist()
    [[-1.0, -1.0]]
    """
    checks.function("log_prob", log_prob, _LOG_PROB)
    return Ascent(log_prob=log_prob, w=strength("w", w))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Energy(Guidance):
    """The denoiser ε + w σ ∇_z ℓ(x̂(z)); made by `energy`.

    Attributes:
      denoiser: The denoiser that the loss guides.
      loss: `(x, z, logsnr, cond) -> (batch,)`.
      w: The strength, a scalar or `PerExample` of (batch,).
    """

    denoiser: Any
    loss: Any
    w: Any

    def __call__(self, z, logsnr, cond):
        """Returns the guided pair."""

        def total(z):
            pair = read(self.denoiser, z, logsnr, cond)
            return _total("loss", self.loss(pair.x, z, logsnr, cond), z), pair

        gradient, pair = jax.grad(total, has_aux=True)(z)
        step = amount(self.w, z) * expand(sigma(logsnr), z) * gradient
        return moved(pair, step, logsnr, prediction.EPS)


def energy(denoiser: Denoiser, loss: Callable, *, w: ArrayLike) -> Energy:
    """Guides a denoiser towards a small loss of its x̂ (Bansal et al. 2023, Equation 6).

    ε̃ = ε(c) + w σ ∇_z ℓ(x̂(z_λ, c), z_λ, λ, c), differentiated through the denoiser: one evaluation
    and its transpose. A distance between an image's embedding and a text's makes CLIP guidance.
    Acts in ε-space, x̂ moving with it. w = 0 is the plain denoiser to the last bit; w > 0 lowers the
    loss. It has the units of the loss: there is no 1 + w.

    Args:
      denoiser: Any denoiser that is differentiable in z, guided or not.
      loss: `(x, z, logsnr, cond) -> (batch,)`, the loss of each example, differentiable in x and z:
        a callable pytree, or a plain function.
      w: The strength, any real number: a scalar, or (batch,) for one an example. It may be traced.

    Returns:
      A denoiser that returns pairs.

    Raises:
      ValueError: w is no finite number or has more than one axis. When called: loss does not return
        (batch,).
      TypeError: denoiser or loss cannot be called.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> zero = lambda z, logsnr, cond: jnp.zeros_like(z)
    >>> loss = lambda x, z, logsnr, cond: ((x - 1.0) ** 2).sum(1)
    >>> guided = guidance.energy(zero, loss, w=0.5)
    >>> round(guided(jnp.zeros((1, 1)), 0.0, None).x.item(), 4)
    1.0
    """
    checks.function("denoiser", denoiser)
    checks.function("loss", loss, "(x, z, logsnr, cond) -> (batch,)")
    return Energy(denoiser=denoiser, loss=loss, w=strength("w", w))


def _total(name: str, values, z):
    """Sums one number an example: the gradient of the sum is each example's own."""
    if jnp.shape(values) != z.shape[:1]:
        raise ValueError(
            f"{name} must return one number an example, shape {z.shape[:1]}, "
            f"got shape {jnp.shape(values)}"
        )
    return jnp.sum(values)
