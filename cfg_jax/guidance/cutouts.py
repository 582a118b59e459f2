"""CLIP guidance by random cut-outs of x̂, for a CLIP that has seen clean pictures alone.

    ε̃(z_λ, c) = ε(z_λ, c) - w σ ∇_z (1/K) Σ_k f(cut-out k of the picture of x̂(z_λ, c))·g

f is the embedding of a picture of one size, g that of a text. The cut-outs are squares of any size
between the picture's shorter side and f's, at any place, each brought to f's size by the mean over
areas (Crowson 2021, "CLIP Guided Diffusion", `MakeCutouts`; sizes by its `cut_pow`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from cfg_jax.diffusion import checks, noise
from cfg_jax.diffusion.condition import PerExample
from cfg_jax.diffusion.denoiser import Denoiser
from cfg_jax.diffusion.logsnr import floating
from cfg_jax.guidance.agreement import embedded, texts
from cfg_jax.guidance.gradient import Energy, energy

MOST = 4096
"""No side and no number of cut-outs may be larger."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class CutoutLoss:
    """`(x, z, logsnr, cond) -> -(1/K) Σ_k f(cut-out k)·g`; made by `cutouts`.

    Attributes:
      image: `pictures -> (batch, features)`, f.
      text: g, `PerExample` of (batch, features).
      keys: `PerExample` of (batch,) random keys.
      decode: x̂ to pictures of (batch, height, width, channels); None where x̂ is one.
      size: Height and width of what f is shown.
      count: K.
      power: The larger, the smaller cut-outs are.
    """

    image: Any
    text: Any
    keys: Any
    decode: Any
    size: int = dataclasses.field(metadata={"static": True})
    count: int = dataclasses.field(metadata={"static": True})
    power: float = dataclasses.field(metadata={"static": True})

    def __call__(
        self, x: Float[Array, "batch ..."], z: Array, logsnr: ArrayLike, cond: Any
    ) -> Float[Array, " batch"]:
        """Each example's loss.

        Raises:
          ValueError: x̂ is no picture, image does not return (batch, features), or there are not as
            many texts.
        """
        pictures = x if self.decode is None else self.decode(x)
        shape = getattr(pictures, "shape", None)
        if shape is None or len(shape) != 4:
            raise ValueError(f"cut-outs are of pictures, got x̂ of shape {shape}")
        batch = len(pictures)
        if len(self.text.values) != batch:
            raise ValueError(f"text must be {batch}, one an example; got {len(self.text.values)}")
        level = jax.lax.bitcast_convert_type(
            jnp.broadcast_to(jnp.asarray(logsnr, jnp.float32), (batch,)), jnp.uint32
        )
        keys = jax.vmap(jax.random.fold_in)(self.keys.values, level)
        keys = jax.vmap(lambda key: jax.random.split(key, self.count), out_axes=1)(keys)

        def one(key, picture):
            return cut_out(key, picture, size=self.size, power=self.power)

        parts = jax.vmap(jax.vmap(one), (0, None))(keys, pictures)
        found = self.image(parts.reshape(-1, *parts.shape[2:]))
        text = PerExample(jnp.tile(self.text.values, (self.count, 1)))
        return -embedded(found, text, self.count * batch).sum(-1).reshape(-1, batch).mean(0)


def cutouts(
    denoiser: Denoiser,
    image: Callable,
    *,
    text: Float[ArrayLike, "batch features"],
    key: jax.Array,
    size: int,
    w: ArrayLike,
    count: int = 16,
    power: float = 0.5,
    decode: Callable | None = None,
    offset: int = 0,
) -> Energy:
    """Guides a denoiser by a clean CLIP and random cut-outs of x̂ (Crowson 2021).

    ε̃ = ε(c) - w σ ∇_z (1/K) Σ_k f(cut-out k)·g, differentiated through the denoiser as `energy` is.
    Acts in ε-space, x̂ moving with it. w = 0 is the plain denoiser to the last bit; w > 0 raises the
    similarity. Example i's cut-outs at a level λ depend on key, offset + i and λ alone.

    Args:
      denoiser: Any denoiser that is differentiable in z, guided or not.
      image: `pictures -> (batch, features)`, the embeddings of pictures of (batch, size, size,
        channels) in [-1, 1] (and a little beyond, where x̂ is), differentiable: a callable pytree,
        such as `model.agreement.images`, or a plain function. One that wants other numbers makes
        them of these.
      text: The embeddings of the texts, one an example. Another text compiles nothing again.
      key: A JAX random key.
      size: Height and width of what `image` takes. Where pictures are no larger, every cut-out is
        the largest square of one.
      w: The strength, any real number: a scalar, or (batch,) for one an example. It may be traced.
      count: How many cut-outs of each picture, K; from 1 to 4,096.
      power: Sizes are `size` + u^power (the shorter side - `size`), u uniform: 0 cuts nothing off,
        1 takes all sizes alike.
      decode: x̂ to pictures, where the model is of latents:
        `jax.tree_util.Partial(cfg_jax.Model.decode, model)`.
      offset: The number of the first example.

    Returns:
      A denoiser that returns pairs.

    Raises:
      ValueError: An argument is out of range. When called: x̂ is no picture, image does not return
        one vector of text's length a cut-out, or there is not one text an example.
      TypeError: denoiser, image or decode cannot be called, or key is no random key.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> zero = lambda z, logsnr, cond: jnp.zeros_like(z)
    >>> brightness = lambda pictures: pictures.mean((1, 2))
    >>> guided = guidance.cutouts(
    ...     zero, brightness, text=jnp.ones((1, 1)), key=jax.random.key(0), size=4, w=64.0
    ... )
    >>> guided(jnp.zeros((1, 8, 8, 1)), 0.0, None).x.mean().item() > 0.5
    True
    """
    checks.function("image", image, "pictures -> (batch, features)")
    if decode is not None:
        checks.function("decode", decode, "x̂ -> pictures")
    given = texts(text)
    if not isinstance(given, PerExample):
        raise ValueError(f"text must have shape (batch, features), got {given.shape}")
    size, count = checks.whole("size", size, 1, MOST), checks.whole("count", count, 1, MOST)
    checks.number("power", power, 0.0, 100.0)
    index = noise.numbers(offset, len(given.values))
    loss = CutoutLoss(
        image=image,
        text=given,
        keys=PerExample(noise.examples(checks.random_key(key), index, noise.Stream.CUTOUTS)),
        decode=decode,
        size=size,
        count=count,
        power=float(power),
    )
    return energy(denoiser, loss, w=w)


def cut_out(
    key: jax.Array, picture: Float[Array, "height width channels"], *, size: int, power: float = 0.5
) -> Float[Array, "{size} {size} channels"]:
    """A random square of a picture, brought to one size by the mean over areas.

    Its side is a whole number from min(height, width, size) to min(height, width), its place any
    within the picture.

    Args:
      key: A JAX random key.
      picture: (height, width, channels).
      size: Height and width of the result.
      power: As in `cutouts`.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax import guidance
    >>> picture = jnp.arange(16.0).reshape(4, 4, 1)
    >>> guidance.cut_out(jax.random.key(0), picture, size=2, power=0.0)[..., 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    height, width, _ = picture.shape
    largest = min(height, width)
    smallest = min(largest, size)
    u, down, right = jax.random.uniform(key, (3,))
    side = jnp.floor(u**power * (largest - smallest) + smallest)
    top = jnp.floor(down * (height - side + 1.0))
    left = jnp.floor(right * (width - side + 1.0))
    rows = _areas(top, side, size, height).astype(picture.dtype)
    columns = _areas(left, side, size, width).astype(picture.dtype)
    return jnp.einsum("ih,jw,hwc->ijc", rows, columns, picture, precision="highest")


def _areas(start: Array, side: Array, size: int, length: int) -> Float[Array, "{size} {length}"]:
    """What share of each of `size` equal parts of [start, start + side] each pixel covers."""
    edges = start + side * jnp.arange(size + 1) / size
    pixels = jnp.arange(length)
    covered = jnp.minimum(edges[1:, None], pixels + 1) - jnp.maximum(edges[:-1, None], pixels)
    return floating(jnp.maximum(covered, 0.0) * size / side)
