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
from cfg_jax.networks.base import Predictor
from cfg_jax.networks.blocks import Levels, Shown
from cfg_jax.nn import Conv, GroupNorm
from cfg_jax.parts import Condition, Prediction


class UNet(Predictor, Levels):
    """A prediction from z_λ, λ and c, over data of any sides that its levels can halve.

    The condition c is a dictionary of the entries that `inlets` name, each shown by its kind:

    - `Classes`: a learned vector a class, added to the embedding of λ;
    - `Vector`: added to it after two dense layers, which are also told whether any of it is not 0;
    - `Beside`: resized to z and laid beside it along the channels; if it is noised, its own noise
      level is added to the embedding after two dense layers;
    - `Sequence`: attended to after each self-attention.

    The attributes are those of `blocks.Levels` and `base.Predictor`.

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
        cond = inlets.entries(self.who, self.shown, cond, len(z))
        embedding = self.embed_level(logsnr, len(z))
        width = embedding.shape[-1]
        for name, inlet in self.shown:
            embedding += inlets.embedded(name, inlet, cond[name], width, self.channels)
        shown = Shown(nn.silu(embedding), inlets.sequences(self.shown, cond), train)
        h, skips = self.descend(inlets.beside(self.shown, cond, z), shown)
        for level in reversed(range(len(self.channel_mult))):
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self.stage(f"up{level}_{i}", h, shown, self.width(level))
            if level:
                h = self.change_size(f"upsample{level}", h, shown, "up")
        h = nn.silu(GroupNorm(dtype=self.dtype, name="output_norm")(h))
        output = Conv(self.outputs(z.shape[-1]), zero=True, dtype=self.dtype, name="output")
        return self.predicted(output(h))
