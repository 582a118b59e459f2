"""Codecs without parameters: exact inverses, places kept together."""

import jax.numpy as jnp
import numpy as np
import pytest

from cfg_jax.codecs import CODECS, Folded, Pixels


@pytest.mark.parametrize("shape", [(2, 16, 1), (2, 8, 4, 3), (2, 4, 8, 4, 1)])
@pytest.mark.parametrize("codec", [Pixels(), Folded(factor=1), Folded(factor=2), Folded(factor=4)])
def test_decoding_undoes_encoding(codec, shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    z = codec.encode(x)
    assert z.size == x.size
    np.testing.assert_array_equal(codec.decode(z), x)


def test_neighbours_become_channels():
    x = np.arange(2.0 * 6 * 4 * 3).reshape(2, 6, 4, 3)
    z = np.asarray(Folded(factor=2).encode(jnp.asarray(x)))
    assert z.shape == (2, 3, 2, 12)
    for i in range(3):
        for j in range(2):
            square = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            np.testing.assert_array_equal(z[:, i, j], square.reshape(2, 12))


def test_bad_factors_and_sides_are_refused():
    with pytest.raises(ValueError, match="factor must be a whole number from 1 to 65536, got 0"):
        Folded(factor=0)
    with pytest.raises(ValueError, match=r"multiples of 4, got \(6,\)"):
        Folded(factor=4).encode(jnp.ones((1, 6, 1)))


def test_every_codec_says_what_it_keeps_x_within():
    bounds = {name: kind().bound for name, kind in CODECS.items()}
    assert bounds == {"Pixels": 1.0, "Folded": 1.0, "Lapped": None, "KL": None, "VQ": None}
