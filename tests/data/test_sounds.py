import dataclasses
import io
import pickle
import struct
import uuid
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
from folders import write, zipped
from scipy.io import wavfile

from cfg_jax.data import Sounds, UnreadableError, batches
from cfg_jax.data import dataset as datasets
from cfg_jax.data.samples import to_float, to_int16

SPOKEN = Path(__file__).parents[3] / "shared" / "data" / "spoken-digits.zip"


def _noise(seed, length=50, channels=1):
    return np.random.default_rng(seed).integers(-(2**15), 2**15, (length, channels), dtype="i2")


def _wav(samples, rate=8000, width=2):
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(samples.shape[1])
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(samples.astype(f"<i{width}" if width != 3 else "V3").tobytes())
    return file.getvalue()


def _files(channels=1):
    return {
        f"{name}/{n}.wav": _noise((n, k), 50, channels)
        for k, name in enumerate(("ah", "oh"))
        for n in range(6)
    }


@pytest.fixture
def files():
    return {name: _wav(samples) for name, samples in _files().items()}


def _contents(data):
    examples = [data.source[i] for i in range(len(data.source))]
    return {e["x"].tobytes(): int(e["label"]) for e in examples}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("prefix", ["", "top/"])
def test_a_folder_of_sounds(tmp_path, channels, archived, prefix):
    samples = _files(channels)
    content = {prefix + name: _wav(values) for name, values in samples.items()}
    content |= {"README": b"", f"{prefix}ah/notes.txt": b""}
    path = zipped(tmp_path / "x", content) if archived else write(tmp_path / "x", content)
    source = Sounds(path=str(path), held_out=0.4)
    train, test = (source.open(split) for split in ("train", "test"))
    for data in (train, test):
        assert (data.shape, data.dtype, data.rate) == ((50, channels), "int16", 8000)
        assert data.class_names == ("ah", "oh")
        assert data.source[0]["x"].dtype == np.int16
    assert source.peek() == train.facts
    both = _contents(train) | _contents(test)
    assert both == {v.tobytes(): int(name.startswith("oh")) for name, v in samples.items()}
    assert len(train.source) + len(test.source) == 12
    assert {*train.source.arrays["label"].tolist()} == {0, 1}


def test_folders_of_splits_and_sounds_without_classes(tmp_path, files):
    split = {f"train/{name}": content for name, content in files.items()}
    split |= {"test/ah/x.wav": files["ah/0.wav"], "test/oh/x.wav": files["oh/0.wav"]}
    source = Sounds(path=str(write(tmp_path / "split", split)))
    assert [len(source.open(s).source) for s in ("train", "test")] == [12, 2]
    flat = {name.replace("/", "-"): content for name, content in files.items()}
    data = Sounds(path=str(write(tmp_path / "flat", flat))).open("train")
    assert (data.class_names, data.arrays) == ((), {})
    assert data.source[0].keys() == {"x"}


def test_sounds_are_cut_or_filled_up_with_silence(tmp_path):
    long, short = _noise(0, 70), _noise(1, 30)
    root = write(
        tmp_path / "x",
        {"train/a.wav": _wav(long), "train/b.wav": _wav(short), "test/a.wav": _wav(short)},
    )
    with pytest.raises(
        ValueError,
        match=r"b\.wav cannot be read \(.* 30 samples where the first "
        r"has 70; set length to cut or fill up all to one\)",
    ):
        Sounds(path=str(root)).open("train")
    x = Sounds(path=str(root), length=50).open("train").source.arrays["x"]
    np.testing.assert_array_equal(x[0], long[:50])
    np.testing.assert_array_equal(x[1], np.concatenate([short, np.zeros((20, 1))]))


def test_many_sounds_stay_on_disk(tmp_path, files, monkeypatch):
    for path in (zipped(tmp_path / "x.zip", files), write(tmp_path / "x", files)):
        source = Sounds(path=str(path))
        expected = _contents(source.open("train"))
        monkeypatch.setattr(datasets, "IN_MEMORY", 0)
        data = pickle.loads(pickle.dumps(source.open("train")))
        assert not hasattr(data.source, "arrays")
        assert _contents(data) == expected
        with_workers = dataclasses.replace(data, workers=1)
        taken = []
        for read in (data, with_workers):
            stream = batches(read, batch_size=4, seed=0)
            taken.append([next(stream) for _ in range(3)])
            stream.close()
        for one, other in zip(*taken, strict=True):
            np.testing.assert_array_equal(one["x"], other["x"])
        monkeypatch.undo()


def _changed(at, form, value):
    """A sound with another number in its header."""
    content = bytearray(_wav(_noise(0)))
    struct.pack_into(form, content, at, value)
    return bytes(content)


def _extended(number, samples=None):
    """A sound whose format is named by 16 bytes, as WAVE_FORMAT_EXTENSIBLE has it."""
    content = _wav(_noise(0) if samples is None else samples)
    guid = uuid.UUID(f"{number:08x}-0000-0010-8000-00aa00389b71").bytes_le
    form = struct.pack("<H", 65534) + content[22:36] + struct.pack("<HHI", 22, 16, 4) + guid
    return content[:12] + struct.pack("<4sI", b"fmt ", len(form)) + form + content[36:]


BAD = {
    "rate": (_wav(_noise(0), rate=16000), "it has 16000 samples a second where the first has 8000"),
    "stereo": (_wav(_noise(0, 50, 2)), "it has 2 channels where the first has 1"),
    "length": (
        _wav(_noise(0, 51)),
        "it has 51 samples where the first has 50; set length to cut .*",
    ),
    "bytes": (_wav(_noise(0), width=1), "ValueError: it has 8 bits where 16 are expected"),
    "deep": (_wav(_noise(0), width=4), "ValueError: it has 32 bits where 16 are expected"),
    "many": (_wav(_noise(0, 50, 3)), "ValueError: it has 3 channels where 1 or 2 are expected"),
    "cut": (_wav(_noise(0))[:-20], "ValueError: .* should hold 50 samples, and it holds 40"),
    "none": (_wav(_noise(0, 0)), "ValueError: .* should hold 0 samples, and it holds 0"),
    "fast": (_changed(24, "<I", 2**32 - 1), "ValueError: it has 4294967295 samples a second .*"),
    "still": (_changed(24, "<I", 0), "ValueError: it has 0 samples a second .*"),
    "stream": (_changed(40, "<I", 2**32 - 1), "ValueError: its header leaves its length open.*"),
    "stream of 0": (_changed(40, "<I", 0), "ValueError: by its header it should hold 0 samples.*"),
    "floats": (_changed(20, "<H", 3), "ValueError: its format is number 3 where 1, plain PCM.*"),
    "extended floats": (_extended(3), "ValueError: its format is number 3 where 1, plain PCM.*"),
    "text": (b"RIFF but no sound", "ValueError: it is no whole WAV file"),
    "empty": (b"", "ValueError: it is no whole WAV file"),
    "header": (_wav(_noise(0))[:36], "ValueError: it is no whole WAV file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sounds_are_named_or_left_out(tmp_path, files, name, caplog):
    content, why = BAD[name]
    split = {f"train/{n}": c for n, c in files.items()} | {f"test/{n}": c for n, c in files.items()}
    root = str(write(tmp_path / "x", split | {"train/oh/bad.wav": content}))
    message = rf"^{root}: the sound train/oh/bad\.wav cannot be read \({why}\); skip_bad \(.*$"
    with pytest.raises(UnreadableError, match=message) as caught:
        Sounds(path=root).open("train")
    assert "\n" not in str(caught.value)
    assert len(Sounds(path=root, skip_bad=True).open("train").source) == 12
    assert "left out 1 of 13 examples as unreadable" in caplog.text


def test_extended_headers_and_further_chunks_are_read(tmp_path, files):
    samples = _noise(99)
    content = _extended(1, samples)
    listed = content[:12] + struct.pack("<4sI", b"LIST", 3) + b"abc\0" + content[12:] + b"data"
    for more in (content, listed):
        data = Sounds(path=str(zipped(tmp_path / "x", files | {"ah/more.wav": more}))).open("train")
        test = Sounds(path=str(tmp_path / "x")).open("test")
        assert samples.tobytes() in _contents(data) | _contents(test)


def test_nothing_but_bad_sounds_is_refused(tmp_path):
    root = str(write(tmp_path / "x", {f"ah/{n}.wav": b"" for n in range(3)}))
    with pytest.raises(
        ValueError, match=r"cannot be read \(ValueError: it is no whole WAV file\); skip_bad"
    ):
        Sounds(path=root).open("train")
    with pytest.raises(ValueError, match=r"none of \d sounds can be read, such as"):
        Sounds(path=root, skip_bad=True).open("train")


def test_layouts_are_refused_with_a_hint(tmp_path):
    write(tmp_path / "x", {"ah/a.mp3": b""})
    with pytest.raises(
        ValueError, match=r"x holds no WAV file; lay sounds out as x/CLASS/SOUND\.wav"
    ):
        Sounds(path=str(tmp_path / "x")).open("train")
    with pytest.raises(
        ValueError, match=r"path should name a folder or zip .* of WAV files, got ''"
    ):
        Sounds()


@pytest.mark.skipif(not SPOKEN.exists(), reason=f"{SPOKEN.name} lies not beside the checkout")
def test_spoken_digits(tmp_path):
    source = Sounds(path=str(SPOKEN))
    train, test = source.open("train"), source.open("test")
    assert (len(train.source), len(test.source)) == (2100, 300)
    assert train.shape == test.shape == (4096, 1)
    assert train.rate == 4000
    assert np.bincount(train.source.arrays["label"]).tolist() == [210] * 10
    with zipfile.ZipFile(SPOKEN) as archive:
        rate, samples = wavfile.read(io.BytesIO(archive.read("train/zero/en-us-m1-130.wav")))
    assert rate == 4000
    (place,) = np.flatnonzero((train.source.arrays["x"][..., 0] == samples).all(1))
    assert train.class_names[train.source.arrays["label"][place]] == "zero"
    x = train.source.arrays["x"]
    np.testing.assert_array_equal(to_int16(to_float(x)), x)
