"""Guidance by a noisy CLIP: towards data whose embedding agrees with that of a text.

    ε̃(z_λ, c) = ε(z_λ, c) - w σ ∇_z (f(z_λ, λ)·g)

f is the embedding of noisy data, g that of a text (Nichol et al. 2022, "GLIDE: Towards
Photorealistic Image Generation and Editing with Text-Guided Diffusion Models", Section 2.4). GLIDE
shifts the mean of a step; here ε̂ moves, as by `gradient.classifier`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks
from cfg_jax.diffusion.condition import PerExample
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.logsnr import floating
from cfg_jax.guidance.gradient import Classifier, classifier


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Similarity:
    """`(z, logsnr, cond) -> f(z, λ)·g`, whatever the condition is; made by `agreement`.

    Attributes:
      image: `(z, logsnr) -> (batch, features)`, f.
      text: g, of (features,), or `PerExample` of (batch, features).
    """

    image: Any
    text: Any

    def __call__(self, z: Float[Array, "batch ..."], logsnr: ArrayLike, cond: Any) -> Array:
        """Each example's similarity, (batch,).

        Raises:
          ValueError: image does not return (batch, features), or there are not as many texts.
        """
        return jnp.sum(embedded(self.image(z, logsnr), self.text, len(z)), axis=-1)


def agreement(
    denoiser: Denoiser,
    image: Callable,
    *,
    text: Float[ArrayLike, "*batch features"],
    w: ArrayLike,
    null: Any = None,
) -> Classifier:
    """Guides a denoiser by a noisy CLIP (Nichol et al. 2022, Section 2.4).

    ε̃ = ε(c) - w σ ∇_z f(z_λ, λ)·g, or with ε(∅) in the place of ε(c). Acts in ε-space, x̂ moving
    with it. w = 0 is the plain denoiser to the last bit; w > 0 raises the similarity. Unit vectors
    that were learned with a scale s make s f·g log p(c|z_λ)/p(c), but for what is the same for all
    texts: w = s then guides as much as a classifier of w = 1, from which GLIDE counts.

    Args:
      denoiser: Any denoiser, which is not differentiated.
      image: `(z, logsnr) -> (batch, features)`, the embeddings of noisy data, differentiable in z:
        a callable pytree, such as `model.agreement.images`, or a plain function.
      text: The embeddings of the texts, one for all examples or one an example. Another text
        compiles nothing again.
      w: The strength, any real number: a scalar, or (batch,) for one an example. It may be traced.
      null: As in `classifier`.

    Returns:
      A denoiser that returns pairs.

    Raises:
      ValueError: w is no finite number or has more than one axis, or text holds no finite numbers
        or has more than two. When called: image does not return one vector of text's length an
        example, or null does not fit the condition.
      TypeError: denoiser or image cannot be called.

    >>> import jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> zero = lambda z, logsnr, cond: jnp.zeros_like(z)
    >>> text = jnp.array([1.0, 0.0])
    >>> guided = guidance.agreement(zero, lambda z, logsnr: z, text=text, w=1.0)
    >>> [round(eps, 4) for eps in guided(jnp.zeros((1, 2)), 0.0, None).eps[0].tolist()]
    [-0.7071, 0.0]
    """
    checks.function("image", image, "(z, logsnr) -> (batch, features)")
    return classifier(denoiser, Similarity(image=image, text=texts(text)), w=w, null=null)


def texts(value: Any) -> Any:
    """Embeddings of texts as an array of (features,), or of (batch, features) for each example.

    Raises:
      ValueError: They are no finite numbers, or have no axis or more than two.
    """
    checks.finite("text", value)
    given = value if isinstance(value, jax.Array) else checks.numbers("text", value)
    found = floating(jnp.asarray(value) if given is None else given)
    if found.ndim not in (1, 2):
        raise ValueError(
            f"text must have shape (features,) or (batch, features), got {found.shape}"
        )
    return PerExample(found) if found.ndim == 2 else found


def embedded(image: Any, text: Any, batch: int) -> Float[Array, "batch features"]:
    """The products of data's embeddings and the texts', whose sum is the similarity.

    Raises:
      ValueError: Their shapes do not fit each other.
    """
    text = text.values if isinstance(text, PerExample) else text
    if text.ndim == 2 and len(text) != batch:
        raise ValueError(f"text must be one or {batch}, one an example; got {len(text)}")
    if jnp.shape(image) != (batch, text.shape[-1]):
        raise ValueError(
            f"image must return a vector of {text.shape[-1]} numbers an example, shape "
            f"{(batch, text.shape[-1])}, got shape {jnp.shape(image)}"
        )
    return image * text
