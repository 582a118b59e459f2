"""The denoising error of one network that learns with its condition and without.

    E_{x,c} E_{λ ~ p(λ)} E_{ε ~ N(0, I)}  w(λ) ‖ p_θ(z_λ, λ, c̃) - p ‖²,    z_λ = α_λ x + σ_λ ε

where p is the target, a combination of x and ε, and c̃ is the null with probability p_uncond, else c
(Ho & Salimans 2022, Algorithm 1 and Equation 5, for p = ε). The norm is the mean over an example's
entries, in float32.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cfg_jax.diffusion import checks, prediction
from cfg_jax.diffusion.logsnr import alpha, expand, floating, sigma
from cfg_jax.diffusion.noise import Stream
from cfg_jax.diffusion.prediction import Kind
from cfg_jax.objectives.draw import Draw, draw, mean, normal
from cfg_jax.objectives.weighting import Uniform
from cfg_jax.parts import Ask, Condition, Setting

TARGETS = ("eps", "x", "v", "flow", "edm")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising:
    """The weighted squared error of a prediction.

    Attributes:
      target: What the network predicts: "eps", "x", "v" (Salimans & Ho 2022), "flow" (ε - x, Liu et
        al. 2022), or "edm" (Karras et al. 2022, Equation 8).
      weight: A weighting, see `weighting`: any callable `logsnr -> weight`.
      sigma_data: The data's standard deviation, for "edm" alone.
      noise_offset: How much of one more draw of N(0, 1) an example and channel is added to all of
        the channel's ε, so that overall brightness is learned too; 0 for none, 0.1 in the article
        (Guttenberg 2023, "Diffusion with Offset Noise").
      input_perturbation: γ: z_λ is made with ε + γ ξ, ξ ~ N(0, I), and the target stays that of ε;
        0 for none, 0.1 in the paper (Ning et al. 2023, "Input Perturbation Reduces Exposure Bias in
        Diffusion Models", Algorithm 1).

    Raises:
      ValueError: There is no such target, weight is no callable, sigma_data is not positive and
        finite, or another number is negative or not finite.
    """

    target: str = dataclasses.field(default="eps", metadata={"static": True})
    weight: Any = dataclasses.field(default=Uniform(), metadata={"static": True})
    sigma_data: float = dataclasses.field(default=0.5, metadata={"static": True})
    noise_offset: float = dataclasses.field(default=0.0, metadata={"static": True})
    input_perturbation: float = dataclasses.field(default=0.0, metadata={"static": True})

    def __post_init__(self):
        if not isinstance(self.target, str) or self.target not in TARGETS:
            raise ValueError(
                f"target must be one of {', '.join(TARGETS)}; got {checks.told(self.target)}"
            )
        if not callable(self.weight):
            raise ValueError(
                f"weight must be a callable logsnr -> weight, got {checks.told(self.weight)}"
            )
        checks.number("sigma_data", self.sigma_data, 0.0, ends="()")
        checks.number("noise_offset", self.noise_offset, 0.0)
        checks.number("input_perturbation", self.input_perturbation, 0.0)

    @property
    def kind(self) -> Kind:
        """The prediction that the network makes."""
        if self.target == "edm":
            return prediction.edm(self.sigma_data)
        return prediction.KINDS[self.target]

    def draw(
        self, key: jax.Array, x: Float[Array, "batch ..."], cond: Condition, setting: Setting
    ) -> Draw:
        """Draws λ, ε and who is hidden, and weighs each example by its λ."""
        drawn = draw(key, x, cond, setting)
        if self.noise_offset:
            shape = (*(1,) * (x.ndim - 2), x.shape[-1])
            shift = normal(key, x, Stream.OFFSET, shape)
            drawn = drawn._replace(eps=drawn.eps + self.noise_offset * shift)
        if self.input_perturbation:
            added = self.input_perturbation * normal(key, x, Stream.PERTURBATION)
            drawn = drawn._replace(added=added)
        weight = self.weight(drawn.logsnr) * conversion(self.weight, self.kind, drawn.logsnr)
        if getattr(self.weight, "over", "p") == "logsnr":
            weight = weight * jnp.exp(-setting.schedule.log_prob(drawn.logsnr))
        return drawn._replace(weight=weight)

    def losses(self, ask: Ask, drawn: Draw) -> Float[Array, " batch"]:
        """Each example's weighted squared error."""
        value = prediction_of(asked(ask, drawn, self.kind), drawn.z)
        error = value.astype(jnp.promote_types(value.dtype, jnp.float32)) - wanted(drawn, self.kind)
        return drawn.weight * mean(jnp.square(error))


def asked(ask: Ask, drawn: Draw, kind: Kind) -> Any:
    """What the network says of z_λ, which a kind of prediction may want scaled."""
    return ask(prediction.scaled(drawn.z, logsnr=drawn.logsnr, kind=kind), drawn.logsnr, drawn.cond)


def prediction_of(output: Any, z: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """What a network predicts, without the variance that it may have learned beside it.

    Raises:
      ValueError: It is no array of floats of z's shape.
    """
    return prediction.checked(getattr(output, "value", output), z, "a network")


def wanted(drawn: Draw, kind: Kind) -> Float[Array, "batch ..."]:
    """The target p = a x + b ε."""
    a, b = kind.coefficients(alpha(drawn.logsnr), sigma(drawn.logsnr))
    a, b = expand(floating(a), drawn.x), expand(floating(b), drawn.x)
    return floating(a * drawn.x + b * drawn.eps)


def conversion(weight: Any, kind: Kind, logsnr: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """What the error of a weighting's space is, over that of the prediction itself.

    z is given, so every error is a multiple of any other: with p = a x + b ε and d = α b - σ a,

        p̂ - p = -(d / σ) (x̂ - x) = (d / α) (ε̂ - ε).
    """
    space = getattr(weight, "space", "eps")
    if space == "own":
        return jnp.ones_like(logsnr)
    signal, noise = alpha(logsnr), sigma(logsnr)
    a, b = kind.coefficients(signal, noise)
    own = {"x": noise, "eps": signal}[space]
    return jnp.square(own / (signal * b - noise * a))
