"""The compressed spectrum of sounds: SciPy's DCT, energy, exact inverses."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from cfg_jax.codecs import Lapped


def sounds(bins, channels=1, moments=6):
    x = np.random.default_rng(0).normal(size=(2, moments * bins, channels))
    return jnp.asarray(x, jnp.float32)


def by_dct(x, bins):
    """The transform as it is computed in practice: windowed blocks, folded, through a DCT-IV."""
    window = np.sin(np.pi / (2 * bins) * (np.arange(2 * bins) + 0.5))
    blocks = np.concatenate([x, x[:bins]])
    half, found = bins // 2, []
    for start in range(0, len(x), bins):
        a, b, c, d = np.split(window * blocks[start : start + 2 * bins], [half, bins, bins + half])
        folded = np.concatenate([-c[::-1] - d, a - b[::-1]])
        found.append(scipy.fft.dct(folded, type=4, norm="ortho"))
    return np.stack(found)


@pytest.mark.parametrize("bins", [2, 8, 64])
def test_it_is_the_lapped_transform(bins):
    x = sounds(bins)
    z = Lapped(bins=bins, power=1.0).encode(x)
    wanted = [by_dct(np.asarray(sound[:, 0], np.float64), bins) for sound in x]
    np.testing.assert_allclose(z, np.stack(wanted), atol=1e-5)


def test_it_has_the_energy_of_the_sound():
    x = sounds(16)
    z = Lapped(bins=16, power=1.0).encode(x)
    np.testing.assert_allclose((z**2).sum((1, 2)), (x**2).sum((1, 2)), rtol=1e-5)


@pytest.mark.parametrize(("power", "scale"), [(1.0, 1.0), (0.5, 4.0), (0.3, 0.1)])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bins", [1, 3, 8, 64])
def test_decoding_undoes_encoding(bins, channels, power, scale):
    x, codec = sounds(bins, channels), Lapped(bins=bins, power=power, scale=scale)
    z = codec.encode(x)
    assert z.shape == (2, 6, bins * channels)
    np.testing.assert_allclose(codec.decode(z), x, atol=2e-5)


def test_channels_are_frequencies_from_low_to_high():
    time = jnp.arange(1024.0)
    for k in (3, 20, 50):
        tone = jnp.sin(jnp.pi / 64 * (k + 0.5) * time)[None, :, None]
        energy = np.asarray(jnp.abs(Lapped(bins=64).encode(tone)[0]) ** 4).sum(0)
        assert energy[k - 1 : k + 2].sum() > 0.97 * energy.sum()


def test_the_scale_and_power_are_as_said():
    x = sounds(8)
    plain, compressed = Lapped(bins=8, power=1.0).encode(x), Lapped(bins=8, scale=3.0).encode(x)
    np.testing.assert_allclose(compressed, 3 * np.sign(plain) * np.sqrt(np.abs(plain)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 30, 1), (1, 32, 32, 1)])
def test_what_is_no_sound_of_whole_blocks_is_refused(shape):
    with pytest.raises(ValueError, match="of a length that 16 divides, got"):
        Lapped(bins=16).encode(jnp.ones(shape))
