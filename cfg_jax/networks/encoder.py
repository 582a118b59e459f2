"""The noisy classifier of Dhariwal & Nichol (2021): p(c|z_λ) at every noise level.

The downward half of the U-Net with its middle, then attention pooling to the logits ("Diffusion
Models Beat GANs on Image Synthesis", Section 4 and Appendix I). Its gradient in z guides a
denoiser, see `guidance.classifier`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion.checks import whole
from cfg_jax.diffusion.labels import label_log_prob
from cfg_jax.networks import inlets
from cfg_jax.networks.blocks import Levels, Shown
from cfg_jax.nn import AttentionPool, GroupNorm
from cfg_jax.parts import Condition


class Pooled(Levels):
    """The way down, then attention pooling to one vector an example.

    A base: the encoder makes logits of it, the towers an embedding. It is for data of the one size
    that it was initialised with. The attributes are those of `blocks.Levels`; heads have
    head_channels channels in the pooling too.
    """

    @nn.nowrap
    def pooled(
        self, z: Float[Array, "batch *sides channels"], logsnr: Any, features: int, train: bool
    ) -> Float[Array, "batch _"]:
        """A vector of `features` numbers an example, float32.

        Raises:
          ValueError: The sides cannot be halved as often as the levels ask.
        """
        self.check(z.shape[1:])
        h, _ = self.descend(z, Shown(nn.silu(self.embed_level(logsnr, len(z))), train=train))
        h = nn.silu(GroupNorm(dtype=self.dtype, name="output_norm")(h))
        pool = AttentionPool(features, self.head_channels, self.dtype, name="pool")
        return pool(h).astype(jnp.float32)


class Encoder(Pooled):
    """Logits of p(c|z_λ), for data of the one size it was initialised with.

    Attributes:
      num_classes: The number of classes, from 1 to a million; None until it is known.

    The other attributes are those of `Pooled`.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.networks.encoder import Encoder
    >>> net = Encoder(channels=8, channel_mult=(1, 2), blocks=1, attention_resolutions=(4,),
    ...               head_channels=8, num_classes=10)
    >>> z, logsnr = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)
    >>> params = net.init(jax.random.key(0), z, logsnr)
    >>> net.apply(params, z, logsnr).shape
    (2, 10)
    """

    num_classes: int | None = None

    def __post_init__(self):
        if self.num_classes is not None:
            whole("num_classes", self.num_classes, 1, 1_000_000)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "batch *sides channels"],
        logsnr: ArrayLike,
        cond: Condition | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch classes"]:
        """Classifies noisy data.

        Args:
          z: z_λ of (batch, *sides, channels).
          logsnr: λ, a scalar or (batch,).
          cond: No entries.
          train: Turns dropout on, which then needs a "dropout" rng.

        Returns:
          Logits of (batch, num_classes), float32.

        Raises:
          ValueError: num_classes is None, the sides cannot be halved as often as the levels ask, or
            there is an entry in the condition.
        """
        if self.num_classes is None:
            raise ValueError("the Encoder needs num_classes")
        inlets.entries(self.who, self.shown, cond, len(z))
        return self.pooled(z, logsnr, self.num_classes, train)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LogProb:
    """`(z, logsnr, cond) -> log p(c|z_λ)` of a noisy classifier, as `guidance.classifier` wants it.

    Attributes:
      network: `(z, logsnr, cond) -> logits`, the Flax module, which takes no entries.
      params: Its variables.
      of: The entry that is the class, where the condition is a dictionary; None where the condition
        is the labels.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.networks.encoder import Encoder, LogProb
    >>> net = Encoder(channels=8, channel_mult=(1,), blocks=1, head_channels=8, num_classes=10)
    >>> z = jnp.ones((2, 8, 8, 1))
    >>> params = net.init(jax.random.key(0), z, 0.0)
    >>> log_prob = LogProb(network=net, params=params, of="label")
    >>> log_prob(z, 0.0, {"label": jnp.array([3, 7])}).shape
    (2,)
    """

    network: Any = dataclasses.field(metadata={"static": True})
    params: Any
    of: str | None = dataclasses.field(default=None, metadata={"static": True})

    def __call__(
        self, z: Float[Array, "batch ..."], logsnr: ArrayLike, cond: Any
    ) -> Float[Array, " batch"]:
        """The log-probability of each example's own label.

        Raises:
          ValueError: The condition is a dictionary without the entry `of`.
        """
        if isinstance(cond, dict) and self.of not in cond:
            raise ValueError(
                f"the classifier knows the class by the entry {self.of!r}, which the condition "
                f"has not; it has {', '.join(map(repr, cond)) or 'none'}"
            )
        labels = cond[self.of] if isinstance(cond, dict) else cond
        return label_log_prob(self.network.apply(self.params, z, logsnr, {}), labels)
