import wave

import numpy as np
import pytest
from PIL import Image, ImageSequence
from scipy.io import wavfile
from scipy.signal import ShortTimeFFT

from cfg_jax.data.images import enlarge, tile
from cfg_jax.data.media import MEDIA, Picture, Sound, Video, medium
from cfg_jax.data.samples import to_float
from cfg_jax.data.spectrograms import spectrograms
from cfg_jax.parts import Facts

RNG = np.random.default_rng(0)
SHAPES = {Sound: (300, 1), Picture: (6, 5, 3), Video: (4, 6, 5, 3)}


def _stored(shape, count=5):
    dtype = np.int16 if len(shape) == 2 else np.uint8
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, (count, *shape), dtype=dtype, endpoint=True)


@pytest.mark.parametrize("kind", list(MEDIA.values()))
def test_the_shape_says_what_samples_are(kind):
    found = medium(Facts(SHAPES[kind], rate=7))
    assert found == kind(SHAPES[kind], 7)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2, 2, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"samples should be \(length, channels\), "):
        medium(Facts(shape))


@pytest.mark.parametrize("kind", list(MEDIA.values()))
def test_what_a_network_draws_becomes_what_is_stored(kind):
    x = RNG.uniform(-1.2, 1.2, (3, *SHAPES[kind])).astype(np.float32)
    stored = medium(Facts(SHAPES[kind])).stored(x)
    assert stored.dtype == _stored(SHAPES[kind]).dtype
    clipped = np.clip(x.astype(float), -1, 1)
    exact = clipped * 32768 if kind is Sound else (clipped + 1) * 127.5
    assert np.abs(stored - exact).max() <= (1 if kind is Sound else 0.5001)


@pytest.mark.parametrize("labels", [None, np.arange(5, dtype=np.int32)])
@pytest.mark.parametrize("kind", list(MEDIA.values()))
def test_arrays_hold_samples_and_labels(tmp_path, kind, labels):
    x = _stored(SHAPES[kind])
    path = tmp_path / "samples.npz"
    assert medium(Facts(SHAPES[kind])).save_samples(path, x, labels) == [path]
    with np.load(path) as file:
        np.testing.assert_array_equal(file["arr_0"], x)
        assert file["arr_0"].dtype == x.dtype
        assert file.files == ["arr_0"] if labels is None else ["arr_0", "arr_1"]
        if labels is not None:
            np.testing.assert_array_equal(file["arr_1"], labels)
            assert file["arr_1"].dtype == np.int64


@pytest.mark.parametrize("columns", [None, 2, 50])
@pytest.mark.parametrize("kind", list(MEDIA.values()))
def test_a_picture_of_samples_is_a_grid_of_their_stills(tmp_path, kind, columns):
    x, found = _stored(SHAPES[kind]), medium(Facts(SHAPES[kind]))
    assert found.save_samples(tmp_path / "page.png", x, columns=columns) == [tmp_path / "page.png"]
    tiles = found.tiles(x)
    zoom = max(1, round(32 / tiles.shape[1]))
    columns = {None: 3, 2: 2, 50: 5}[columns]
    page = tile(enlarge(tiles, zoom), columns, padding=max(1, zoom // 2))
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "page.png")), page[..., 0] if kind is Sound else page
    )
    found.grid(tmp_path / "grid.png", x, columns)
    assert (tmp_path / "grid.png").read_bytes() == (tmp_path / "page.png").read_bytes()


def test_stills():
    x = _stored((6, 5, 3))
    assert Picture((6, 5, 3)).tiles(x) is x
    x = _stored((4, 6, 5, 3))
    np.testing.assert_array_equal(
        Video((4, 6, 5, 3)).tiles(x), [np.concatenate(list(video), axis=1) for video in x]
    )
    x = _stored((300, 1))
    np.testing.assert_array_equal(Sound((300, 1)).tiles(x), spectrograms(x))


@pytest.mark.parametrize("kind", list(MEDIA.values()))
def test_a_scorer_sees_floats_as_what_is_stored_of_them(kind):
    found, x = medium(Facts(SHAPES[kind])), _stored(SHAPES[kind])
    floats = to_float(x)
    want = spectrograms(x, window=64, width=32) if kind is Sound else found.tiles(x)
    np.testing.assert_array_equal(found.seen(x), want)
    if kind is Picture:  # A scorer of pictures sees them finer than they are stored.
        assert found.seen(floats) is floats
    else:
        np.testing.assert_array_equal(found.seen(floats), want)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("count", [1, 3, 1001])
def test_sounds_are_wav_files(tmp_path, channels, count):
    x = _stored((20, channels), count)
    paths = Sound((20, channels), 4000).save_samples(tmp_path / "out.wav", x)
    names = {
        1: ["out.wav"],
        3: [f"out-00{n}.wav" for n in range(3)],
        1001: [f"out-{n:04}.wav" for n in range(1001)],
    }[count]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for path, expected in zip(paths, x, strict=True):
        rate, samples = wavfile.read(path)
        assert rate == 4000
        np.testing.assert_array_equal(samples.reshape(20, channels), expected)
        with wave.open(str(path)) as sound:
            assert sound.getparams()[:4] == (channels, 2, 4000, 20)


@pytest.mark.parametrize(("rate", "milliseconds"), [(0, 100), (8, 120), (25, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_videos_are_one_animated_page(tmp_path, channels, rate, milliseconds):
    # Few colours, which a palette holds exactly; no two frames alike, which would be merged.
    x = np.uint8([0, 255])[RNG.integers(0, 2, (5, 4, 32, 32, channels))]
    Video((4, 32, 32, channels), rate).save_samples(tmp_path / "out.gif", x, columns=3)
    with Image.open(tmp_path / "out.gif") as animation:
        assert (animation.n_frames, animation.info["loop"]) == (4, 0)
        for n, frame in enumerate(ImageSequence.Iterator(animation)):
            # GIF counts hundredths of a second.
            assert frame.info["duration"] == milliseconds
            page = np.asarray(frame.convert("RGB"))
            np.testing.assert_array_equal(page, np.broadcast_to(tile(x[:, n], 3), page.shape))


@pytest.mark.parametrize("name", ["out.jpg", "out", "out.gif.txt"])
@pytest.mark.parametrize("kind", list(MEDIA.values()))
def test_other_files_are_refused_before_anything_is_written(tmp_path, kind, name):
    found = medium(Facts(SHAPES[kind]))
    suffixes = {
        Sound: r"\.wav, \.png, \.npz",
        Picture: r"\.png, \.npz",
        Video: r"\.gif, \.png, \.npz",
    }
    message = rf"^{found.noun}s are written as {suffixes[kind]}, got '{name}'$"
    for refused in (found.check, lambda path: found.save_samples(path, _stored(SHAPES[kind]))):
        with pytest.raises(ValueError, match=message):
            refused(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_wav_file_needs_a_rate(tmp_path):
    with pytest.raises(ValueError, match=r"needs the rate of the sounds, which is not known"):
        Sound((300, 1)).check(tmp_path / "x.wav")
    Sound((300, 1)).check(tmp_path / "x.png")


# Spectrograms.


@pytest.mark.parametrize("window", [64, 128])
@pytest.mark.parametrize("length", [128, 1000, 4096])
def test_a_spectrogram_is_scipys(window, length):
    x = _stored((length, 1), 2)
    found = spectrograms(x, window=window, width=10**6)
    hann = np.hanning(window + 1)[:-1]
    transform = ShortTimeFFT(hann, hop=1, fs=1.0, fft_mode="onesided")
    first = window // 2  # the slice whose window begins at the first sample
    count = length - window + 1
    for picture, sound in zip(found[..., 0], x[..., 0] / 32768, strict=True):
        slices = transform.stft(sound, p0=first, p1=first + count)
        decibels = 20 * np.log10(np.abs(slices[1:]) / (hann.sum() / 2) + 1e-300)
        grey = 255 * np.clip(1 + decibels / 80, 0, 1)
        assert picture.shape == (window // 2, count)
        assert np.abs(picture[::-1] - grey).max() < 0.52


@pytest.mark.parametrize("bin", [1, 10, 40, 60])
def test_a_sine_is_a_line_at_its_frequency_as_bright_as_it_is_loud(bin):
    time = np.arange(4096)
    for amplitude, grey in ((32767, 255), (3276.7, 255 * 0.75), (0, 0)):
        sine = np.rint(amplitude * np.sin(2 * np.pi * bin / 128 * time)).astype(np.int16)
        (picture,) = spectrograms(sine[None, :, None])[..., 0].astype(float)
        assert picture.shape == (64, 128)
        np.testing.assert_allclose(picture[64 - bin], grey, atol=1)  # the lowest is at the bottom
        if amplitude:
            assert (picture.argmax(0) == 64 - bin).all()


def test_channels_lie_below_one_another_and_short_sounds_have_one_window():
    stereo = _stored((1000, 2))
    both = spectrograms(stereo)
    for channel, part in enumerate((both[:, :64], both[:, 64:])):
        np.testing.assert_array_equal(part, spectrograms(stereo[..., channel : channel + 1]))
    short = _stored((100, 1))
    padded = np.pad(short, ((0, 0), (0, 28), (0, 0)))
    assert spectrograms(short).shape == (5, 64, 1, 1)
    np.testing.assert_array_equal(spectrograms(short), spectrograms(padded))
