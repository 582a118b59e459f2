"""A package of somebody else's: a transformer, a conditioner of words, a codec, an objective."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import cfg_jax
from cfg_jax import parts
from cfg_jax.objectives import Denoising
from cfg_jax.objectives.denoising import prediction_of

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Transformer(nn.Module):
    """Patches of z attend to each other and to the words; predicts v, and nothing else."""

    width: int = 16
    depth: int = 1
    patch: int = 2
    takes = ("words",)
    predicts = "v"

    @nn.compact
    def __call__(self, z, logsnr, cond):
        batch, channels = z.shape[0], z.shape[-1]
        size = self.patch
        h = nn.Conv(self.width, (size, size), strides=size)(z)
        rows, columns = h.shape[1:3]
        h = h.reshape(batch, rows * columns, self.width)
        place = self.param("place", nn.initializers.normal(0.02), (rows * columns, self.width))
        level = nn.Dense(self.width)(jnp.sin(logsnr[:, None] * jnp.logspace(-2, 0, 8)))
        words, there = cond["words"]["token"], cond["words"]["there"]
        context = nn.Embed(len(WORDS) + 1, self.width)(words)
        h = h + place + level[:, None]
        for _ in range(self.depth):
            h = h + nn.SelfAttention(2)(nn.LayerNorm()(h))
            h = h + nn.MultiHeadDotProductAttention(2)(
                nn.LayerNorm()(h), context, mask=there[:, None, None, :]
            )
            h = h + nn.Dense(self.width)(nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(h))))
        h = nn.Dense(size * size * channels)(nn.LayerNorm()(h))
        h = h.reshape(batch, rows, columns, size, size, channels).swapaxes(2, 3)
        return h.reshape(z.shape)


@dataclasses.dataclass(frozen=True)
class Words:
    """How the network is shown words: their numbers, and which places hold one."""

    length: int

    @property
    def spec(self):
        return {
            "token": jax.ShapeDtypeStruct((self.length,), jnp.int32),
            "there": jax.ShapeDtypeStruct((self.length,), jnp.bool_),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spoken(parts.Conditioner):
    """A number in words: "a seven" for 7; the null is no word but a beginning.

    Attributes:
      length: Words at most.
    """

    length: int = 3
    p_uncond: float = 0.2

    help = "numbers in words, such as 'seven,three'"

    @property
    def inlet(self):
        return Words(self.length)

    @property
    def null(self):
        there = np.arange(self.length) < 1
        return {"token": np.full(self.length, len(WORDS), np.int32), "there": there}

    def _of(self, number):
        start = jnp.full_like(number, len(WORDS))
        token = jnp.stack([start, number] + [start] * (self.length - 2), axis=-1)
        there = jnp.broadcast_to(jnp.arange(self.length) < 2, token.shape)
        return {"token": token, "there": there}

    def read(self, params, batch, x):
        return self._of(batch["label"])

    def given(self, value, params=None):
        wrong = [word for word in value if word not in WORDS]
        if wrong:
            raise ValueError(f"words must be of {', '.join(WORDS)}; got {wrong[0]!r}")
        return self._of(jnp.asarray([WORDS.index(word) for word in value], jnp.int32))

    def parse(self, text):
        return text.split(",")

    def every(self):
        return list(WORDS)

    def lend(self, examples, x):
        return [WORDS[int(example["label"])] for example in examples]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halves:
    """Pairs of neighbouring columns as their mean and difference."""

    bound = None

    def encode(self, x):
        left, right = x[:, :, 0::2], x[:, :, 1::2]
        return jnp.concatenate([left + right, left - right], axis=-1) / 2

    def decode(self, z):
        mean, half = jnp.split(z, 2, axis=-1)
        pairs = jnp.stack([mean + half, mean - half], axis=3)
        return pairs.reshape(*z.shape[:2], -1, mean.shape[-1])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Taught(Denoising):
    """The denoising error, and the distance to what a frozen teacher says.

    Attributes:
      teacher: The work directory of a run.
      share: The weight of the distance.
    """

    target: str = dataclasses.field(default="v", metadata={"static": True})
    teacher: str = dataclasses.field(default="", metadata={"static": True})
    share: float = dataclasses.field(default=0.5, metadata={"static": True})
    model: Any = dataclasses.field(default=None, metadata=parts.BOUND)

    def ready(self):
        """The objective with its teacher read."""
        run = cfg_jax.load(self.teacher)
        return dataclasses.replace(self, model=run.denoiser)

    def losses(self, ask, drawn):
        own = super().losses(ask, drawn)
        from cfg_jax.diffusion.denoiser import read
        from cfg_jax.diffusion.process import forward

        z = forward(drawn.x, drawn.eps, logsnr=drawn.logsnr)
        taught = read(self.model, z, drawn.logsnr, drawn.cond)
        said = prediction_of(ask(z, drawn.logsnr, drawn.cond), z)
        wanted = taught.eps
        return own + self.share * jnp.mean(jnp.square(said - wanted), axis=(1, 2, 3))
