"""CLIP: a tower for data and one for sentences, whose embeddings meet on one sphere.

The tower of the data is the noisy classifier's, with an embedding in the place of logits: it may be
shown z_λ at any noise level, which makes a *noisy CLIP* (Nichol et al. 2022, "GLIDE: Towards
Photorealistic Image Generation and Editing with Text-Guided Diffusion Models", Section 2.4). The
tower of the sentences is the condition's own encoder, which is trained along, and a projection of
its state at the end of each sentence (Radford et al. 2021, "Learning Transferable Visual Models
From Natural Language Supervision", Section 2.4).
"""

import dataclasses
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion.checks import whole
from cfg_jax.networks import inlets
from cfg_jax.networks.base import MOST_CHANNELS
from cfg_jax.networks.encoder import Pooled
from cfg_jax.parts import Condition, Inlets, Sequence, Vector

FIRST_SCALE = math.log(1.0 / 0.07)
"""The logarithm of the similarities' scale when training begins."""

LARGEST_SCALE = math.log(100.0)
"""The largest, which keeps training stable."""


class Embeddings(NamedTuple):
    """Unit vectors of data and of the sentences beside them, float32.

    Attributes:
      image: Of the data, (batch, features); None where none were given.
      text: Of the sentences, (batch, features); None where none were given.
      scale: What multiplies a cosine to make it a logit, from 0 to 100.
    """

    image: Float[Array, "batch features"] | None
    text: Float[Array, "batch features"] | None
    scale: Float[Array, ""]


class Towers(Pooled):
    """Embeddings of z_λ and of the one entry of its condition, for data of one size.

    The entry is a sequence, whose last vector that is attended to is projected; or a vector.

    Attributes:
      inlets: The (name, inlet) pair of that entry; None until it is known.
      features: Length of an embedding, from 1 to 65,536.

    The other attributes are those of `encoder.Pooled`.

    Raises:
      ValueError: A field is out of its range, or there is not one entry that is a sequence or a
        vector.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.networks import Towers
    >>> from cfg_jax.parts import Sequence
    >>> net = Towers(channels=8, channel_mult=(1,), blocks=1, head_channels=8, features=4,
    ...              inlets=(("text", Sequence(5, 6)),))
    >>> z, text = jnp.ones((2, 8, 8, 1)), jnp.ones((2, 5, 6))
    >>> params = net.init(jax.random.key(0), z, 0.0, {"text": text})
    >>> image, text, scale = net.apply(params, z, 0.0, {"text": text})
    >>> image.shape, text.shape, round(scale.item(), 2)
    ((2, 4), (2, 4), 14.29)
    """

    inlets: Inlets | None = None
    features: int = 128

    role = "pair of towers"
    """What a model with this network is."""

    def __post_init__(self):
        whole("features", self.features, 1, MOST_CHANNELS)
        if self.inlets is not None:
            self.inlets = inlets.checked(self.inlets)
            kinds = [type(inlet) for _, inlet in self.inlets]
            if kinds not in ([Sequence], [Vector]):
                raise ValueError(
                    "inlets must be those of one sequence or one vector, the sentence of the "
                    f"{type(self).__name__}; got {', '.join(n for n, _ in self.inlets) or 'none'}"
                )
        super().__post_init__()

    @property
    def shown(self) -> Inlets:
        """The inlets of the entries that the network is shown."""
        return self.inlets or ()

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "batch *sides channels"] | None,
        logsnr: ArrayLike | None,
        cond: Condition | None,
        *,
        train: bool = False,
    ) -> Embeddings:
        """Embeds data, sentences, or both; the parameters need both.

        Args:
          z: z_λ of (batch, *sides, channels); None for sentences alone.
          logsnr: λ, a scalar or (batch,).
          cond: The one entry; None for data alone.
          train: Turns dropout on, which then needs a "dropout" rng.

        Raises:
          ValueError: The entry is not known yet, is missing or of another shape, or the sides
            cannot be halved as often as the levels ask.
        """
        if not self.shown:
            raise ValueError(f"{self.who} needs the inlet of its sentences")
        image = text = None
        if z is not None:
            image = _unit(self.pooled(z, logsnr, self.features, train))
        if cond is not None:
            text = _unit(self._project(cond))
        start = nn.initializers.constant(FIRST_SCALE)
        scale = jnp.exp(_capped(self.param("logit_scale", start, ())))
        return Embeddings(image, text, scale)

    @nn.nowrap
    def _project(self, cond: Condition) -> Float[Array, "batch _"]:
        ((name, inlet),) = self.shown
        batch = jax.tree.leaves(cond.get(name, ()))
        entry = inlets.entries(self.who, self.shown, cond, len(batch[0]) if batch else 1)[name]
        state = entry if isinstance(inlet, Vector) else ends(entry)
        init = nn.initializers.normal(state.shape[-1] ** -0.5)
        projection = nn.Dense(self.features, use_bias=False, kernel_init=init, name="projection")
        return projection(state.astype(jnp.float32))


def ends(entry: Any) -> Float[Array, "batch width"]:
    """The last vector of each sequence that counts: a text's end, where the encoder is causal.

    Args:
      entry: As in `inlets.sequence_of`.

    >>> import jax.numpy as jnp
    >>> from cfg_jax.networks.towers import ends
    >>> from cfg_jax.parts import Attended
    >>> vectors = jnp.arange(6.0).reshape(2, 3, 1)
    >>> ends(Attended(vectors, jnp.array([[True, True, False], [True, True, True]]))).tolist()
    [[1.0], [5.0]]
    """
    vectors, mask = inlets.sequence_of(entry)
    if mask is None:
        return vectors[:, -1]
    last = jnp.max(jnp.where(mask, jnp.arange(mask.shape[1]), 0), axis=1)
    return jnp.take_along_axis(vectors, last[:, None, None], axis=1)[:, 0]


def _unit(vectors: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
    """Vectors of length one; those of nearly no length stay short, and their gradient finite."""
    square = jnp.sum(vectors**2, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


@jax.custom_vjp
def _capped(x: Float[Array, ""]) -> Float[Array, ""]:
    """x, or the largest logarithm of a scale where x is above: there descent only moves x down."""
    return jnp.minimum(x, LARGEST_SCALE)


def _capped_forward(x):
    return _capped(x), x > LARGEST_SCALE


def _capped_backward(is_above, gradient):
    return (jnp.where(is_above, jnp.maximum(gradient, 0.0), gradient),)


_capped.defvjp(_capped_forward, _capped_backward)


def _images(agreement: "Agreement", z: Any, logsnr: Any = None) -> Float[Array, "batch features"]:
    logsnr = agreement.clean if logsnr is None else logsnr
    return agreement.network.apply(agreement.params, z, logsnr, None).image


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """`(z, logsnr, cond) -> logit`: how well data and sentences agree, by a pair of towers.

    The logit is the cosine of both embeddings times the learned scale. Where training has come to
    its end, it is log p(c|z_λ) - log p(c) but for what is the same for all data (van den Oord et
    al. 2018, "Representation Learning with Contrastive Predictive Coding", Section 2.3): it stands
    where `guidance.classifier` wants a log-probability.

    Attributes:
      network: The Flax module.
      params: Its variables.
      of: The entry that is the sentence.
      clean: λ of data without noise, what `images` takes where none is told.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.networks.towers import Agreement, Towers
    >>> from cfg_jax.parts import Vector
    >>> net = Towers(channels=8, channel_mult=(1,), blocks=1, head_channels=8, features=4,
    ...              inlets=(("text", Vector(6)),))
    >>> z, cond = jnp.ones((2, 8, 8, 1)), {"text": jnp.ones((2, 6))}
    >>> params = net.init(jax.random.key(0), z, 0.0, cond)
    >>> agreement = Agreement(network=net, params=params, of="text", clean=20.0)
    >>> agreement(z, 0.0, cond).shape, agreement.images(z).shape, agreement.texts(cond).shape
    ((2,), (2, 4), (2, 4))
    """

    network: Any = dataclasses.field(metadata={"static": True})
    params: Any
    of: str = dataclasses.field(metadata={"static": True})
    clean: float = dataclasses.field(metadata={"static": True})

    def __call__(
        self, z: Float[Array, "batch ..."], logsnr: ArrayLike, cond: Condition
    ) -> Float[Array, " batch"]:
        """Each example's logit.

        Raises:
          ValueError: The condition has no such entry.
        """
        image, text, scale = self.network.apply(self.params, z, logsnr, self._sentence(cond))
        return scale * jnp.sum(image * text, axis=-1)

    @property
    def images(self) -> jax.tree_util.Partial:
        """`(z, logsnr=None) -> (batch, features)`, the unit embeddings of data: a pytree."""
        return jax.tree_util.Partial(_images, self)

    def texts(self, cond: Condition) -> Float[Array, "batch features"]:
        """The unit embeddings of a condition's sentences, as this model's `condition` makes it.

        Raises:
          ValueError: The condition has no such entry.
        """
        return self.network.apply(self.params, None, None, self._sentence(cond)).text

    @property
    def scale(self) -> Float[Array, ""]:
        """What multiplies a cosine to make it a logit."""
        return self.network.apply(self.params, None, None, None).scale

    def _sentence(self, cond: Condition) -> Condition:
        if self.of not in cond:
            has = ", ".join(map(repr, cond)) or "none"
            raise ValueError(f"the sentence is the entry {self.of!r}, which {has} is not")
        return {self.of: cond[self.of]}
