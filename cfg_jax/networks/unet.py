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

from cfg_jax.diffusion.condition import Condition, Noisy
from cfg_jax.networks.blocks import Levels
from cfg_jax.nn.layers import Conv, GroupNorm, noise_level_features

NAMES = {"label": "labels", "vector": "vectors", "small": "small images"}
"""What a condition may be made of."""


def joined(parts: dict[str, Any]) -> Any:
    """A U-Net's condition, of its parts: labels by themselves where there is nothing else."""
    return parts["label"] if set(parts) == {"label"} else parts or None


class UNet(Levels):
    """ε_θ(z_λ, λ, c) over images of any height and width that its levels can halve.

    The condition c is the labels where the network takes nothing else, None where it takes nothing,
    and otherwise a dictionary of the parts it takes:

    - "label": (batch,), in [0, num_classes], the last one the null, if there is one;
    - "vector": (batch, vector), added to the embedding of λ; all zeros are the null;
    - "small": images of (batch, height / upscale, width / upscale, channels), enlarged and laid
      beside z along the channels; as a `condition.Noisy` where the network is `augmented`. All
      zeros are the null, with λ = `null_logsnr` for an augmented network.

    Attributes:
      null: Whether label `num_classes` is the null. num_classes is 0 for a network without labels.
      vector: The length of the vectors, 0 for a network that takes none.
      upscale: The factor by which the network enlarges small images, the noisy image beside them;
        0 for a network that does not.
      augmented: Whether the network is told the noise level of the small images.
      learned_variance: Whether the network also says where between its bounds the reverse variance
        lies, see `variance`.

    The other attributes are those of `blocks.Levels`.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.networks import UNet
    >>> net = UNet(channels=8, channel_mult=(1, 2), blocks=1, attention_resolutions=(4,),
    ...            head_channels=8, num_classes=10)
    >>> z, logsnr, label = jnp.ones((2, 8, 8, 1)), jnp.zeros(2), jnp.array([3, 10])
    >>> params = net.init(jax.random.key(0), z, logsnr, label)
    >>> net.apply(params, z, logsnr, label).shape
    (2, 8, 8, 1)
    """

    null: bool = True
    vector: int = 0
    upscale: int = 0
    augmented: bool = False
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
          cond: As above.
          train: Turns dropout on, which then needs a "dropout" rng.

        Returns:
          ε̂ of z's shape, float32.

        Raises:
          ValueError: Height or width cannot be halved as often as the levels ask; or a part of the
            condition is missing, of another shape, or given to a network that does not take it.
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
        return self.eps_and_variance(z, logsnr, cond)[1]

    def eps_and_variance(
        self,
        z: Float[Array, "batch height width channels"],
        logsnr: ArrayLike,
        cond: Condition = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "batch height width channels"], ...]:
        """Both ε̂ and v, by one evaluation; arguments and errors are those of each alone."""
        if not self.learned_variance:
            raise ValueError("the U-Net has learned no variance (learned_variance=False)")
        eps, v = jnp.split(self._outputs(z, logsnr, cond, train), 2, axis=-1)
        return eps, 0.5 * (v + 1.0)

    @nn.compact
    def _outputs(self, z: Array, logsnr: ArrayLike, cond: Condition, train: bool) -> Array:
        """ε̂, and after it what `variance` is made of, along the channels."""
        parts = self._checked(z.shape, cond)
        self.check_size(z.shape, "U-Net")
        embedding = self._embed(jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1]), parts)
        x = z
        if self.upscale:
            small = parts["small"].z if self.augmented else parts["small"]
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
        return *super().inputs(shape), joined(self._wanted((1, *shape)))

    @property
    def takes(self) -> tuple[str, ...]:
        """The parts of the condition that the network takes, of `NAMES`."""
        return tuple(self.parts((1, 1, 1, 1)))

    @property
    def takes_more_than_labels(self) -> bool:
        """Whether its condition has other parts than labels."""
        return bool(set(self.takes) - {"label"})

    @nn.nowrap
    def nulls(self, *, null_logsnr: float) -> dict[str, Any]:
        """What stands for none, of each part of the condition, see `Levels.nulls`."""
        small = Noisy(0.0, null_logsnr) if self.augmented else 0.0
        nulls = {"label": self.num_classes, "vector": 0.0, "small": small}
        return {part: nulls[part] for part in self.takes}

    @nn.nowrap
    def parts(self, shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the parts of the condition, for z of a shape; small images without their λ."""
        batch, height, width, channels = shape
        shapes: dict[str, jax.ShapeDtypeStruct] = {}
        if self.num_classes:
            shapes["label"] = jax.ShapeDtypeStruct((batch,), jnp.int32)
        if self.vector:
            shapes["vector"] = jax.ShapeDtypeStruct((batch, self.vector), jnp.float32)
        if self.upscale:
            size = (batch, height // self.upscale, width // self.upscale, channels)
            shapes["small"] = jax.ShapeDtypeStruct(size, jnp.float32)
        return shapes

    @nn.nowrap
    def _wanted(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """The shapes of all parts of the condition as the network sees them, for z of a shape."""
        wanted: dict[str, Any] = self.parts(shape)
        if self.augmented:
            level = jax.ShapeDtypeStruct(shape[:1], jnp.float32)
            wanted["small"] = Noisy(wanted["small"], level)
        return wanted

    @nn.nowrap
    def _checked(self, shape: tuple[int, ...], cond: Any) -> dict[str, Any]:
        """The parts of a condition, checked."""
        _, height, width, _ = shape
        if self.upscale and (height % self.upscale or width % self.upscale):
            raise ValueError(
                f"the U-Net enlarges {self.upscale} times, so height and width must be multiples "
                f"of {self.upscale}; got {height}×{width}"
            )
        wanted = self._wanted(shape)
        given: dict[str, Any] = cond if isinstance(cond, dict) else {"label": cond}
        for part in NAMES:
            if (part in wanted) != (given.get(part) is not None):
                raise ValueError(
                    f"the U-Net needs {NAMES[part]} in its condition"
                    if part in wanted
                    else f"the U-Net takes no {NAMES[part]}"
                )
        for part, leaf in wanted.items():
            shapes = [jax.tree.map(jnp.shape, tree) for tree in (leaf, given[part])]
            if shapes[0] != shapes[1]:
                raise ValueError(f"the {NAMES[part]} must have shape {shapes[0]}, got {shapes[1]}")
        return given

    @nn.nowrap
    def _embed(self, logsnr: Array, parts: dict[str, Any]) -> Array:
        """The embedding of noise level, label and vector, activated, float32."""
        h = self.embed_level(logsnr)
        if self.num_classes:
            init = nn.initializers.normal(1.0)
            labels = self.num_classes + self.null
            h = h + nn.Embed(labels, h.shape[-1], embedding_init=init, name="label")(parts["label"])
        if self.vector:
            given = jnp.any(parts["vector"] != 0, axis=-1, keepdims=True)
            h = h + self.embed("vector", jnp.concatenate([parts["vector"], given], axis=-1))
        if self.augmented:
            features = noise_level_features(parts["small"].logsnr, self.channels)
            h = h + self.embed("small_level", features)
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
