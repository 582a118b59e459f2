import io
import logging
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfg_jax.data import open_dataset
from cfg_jax.data.folder import held_out_files, to_pixels

DARK = dict.fromkeys(range(20), 0)
BRIGHT = dict.fromkeys(range(200, 220), 1)
CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10-test.zip"


def _noise(mode, size, seed=0):
    """A smooth random image, so that resampling is not all noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 4), dtype=np.uint8)
    return Image.fromarray(coarse, "RGBA").resize(size, Image.Resampling.BILINEAR).convert(mode)


def _encoded(image, suffix):
    file = io.BytesIO()
    image.save(file, {".png": "PNG", ".jpg": "JPEG"}[suffix])
    return file.getvalue()


def _write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def _zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _solid(level, size=(6, 6)):
    return _encoded(Image.new("L", size, level), ".png")


@pytest.fixture
def levels():
    """Files whose grey level names them: class `cat` is dark, `dog` is bright."""
    classes = {level: ("cat", "dog")[label] for level, label in (DARK | BRIGHT).items()}
    return {f"{name}/{level:03}.png": _solid(level) for level, name in classes.items()}


def _contents(dataset):
    examples = [dataset.source[i] for i in range(len(dataset.source))]
    return {int(e["image"].flat[0]): int(e["label"]) for e in examples}


def _both(config):
    return [_contents(open_dataset(config, split=split)) for split in ("train", "test")]


def _all(config):
    train, test = _both(config)
    assert not train.keys() & test.keys()
    return train | test


# What becomes of one image.


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 30), (30, 47), (16, 16), (16, 21), (9, 7), (90, 16)])
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *((mode, ".png") for mode in ("L", "RGB", "RGBA", "P", "LA", "1")),
        *((mode, ".jpg") for mode in ("L", "RGB", "CMYK")),
    ],
)
def test_pixels_are_pillows(mode, suffix, size, channels):
    content = _encoded(_noise(mode, size), suffix)
    image = Image.open(io.BytesIO(content)).convert({1: "L", 3: "RGB"}[channels])
    scale = 16 / min(size)
    width, height = round(size[0] * scale), round(size[1] * scale)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - 16) // 2, (width - 16) // 2
    expected = resized[top : top + 16, left : left + 16].reshape(16, 16, channels)

    pixels = to_pixels(Image.open(io.BytesIO(content)), image_size=16, channels=channels)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


def test_downsampling_is_antialiased():
    fine = Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255)
    pixels = to_pixels(fine, image_size=8, channels=1)
    assert np.abs(pixels.astype(int) - 128)[1:-1, 1:-1].max() <= 2


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16))
    stored = Image.open(io.BytesIO(_encoded(deep, ".png")))
    pixels = to_pixels(stored, image_size=0, channels=1)
    assert pixels.ravel().tolist() == [0, 0, 1, 128, 255]


@pytest.mark.filterwarnings("error")
def test_transparent_palettes_are_read_in_silence():
    content = _encoded(_noise("RGBA", (9, 9)).quantize(8), ".png")
    image = Image.open(io.BytesIO(content))
    assert isinstance(image.info["transparency"], bytes)
    pixels = to_pixels(image, image_size=0, channels=3)
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGBA"))[..., :3])


def test_photographs_are_turned_upright():
    sideways = Image.fromarray(np.array([[10, 20, 30], [40, 50, 60]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned a quarter clockwise.
    file = io.BytesIO()
    sideways.save(file, "PNG", exif=exif)
    pixels = to_pixels(Image.open(file), image_size=0, channels=1)
    assert pixels[..., 0].tolist() == [[40, 10], [50, 20], [60, 30]]


# What becomes of a folder.


def test_a_folder_of_mixed_images(tmp_path, config):
    images = {
        "ant/grey.png": ("L", (20, 31)),
        "ant/colour.JPEG": ("RGB", (33, 20)),
        "bee/alpha.png": ("RGBA", (12, 12)),
        "bee/palette.PNG": ("P", (50, 9)),
    }
    files = {
        name: _encoded(_noise(mode, size, seed), ".png" if name.lower().endswith("png") else ".jpg")
        for seed, (name, (mode, size)) in enumerate(images.items())
    }
    root = _write(tmp_path / "images", files | {"ant/notes.txt": b"", ".hidden/x.png": b"no image"})
    settings = config("folder", path=root, image_size=12)
    found = {}
    for split in ("train", "test"):
        dataset = open_dataset(settings, split=split)
        assert (dataset.shape, dataset.class_names) == ((12, 12, 3), ("ant", "bee"))
        for i in range(len(dataset.source)):
            found[dataset.source[i]["image"].tobytes()] = int(dataset.source[i]["label"])
    assert found == {
        to_pixels(Image.open(io.BytesIO(content)), image_size=12, channels=3).tobytes(): label
        for content, label in zip(files.values(), (0, 0, 1, 1), strict=True)
    }


def test_classes_are_sorted_folder_names(tmp_path, config, levels):
    settings = config("folder", path=_write(tmp_path / "images", levels), channels=1)
    assert _all(settings) == DARK | BRIGHT
    assert open_dataset(settings, split="train").class_names == ("cat", "dog")


@pytest.mark.parametrize("wrapper", ["", "top/"])
def test_a_zip_is_as_its_folder(tmp_path, config, levels, wrapper):
    folder = _write(tmp_path / "images", levels)
    extra = {f"{wrapper}": b""} if wrapper else {}
    extra |= {"README": b"", f"{wrapper}cat/": b"", "__MACOSX/cat/000.png": b""}
    archive = _zip(tmp_path / "images.zip", extra | {wrapper + n: c for n, c in levels.items()})
    settings = {"channels": 1, "held_out": 0.4}
    from_folder = _both(config("folder", path=folder, **settings))
    assert _both(config("folder", path=archive, **settings)) == from_folder
    wrapped = _write(tmp_path / "outer" / "inner", levels).parent
    assert _both(config("folder", path=wrapped, **settings)) == from_folder


def test_paths_may_start_at_home(tmp_path, config, levels, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    _write(tmp_path / "images", levels)
    assert _all(config("folder", path="~/images", channels=1)) == DARK | BRIGHT


def test_the_held_out_split():
    files = [f"class/{n}.png" for n in range(4000)]
    chosen = held_out_files(files, 0.1)
    assert abs(len(chosen) - 400) < 5 * np.sqrt(4000 * 0.1 * 0.9)
    assert held_out_files(files[::-1], 0.1) == chosen
    assert held_out_files(files[:3000], 0.1) == chosen & set(files[:3000])
    assert chosen < held_out_files(files, 0.2)


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_neither_split_is_empty(fraction):
    for count in (2, 3):
        chosen = held_out_files([f"class/{n}.png" for n in range(count)], fraction)
        assert 0 < len(chosen) < count


def test_a_given_test_split(tmp_path, config, levels):
    train = _write(tmp_path / "train", levels)
    test = _zip(tmp_path / "test.zip", {"cat/a.png": _solid(50), "dog/b.png": _solid(150)})
    settings = config("folder", path=train, test_path=test, channels=1)
    assert _both(settings) == [DARK | BRIGHT, {50: 0, 150: 1}]


def test_images_of_one_size_need_no_image_size(tmp_path, config):
    files = {f"cat/{n}.png": _encoded(_noise("RGB", (7, 5), n), ".png") for n in range(3)}
    root = _write(tmp_path / "images", files)
    assert open_dataset(config("folder", path=root), split="train").shape == (5, 7, 3)


def test_images_of_many_sizes_need_image_size(tmp_path, config, levels):
    levels["dog/odd.png"] = _solid(1, (6, 9))
    root = _write(tmp_path / "images", levels)
    with pytest.raises(ValueError, match=r"image dog/odd\.png is \(9, 6\) .*set image_size"):
        open_dataset(config("folder", path=root), split="train")
    assert open_dataset(config("folder", path=root, image_size=6), split="train").shape == (6, 6, 3)


# What is prepared, and when.


def _prepared(config):
    return set(os.listdir(config.dir)) - {"downloads"}


def test_a_dataset_is_prepared_once_with_a_progress_bar(tmp_path, config, levels, capfd):
    settings = config("folder", path=_write(tmp_path / "images", levels))
    train = open_dataset(settings, split="train")
    out, err = capfd.readouterr()
    assert out == ""
    assert re.search(rf"train examples.*/{len(train.source)} ", err)
    again = open_dataset(settings, split="train")
    assert "examples" not in capfd.readouterr().err
    np.testing.assert_array_equal(again.source.images, train.source.images)
    assert len(_prepared(settings)) == 1


def test_a_changed_folder_is_prepared_anew(tmp_path, config, levels):
    root = _write(tmp_path / "images", levels)
    settings = config("folder", path=root, channels=1)
    assert {1, 2} <= _all(settings).keys()
    (root / "cat/001.png").write_bytes(_solid(101))
    assert _all(settings) == dict.fromkeys((0, *range(2, 20), 101), 0) | BRIGHT
    (root / "cat/002.png").unlink()
    assert _all(settings) == dict.fromkeys((0, *range(3, 20), 101), 0) | BRIGHT


@pytest.mark.parametrize(
    "changes",
    [{"image_size": 4}, {"channels": 1}, {"held_out": 0.5}, {"skip_bad": True}, {"test_path": "."}],
)
def test_other_settings_are_prepared_apart(tmp_path, config, levels, changes):
    root = _write(tmp_path / "images", levels)
    open_dataset(config("folder", path=root), split="train")
    if "test_path" in changes:
        changes = {"test_path": root}
    dataset = open_dataset(changed := config("folder", path=root, **changes), split="test")
    assert len(_prepared(changed)) == 2
    assert dataset.shape == (changed.image_size or 6, changed.image_size or 6, changed.channels)


# What is refused.


def _refused(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(settings, split="train")
    assert "\n" not in str(error.value)
    assert not list(Path(settings.dir).rglob("*incomplete*"))


LAYOUT = r"lay images out as images/CLASS/IMAGE\.png"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b""}, rf"image a\.png lies in no class folder; {LAYOUT}"),
        ({"a.png": b"", "cat/b.png": b""}, rf"image a\.png lies in no class folder; {LAYOUT}"),
        (
            {"train/cat/a.png": b"", "val/cat/b.png": b""},
            rf"train/cat/a\.png lies too deep; {LAYOUT}",
        ),
        ({"x/y/cat/a.png": b""}, rf"x/y/cat/a\.png lies too deep; {LAYOUT}"),
        (
            {"cat/a.png": b"", "dog/b.webp": b""},
            rf"folder dog holds no JPEG or PNG image; {LAYOUT}",
        ),
        ({"README": b""}, rf"holds no class folders; {LAYOUT}"),
        ({"cat/a.png": b""}, r"holds one image: train and test need one each"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_layouts_refused(tmp_path, config, files, message, zipped):
    path = _zip(tmp_path / "images", files) if zipped else _write(tmp_path / "images", files)
    _refused(config("folder", path=path), message)


def test_empty_class_folders_are_refused(tmp_path, config, levels):
    (_write(tmp_path / "images", levels) / "emu").mkdir()
    _refused(config("folder", path=tmp_path / "images"), "folder emu holds no JPEG or PNG image")


def test_paths_refused(tmp_path, config):
    _refused(config("folder"), "needs path: a folder or zip")
    _refused(
        config("folder", path=tmp_path / "none"), "none does not exist: path should be a folder"
    )
    (tmp_path / "file").write_text("neither")
    _refused(config("folder", path=tmp_path / "file"), "file is neither a folder nor a zip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": -1}, r"image_size should be 0 \(as stored\) or more, got -1"),
        ({"channels": 2}, r"channels should be 1 \(grey\) or 3 \(RGB\), got 2"),
        ({"held_out": 0.0}, "held_out should be between 0 and 1, got 0.0"),
        ({"held_out": 1.0}, "held_out should be between 0 and 1, got 1.0"),
    ],
)
def test_settings_refused(tmp_path, config, levels, changes, message):
    _refused(config("folder", path=_write(tmp_path / "images", levels), **changes), message)


def test_other_classes_in_the_test_split_are_refused(tmp_path, config, levels):
    root = _write(tmp_path / "images", levels)
    other = _write(tmp_path / "test", {"cat/a.png": _solid(1), "cow/b.png": _solid(2)})
    _refused(
        config("folder", path=root, test_path=other),
        "should have the same class folders: only one of .*images and .*test has cow",
    )


@pytest.fixture
def damaged(tmp_path, levels):
    half = _encoded(_noise("RGB", (64, 64)), ".jpg")
    levels |= {"cat/text.png": b"not an image", "dog/half.jpg": half[: len(half) // 2]}
    return _write(tmp_path / "images", levels)


@pytest.mark.parametrize("image_size", [0, 6])
def test_bad_images_are_named(config, damaged, image_size):
    _refused(
        config("folder", path=damaged, image_size=image_size),
        r"image (cat/text\.png|dog/half\.jpg) cannot be read \(\w+\); skip_bad .*leaves such",
    )


def test_bad_images_are_skipped_and_counted_if_so_said(config, damaged, levels, caplog):
    settings = config("folder", path=damaged, channels=1, skip_bad=True, held_out=0.5)
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert _all(settings) == DARK | BRIGHT
    counts = re.findall(r"skipped (\d+) of \d+ images as unreadable, such as (\S+)", caplog.text)
    assert sum(int(count) for count, _ in counts) == 2
    assert {name for _, name in counts} <= {"cat/text.png", "dog/half.jpg"}


@pytest.mark.parametrize("image_size", [0, 6])
def test_nothing_but_bad_images_is_refused(tmp_path, config, image_size):
    root = _write(tmp_path / "images", {f"cat/{n}.png": b"bad" for n in range(3)})
    settings = config("folder", path=root, skip_bad=True, image_size=image_size)
    _refused(settings, r"none of \d images can be read")


# A real one.


@pytest.mark.skipif(not CIFAR.exists(), reason=f"{CIFAR.name} lies not beside the checkout")
def test_real_photographs(config):
    settings = config("folder", path=CIFAR, image_size=32)
    train, test = (open_dataset(settings, split=split) for split in ("train", "test"))
    assert train.shape == (32, 32, 3)
    assert train.class_names[:2] == ("airplane", "automobile")
    assert len(train.source) + len(test.source) == 10_000
    labels = np.concatenate([train.source.labels, test.source.labels])
    assert np.bincount(labels).tolist() == [1000] * 10
    with zipfile.ZipFile(CIFAR) as archive:
        name = archive.namelist()[1234]
        image = np.asarray(Image.open(io.BytesIO(archive.read(name))))
    images = np.concatenate([train.source.images, test.source.images])
    same = (images == image).all(axis=(1, 2, 3))
    assert train.class_names[labels[same.argmax()]] == name.split("/")[0]
    assert same.any()
