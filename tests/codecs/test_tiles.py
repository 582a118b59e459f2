"""Tiles without seams: the whole picture's result, whatever the tiles, and its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_variables

from cfg_jax.blueprint import translated
from cfg_jax.codecs import KL, VQ, decode_in_tiles
from cfg_jax.codecs.tiles import _reach

pytestmark = pytest.mark.slow

FIELDS = {"channels": 4, "channel_mult": (1, 2, 2), "blocks": 1, "latent_channels": 3}
RNG = np.random.default_rng(0)
SHAPE = (4, 4, 3)


@pytest.fixture(scope="module")
def kl():
    codec = KL(**FIELDS, groups=2, scale=0.5, shift=0.1)
    return codec, random_variables(codec, jnp.zeros((1, *SHAPE)))


def alone(codec, variables, z, tile):
    """What tiles give that know nothing of each other, with as wide a margin."""
    rows = []
    for first in range(0, z.shape[2], tile):
        low, high = max(first - 8, 0), min(first + tile + 8, z.shape[2])
        x = translated(codec, variables, "decode", z[:, :, low:high], SHAPE)
        rows.append(x[:, :, 4 * (first - low) : 4 * (min(first + tile, high) - low)])
    return jnp.concatenate(rows, axis=2)


def test_black_beside_white_has_no_seam(kl):
    """Their statistics differ most: tiles that do not know of each other go far astray."""
    codec, variables = kl
    picture = jnp.concatenate([-jnp.ones((1, 20, 48, 3)), jnp.ones((1, 20, 48, 3))], axis=2)
    z = translated(codec, variables, "encode", picture, SHAPE)
    want = translated(codec, variables, "decode", z, SHAPE)
    assert z.shape == (1, 5, 24, 3)
    got = decode_in_tiles(codec, variables, z, tile=5)
    scale = np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * scale)
    assert np.abs(alone(codec, variables, z, 5) - want).max() > 0.05 * scale


@pytest.mark.parametrize(("tile", "whole"), [(3, 1), (7, 2), (2, 3)])
def test_any_tiles_give_the_whole(kl, tile, whole):
    codec, variables = kl
    z = jnp.asarray(RNG.normal(size=(2, 17, 6, 3)), jnp.float32)
    want = translated(codec, variables, "decode", z, SHAPE)
    got = decode_in_tiles(codec, variables, z, tile=tile, whole=whole)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("shape", [(40, 3), (2, 20, 4, 3)])
def test_sounds_and_videos_come_in_tiles_too(shape):
    codec = VQ(
        **FIELDS | {"channel_mult": (1, 1), "patch": 2}, entries=5, groups=2, data_channels=1
    )
    sides = [4 * side for side in shape[:-1]] if len(shape) < 4 else [2, 8, 8]
    variables = random_variables(codec, jnp.zeros((1, *sides, 1)))
    z = jnp.asarray(RNG.normal(size=(1, *shape)), jnp.float32)
    want = translated(codec, variables, "decode", z, (*sides, 1))
    got = decode_in_tiles(codec, variables, z, tile=4)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("whole", [1, 2, 3])
def test_the_margin_is_as_wide_as_the_decoder_sees(kl, whole):
    """What one entry changes, by the gradient, lies within the margin and nearly fills it."""
    codec, variables = kl
    width, channels = (8, 8) if whole < 3 else (4, 4)
    sides, grown = 2 * width + 1, 2 ** (3 - whole)
    given = {name: part for name, part in variables["params"].items() if name == "decoder"}
    h = jnp.asarray(RNG.normal(size=(1, sides, 1, channels)), jnp.float32)

    def middle(h):
        import flax.linen as nn

        from cfg_jax.nn import GroupNorm, Statistics

        def still(call, args, kwargs, context):
            if not isinstance(context.module, GroupNorm):
                return call(*args, **kwargs)
            one = jnp.ones((1, 2))
            return call(*args, statistics=Statistics(0.0 * one, one))

        with nn.intercept_methods(still):
            x = codec.apply({"params": given}, h, whole, method=codec.finish)
        return x[0, width * grown].sum() + x[0, (width + 1) * grown - 1].sum()

    seen = np.flatnonzero(np.abs(jax.grad(middle)(h)).sum((0, 2, 3)))
    reach = _reach(codec, whole)
    assert np.abs(seen - width).max() <= reach
    assert np.abs(seen - width).max() >= reach - 1


def test_memory_beyond_z_its_first_level_and_the_result_is_a_tiles(kl):
    """No array but the result is as large as the finest level of the whole."""
    codec, variables = kl

    def largest(sides):
        z = jax.ShapeDtypeStruct((1, *sides, 3), jnp.float32)
        made = jax.make_jaxpr(lambda z: decode_in_tiles(codec, variables, z, tile=8))(z)
        return sorted(sizes(made.jaxpr, set()))

    def sizes(jaxpr, found):
        for equation in jaxpr.eqns:
            found |= {v.aval.size for v in equation.outvars}
            for value in jax.tree.leaves(list(equation.params.values())):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    sizes(inner, found)
        return found

    small, large = (40, 40), (80, 80)
    result, first = 16 * 3, 8
    for sides in (small, large):
        area = sides[0] * sides[1]
        window = (8 + 2 * _reach(codec, 1)) ** 2 * 16 * 4
        allowed = max(area * result, window * 2, 3 * area * first)
        attention = min(area, 1024) * area
        beyond = [n for n in largest(sides) if n > allowed and n != attention]
        assert not beyond, (sides, beyond)
        assert area * 16 * 4 > area * result


def test_what_cannot_be_tiled_is_refused():
    z = jnp.zeros((1, *SHAPE))
    attends = KL(**FIELDS, attention_factors=(2,))
    with pytest.raises(ValueError, match="whole must be at least 2, got 1"):
        decode_in_tiles(attends, {}, z)
    with pytest.raises(ValueError, match="tile must be a whole number of at least 1, got 0"):
        decode_in_tiles(KL(**FIELDS), {}, z, tile=0)
    with pytest.raises(ValueError, match="whole must be a whole number from 1 to 3, got 4"):
        decode_in_tiles(KL(**FIELDS), {}, z, whole=4)
