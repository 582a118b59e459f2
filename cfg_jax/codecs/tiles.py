"""Decoding large pictures in tiles, without a seam: the result is that of decoding the whole.

A tile is decoded with a margin as wide as its convolutions reach, and is cut out of it. What is
left to tell tile from whole are the norms' statistics, so those are taken over all tiles first.
Each norm's depend on those before it: a round over the tiles with what is known makes the next norm
exact.
"""

import collections
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cfg_jax.codecs.autoencoder import Autoencoder
from cfg_jax.diffusion import checks
from cfg_jax.nn import GroupNorm, Statistics, space_axes


class Spread(NamedTuple):
    """Number, mean and sum of squared distances from it, of each group: (batch, groups)."""

    size: Float[Array, ""]
    mean: Float[Array, "batch groups"]
    scatter: Float[Array, "batch groups"]

    def joined(self, other: "Spread") -> "Spread":
        """Of both together (Chan, Golub & LeVeque 1983, Equation 2.1)."""
        size = self.size + other.size
        apart = other.mean - self.mean
        between = jnp.square(apart) * self.size * other.size / size
        mean = self.mean + apart * other.size / size
        return Spread(size, mean, self.scatter + other.scatter + between)


class Place(NamedTuple):
    """A tile, int32 (sides of space,): where its window begins, and what it alone has of it."""

    start: Array
    first: Array
    last: Array


OfTile = Callable[[Place, dict[Any, Statistics]], tuple[Array, dict[Any, Spread]]]
"""Decodes a tile with what statistics are known; also the spread of each norm's input there."""


@functools.partial(jax.jit, static_argnames=("codec", "tile", "whole"))
def decode_in_tiles(
    codec: Autoencoder,
    variables: Any,
    z: Float[Array, "batch *sides _"],
    *,
    tile: int = 64,
    whole: int = 1,
) -> Float[Array, "batch *_ channels"]:
    """The data of z, as `codec.decode` gives them up to rounding.

    Activations of all levels but the first `whole` are of one tile at a time: beyond those the
    memory that grows with the picture is that of z, its first levels and the result. It is paid for
    in time: for each norm in the levels that are tiled, all tiles are decoded up to its level. The
    tiled levels of Stable Diffusion's decoder are evaluated 14 times, by count of products; 11
    times with `whole=2`, 8 times with `whole=3`.

    Args:
      codec: A `KL` or `VQ`.
      variables: Its variables.
      z: Latents, (batch, *sides, channels); frames of a video are not cut.
      tile: Side of a tile in z, without the margin; at least 1.
      whole: How many levels of the decoder, the coarsest first, are not tiled; the first one has
        the sides of z.

    Returns:
      Data of (batch, *sides, channels), float32.

    Raises:
      ValueError: tile or whole is out of its range, or a level that would be tiled has attention,
        which sees the whole picture.

    >>> import jax, jax.numpy as jnp
    >>> from cfg_jax.codecs import KL, decode_in_tiles
    >>> codec = KL(channels=4, channel_mult=(1, 1), blocks=1, latent_channels=2)
    >>> params = codec.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    >>> z = jax.random.normal(jax.random.key(1), (1, 12, 4, 2))
    >>> x = codec.apply(params, z, method=codec.decode)
    >>> bool(jnp.allclose(decode_in_tiles(codec, params, z, tile=3), x, atol=1e-4))
    True
    """
    checks.whole("tile", tile, 1)
    levels = len(codec.channel_mult)
    checks.whole("whole", whole, 1, levels)
    needed = [levels - int(math.log2(factor)) for factor in codec.attention_factors]
    if max(needed, default=0) > whole:
        raise ValueError(
            f"the decoder attends at its level {max(needed)}, which cannot be tiled: whole must be "
            f"at least {max(needed)}, got {whole}"
        )
    codec = codec.clone(remat="none")
    h: Any = codec.apply(variables, z, whole, method=codec.begin)
    axes = space_axes(h.ndim)
    reach, side = _reach(codec, whole), tile * 2 ** (whole - 1)
    size = tuple(min(h.shape[axis], side + 2 * reach) for axis in axes)
    places = _places([h.shape[axis] for axis in axes], size, side, reach)

    def of_tile(place, statistics):
        window = jax.lax.dynamic_slice(h, _corner(h.ndim, place.start), _shape(h.shape, size))
        return _finish(codec, variables, window, whole, statistics, size, place)

    statistics = _statistics(of_tile, places)

    def write(canvas, place):
        piece, _ = of_tile(place, statistics)
        corner = _corner(h.ndim, place.start * (piece.shape[axes[0]] // size[0]))
        there = jax.lax.dynamic_slice(canvas, corner, piece.shape)
        both = jnp.where(_mine(piece.shape, size, place), piece, there)
        return jax.lax.dynamic_update_slice(canvas, both, corner), None

    sides = _shape(h.shape, [h.shape[axis] * 2 ** (levels - whole) * codec.patch for axis in axes])[
        :-1
    ]
    canvas = jnp.zeros((*sides, codec.data_channels), jnp.float32)
    return jax.lax.scan(write, canvas, places)[0]


def _reach(codec: Autoencoder, whole: int) -> int:
    """How many entries beside one change what it becomes: two a residual block, one a convolution.

    Counted in entries of the last level that is whole.
    """
    rises = len(codec.channel_mult) - whole
    reach = 2.0**-rises + sum((2 * codec.blocks + 3) / 2**i for i in range(1, rises + 1))
    return math.ceil(reach)


def _places(sides: list[int], size: tuple[int, ...], tile: int, reach: int) -> Place:
    """Every tile, (tiles, sides) each: a window ends where the picture does, or `reach` beyond."""
    along = []
    for side, length in zip(sides, size, strict=True):
        first = np.arange(0, side, tile)
        start = np.clip(first - reach, 0, side - length)
        along.append(np.stack([start, first, np.minimum(first + tile, side)], axis=-1))
    every = np.array(list(itertools.product(*along)), np.int32)
    return Place(*(jnp.asarray(every[..., i]) for i in range(3)))


def _corner(ndim: int, start: Array) -> list[Array]:
    """An index of all axes, given those of space."""
    lies = dict(zip(space_axes(ndim), start, strict=True))
    return [lies.get(axis, jnp.int32(0)) for axis in range(ndim)]


def _shape(shape: tuple[int, ...], sides: Any) -> tuple[int, ...]:
    """A shape with other sides of space."""
    other = dict(zip(space_axes(len(shape)), sides, strict=True))
    return tuple(other.get(axis, side) for axis, side in enumerate(shape))


def _mine(shape: tuple[int, ...], size: tuple[int, ...], place: Place) -> Array:
    """Which entries of a window, at any level, no other tile has; it broadcasts against them."""
    mine = jnp.ones((1,) * len(shape), bool)
    for axis, length, *where in zip(space_axes(len(shape)), size, *place, strict=True):
        start, first, last = (at * (shape[axis] // length) for at in where)
        index = start + jnp.arange(shape[axis])
        among = (index >= first) & (index < last)
        mine = mine & jnp.expand_dims(among, [i for i in range(len(shape)) if i != axis])
    return mine


def _finish(
    codec: Autoencoder,
    variables: Any,
    window: Array,
    whole: int,
    statistics: dict[Any, Statistics],
    size: tuple[int, ...],
    place: Place,
) -> tuple[Array, dict[Any, Spread]]:
    """The rest of the decoder on a window, and each norm's `Spread` over the tile's own part."""
    spreads: dict[Any, Spread] = collections.OrderedDict()

    def watched(norm, args, kwargs, context):
        if not isinstance(context.module, GroupNorm):
            return norm(*args, **kwargs)
        path, x = context.module.path, args[0]
        spreads[path] = _spread(x, _mine(x.shape, size, place), context.module.groups)
        return norm(*args, statistics=statistics.get(path))

    with nn.intercept_methods(watched):
        x: Any = codec.apply(variables, window, whole, method=codec.finish)
    return x, spreads


def _spread(x: Array, mine: Array, groups: int) -> Spread:
    """That of each group of channels, over the entries that are the tile's own."""
    batch, *_, channels = x.shape
    groups = math.gcd(groups, channels)
    apart = x.astype(jnp.float32).reshape(batch, -1, groups, channels // groups)
    weight = jnp.broadcast_to(mine, (1, *x.shape[1:-1], 1)).reshape(1, -1, 1, 1)
    size = weight.sum() * float(channels // groups)
    mean = (apart * weight).sum((1, 3)) / size
    distance = apart - mean[:, None, :, None]
    return Spread(size, mean, (jnp.square(distance) * weight).sum((1, 3)))


def _statistics(of_tile: OfTile, places: Place) -> dict[Any, Statistics]:
    """Those of every norm in the levels that are tiled, of the whole picture.

    Level after level; within one, the norms' first guesses are replaced by what a round over the
    tiles finds: after the n-th the first n norms are exact, since those before them were.
    """
    one = Place(*(at[0] for at in places))
    shapes = jax.eval_shape(lambda: of_tile(one, {})[1])
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    known: dict[Any, Statistics] = {}
    for _, level in itertools.groupby(empty, key=lambda path: path[1]):
        nothing = {path: empty[path] for path in level}
        guess = {path: Statistics(none.mean, none.mean + 1.0) for path, none in nothing.items()}
        again = functools.partial(_round, of_tile, places, dict(known), nothing)
        known |= jax.lax.fori_loop(0, len(guess), again, guess)
    return known


def _round(
    of_tile: OfTile,
    places: Place,
    known: dict[Any, Statistics],
    nothing: dict[Any, Spread],
    _: Any,
    guess: dict[Any, Statistics],
) -> dict[Any, Statistics]:
    """Statistics of the norms of a level over all tiles, which were decoded by those before."""

    def add(total, place):
        _, spreads = of_tile(place, known | guess)
        return {path: some.joined(spreads[path]) for path, some in total.items()}, None

    total, _ = jax.lax.scan(add, nothing, places)
    return {
        path: Statistics(every.mean, every.scatter / every.size) for path, every in total.items()
    }
