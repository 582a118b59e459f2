"""An autoencoder in training: the codec, what judges its pictures, and how sure it is of them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks
from cfg_jax.parts import Condition


class Coding(nn.Module):
    """A codec that is trained, by the objective `Reconstruction`.

    Attributes:
      codec: The autoencoder, such as `KL` or `VQ`.
      discriminator: Tells data from reconstructions, such as `PatchDiscriminator`: data to logits;
        None to train without.

    Raises:
      ValueError: codec is no autoencoder, or discriminator no module.
    """

    codec: Any = None
    discriminator: Any = None

    takes = ()

    role = "codec"
    """What a model with this network is."""

    apart = ("discriminator",)
    """Parts of the parameters that have an optimiser of their own."""

    @property
    def last_kernel(self) -> tuple[str, ...]:
        """Where the kernel of the decoder's last layer lies among the variables."""
        return ("params", "codec", *self.codec.last_kernel)

    def __post_init__(self):
        if not hasattr(self.codec, "z_channels"):
            raise ValueError(
                f"codec must be an autoencoder, such as KL(), got {checks.told(self.codec)}"
            )
        if not isinstance(self.discriminator, nn.Module | None):
            raise ValueError(
                "discriminator must be a Flax module, such as PatchDiscriminator(), or None, got "
                f"{checks.told(self.discriminator)}"
            )
        super().__post_init__()

    def setup(self):
        """Names the log-variance about x̂, and how often codes are used, 1 being an even use."""
        self.logvar = self.param("logvar", nn.initializers.zeros, ())
        if hasattr(self.codec, "entries"):
            self.shares = self.variable("usage", "shares", jnp.ones, (self.codec.entries,))

    def __call__(
        self,
        z: Float[Array, "batch *sides channels"],
        logsnr: ArrayLike = 0.0,
        cond: Condition | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch *sides channels"]:
        """What comes back of data, called as networks are; λ says nothing here."""
        if self.is_initializing() and self.discriminator is not None:
            self.discriminator(z)
        return self.coded(z, train=train).x

    @nn.nowrap
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where examples of (*sides, channels) cannot be coded."""
        self.codec.check(shape)

    def coded(
        self,
        x: Float[Array, "batch *sides channels"],
        keys: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> Any:
        """Data as they come back and what lies between, a `codecs.Coded`."""
        return self.codec(x, keys, train=train)

    def judged(self, x: Float[Array, "batch *sides channels"]) -> Float[Array, "batch *patches"]:
        """The discriminator's logits."""
        return self.discriminator(x)

    @nn.nowrap
    def trained_codec(self, variables: Any) -> tuple[Any, Any]:
        """The codec, and its variables among all that was trained."""
        of_codec = {name: held["codec"] for name, held in variables.items() if "codec" in held}
        return self.codec.clone(parent=None), of_codec
