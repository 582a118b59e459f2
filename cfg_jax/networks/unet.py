"""The U-Net of Dhariwal & Nichol (2021), asked for its prediction at a noise level λ.

Residual blocks with adaptive group normalisation (scale and shift from the embedding of λ and
class), residual up- and down-sampling, self-attention at chosen resolutions with a fixed number of
channels a head, zero-initialised outputs ("Diffusion Models Beat GANs on Image Synthesis", Section
3).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.networks import inlets
from cfg_jax.networks.blocks import Levels, Shown
from cfg_jax.nn import Conv, GroupNorm
from cfg_jax.nn.fields import flag
from cfg_jax.parts import Beside, Condition, Inlets, Prediction


class UNet(Levels):
    """A prediction from z_λ, λ and c, over data of any sides that its levels can halve.

    The condition c is a dictionary of the entries that `inlets` name, each shown by its kind:

    - `Classes`: a learned vector a class, added to the embedding of λ;
    - `Vector`: added to it after two dense layers, which are also told whether any of it is not 0;
    - `Beside`: resized to z and laid beside it along the channels; if it is noised, its own noise
      level is added to the embedding after two dense layers;
    - `Sequence`: attended to after each self-attention.

    Attributes:
      inlets: (name, inlet) pairs; None for no entries.
      learned_variance: Whether the network also says where between its bounds the reverse variance
        lies (Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", Equation
        15), and returns a `parts.Prediction`.

    The other attributes are those of `blocks.Levels`.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.networks import UNet
    >>> from cfg_jax.parts import Classes
    >>> net = UNet(channels=8, channel_mult=(1, 2), blocks=1, attention_resolutions=(4,),
    ...            head_channels=8, inlets=(("label", Classes(11)),))
    >>> z, logsnr, cond = jnp.ones((2, 8, 8, 1)), jnp.zeros(2), {"label": jnp.array([3, 10])}
    >>> params = net.init(jax.random.key(0), z, logsnr, cond)
    >>> net.apply(params, z, logsnr, cond).shape
    (2, 8, 8, 1)
    """

    inlets: Inlets | None = None
    learned_variance: bool = False

    def __post_init__(self):
        flag("learned_variance", self.learned_variance)
        self.inlets = None if self.inlets is None else inlets.checked(self.inlets)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "batch *sides channels"],
        logsnr: ArrayLike,
        cond: Condition | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch *sides channels"] | Prediction:
        """Predicts what it was trained on.

        Args:
          z: z_λ of (batch, *sides, channels).
          logsnr: λ, a scalar or (batch,).
          cond: As above.
          train: Turns dropout on, which then needs a "dropout" rng.

        Returns:
          The prediction, of z's shape, float32; with a learned variance both it and v, of the
          reverse variance (σ̃²)^(1-v) (σ²)^v, mostly within [0, 1].

        Raises:
          ValueError: The sides cannot be halved as often as the levels ask; or an entry of the
            condition is missing, of another shape, or not taken.
        """
        self.check(z.shape[1:])
        cond = inlets.entries("the UNet", self.shown, cond, len(z))
        embedding = self.embed_level(jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1]))
        for name, inlet in self.shown:
            embedding = embedding + inlets.embedded(name, inlet, cond[name], self.channels)
        shown = Shown(nn.silu(embedding), inlets.sequences(self.shown, cond), train)
        h, skips = self.descend(inlets.beside(self.shown, cond, z), shown)
        for level in reversed(range(len(self.channel_mult))):
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self.stage(f"up{level}_{i}", h, shown, self.width(level))
            if level:
                h = self.change_size(f"upsample{level}", h, shown, "up")
        h = nn.silu(GroupNorm(dtype=self.dtype, name="output_norm")(h))
        outputs = z.shape[-1] * (2 if self.learned_variance else 1)
        h = Conv(outputs, zero=True, dtype=self.dtype, name="output")(h).astype(jnp.float32)
        if not self.learned_variance:
            return h
        value, v = jnp.split(h, 2, axis=-1)
        return Prediction(value, 0.5 * (v + 1.0))

    @property
    def shown(self) -> Inlets:
        """The inlets of the entries that the network is shown."""
        return self.inlets or ()

    @nn.nowrap
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where the network cannot take examples of (*sides, channels)."""
        super().check(shape)
        for name, inlet in self.shown:
            if isinstance(inlet, Beside) and len(inlet.shape) != len(shape):
                raise ValueError(
                    f"{name!r} has shape {inlet.shape}, which cannot be laid beside {shape}"
                )
