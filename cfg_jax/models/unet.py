"""The class-conditional U-Net of Dhariwal & Nichol (2021), asked for ε at a noise level λ.

Residual blocks with adaptive group normalisation (scale and shift from the embedding of λ and
class), residual up- and down-sampling, self-attention at chosen resolutions with a fixed number of
channels a head, zero-initialised outputs ("Diffusion Models Beat GANs on Image Synthesis", Section
3).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion.condition import Condition
from cfg_jax.models.blocks import Levels
from cfg_jax.models.layers import Conv, GroupNorm


class UNet(Levels):
    """ε_θ(z_λ, λ, c) over images of any height and width that its levels can halve.

    Attributes:
      null: Whether label `num_classes` is the null. num_classes is 0 for an unconditional network.
      upscale: The factor by which the network enlarges small images, the noisy image beside them;
        0 for a network that does not.
      learned_variance: Whether the network also says where between its bounds the reverse variance
        lies, see `variance`.

    The other attributes are those of `blocks.Levels`.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.models import UNet
    >>> net = UNet(channels=8, channel_mult=(1, 2), blocks=1, attention_resolutions=(4,),
    ...            head_channels=8, num_classes=10)
    >>> z, logsnr, label = jnp.ones((2, 8, 8, 1)), jnp.zeros(2), jnp.array([3, 10])
    >>> params = net.init(jax.random.key(0), z, logsnr, label)
    >>> net.apply(params, z, logsnr, label).shape
    (2, 8, 8, 1)
    """

    null: bool = True
    upscale: int = 0
    learned_variance: bool = False

    def __call__(
        self,
        z: Float[Array, "batch height width channels"],
        logsnr: ArrayLike,
        cond: Condition = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """Estimates ε.

        Args:
          z: z_λ of (batch, height, width, channels).
          logsnr: λ, a scalar or (batch,).
          cond: Labels in [0, num_classes], the last one the null, if there is one; None where
            num_classes is 0. For a network that enlarges, {"label": those, "small": images} with
            images of (batch, height / upscale, width / upscale, channels).
          train: Turns dropout on, which then needs a "dropout" rng.

        Returns:
          ε̂ of z's shape, float32.

        Raises:
          ValueError: Height or width cannot be halved as often as the levels ask; labels or small
            images are missing, or given to a network that takes none.
        """
        return self._outputs(z, logsnr, cond, train)[..., : z.shape[-1]]

    def variance(
        self,
        z: Float[Array, "batch height width channels"],
        logsnr: ArrayLike,
        cond: Condition = None,
    ) -> Float[Array, "batch height width channels"]:
        """The v of the reverse variance (σ̃²)^(1-v) (σ²)^v, learned (see `LearnedVariance`).

        Args:
          z: As above.
          logsnr: As above.
          cond: As above.

        Returns:
          v of z's shape, float32, mostly within [0, 1].

        Raises:
          ValueError: The network has learned no variance.
        """
        if not self.learned_variance:
            raise ValueError("the U-Net has learned no variance (learned_variance=False)")
        return 0.5 * (self._outputs(z, logsnr, cond, False)[..., z.shape[-1] :] + 1.0)

    @nn.compact
    def _outputs(self, z: Array, logsnr: ArrayLike, cond: Condition, train: bool) -> Array:
        """ε̂, and after it what `variance` is made of, along the channels."""
        label, small = self._parts(z.shape, cond)
        self.check_size(z.shape, "U-Net")
        embedding = self._embed(jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1]), label)
        x = z
        if small is not None:
            x = jnp.concatenate([z, jax.image.resize(small, z.shape, "bilinear")], axis=-1)
        h, skips = self.descend(x, embedding, train)
        for level in reversed(range(len(self.channel_mult))):
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self.stage(f"up{level}_{i}", h, embedding, train, self.width(level))
            if level:
                h = self.change_size(f"upsample{level}", h, embedding, train, "up")
        h = nn.silu(GroupNorm(dtype=self.dtype, name="output_norm")(h))
        outputs = z.shape[-1] * (2 if self.learned_variance else 1)
        return Conv(outputs, zero=True, dtype=self.dtype, name="output")(h).astype(jnp.float32)

    @nn.nowrap
    def inputs(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        """What the network takes for one image of (height, width, channels), in shapes."""
        label = jax.ShapeDtypeStruct((1,), jnp.int32) if self.num_classes else None
        if not self.upscale:
            return *super().inputs(shape), label
        height, width, channels = shape
        small = (1, height // self.upscale, width // self.upscale, channels)
        cond = {"label": label, "small": jax.ShapeDtypeStruct(small, jnp.float32)}
        return *super().inputs(shape), cond

    @nn.nowrap
    def _parts(self, shape: tuple[int, ...], cond: Any) -> tuple[Any, Any]:
        """The condition's labels and small images, each None where the network takes none."""
        label, small = cond, None
        if self.upscale:
            if not isinstance(cond, dict) or set(cond) != {"label", "small"}:
                raise ValueError('the U-Net enlarges: its condition is {"label": …, "small": …}')
            label, small = cond["label"], cond["small"]
            batch, height, width, channels = shape
            wanted = (batch, height // self.upscale, width // self.upscale, channels)
            if small.shape != wanted:
                raise ValueError(f"the small images must have shape {wanted}, got {small.shape}")
        if (label is None) == (self.num_classes > 0):
            raise ValueError(
                f"the U-Net has {self.num_classes} classes, so it needs labels"
                if label is None
                else "the U-Net is unconditional (num_classes=0) and takes no labels"
            )
        return label, small

    @nn.nowrap
    def _embed(self, logsnr: Array, label: Array | None) -> Array:
        """The embedding of noise level and class, activated, float32."""
        h = self.embed_level(logsnr)
        if label is not None:
            init = nn.initializers.normal(1.0)
            labels = self.num_classes + self.null
            h = h + nn.Embed(labels, h.shape[-1], embedding_init=init, name="label")(label)
        return nn.silu(h)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedVariance:
    """`(z, logsnr, cond) -> v`, what a network learned of the reverse variance (σ̃²)^(1-v) (σ²)^v.

    Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", Equation 15. For
    `solvers.Ancestral(v=...)` and `likelihood.discrete_vlb(v=...)`. Under jit one evaluation of the
    network serves both ε and v, where both are asked with the same condition.

    Attributes:
      network: The U-Net, with learned_variance.
      params: Its variables.
    """

    network: UNet = dataclasses.field(metadata={"static": True})
    params: Any

    def __call__(
        self, z: Float[Array, "batch ..."], logsnr: ArrayLike, cond: Condition
    ) -> Float[Array, "batch ..."]:
        """Returns v of z's shape."""
        v: Any = self.network.apply(self.params, z, logsnr, cond, method="variance")
        return v
