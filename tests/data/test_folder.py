import io
import logging
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from folders import write, zipped
from PIL import Image, ImageOps

from cfg_jax.data import Folder
from cfg_jax.data.pixels import to_pixels

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


def _solid(level, size=(6, 6)):
    return _encoded(Image.new("L", size, level), ".png")


@pytest.fixture
def levels():
    """Files whose grey level names them: class `cat` is dark, `dog` is bright."""
    classes = {level: ("cat", "dog")[label] for level, label in (DARK | BRIGHT).items()}
    return {f"{name}/{level:03}.png": _solid(level) for level, name in classes.items()}


def _contents(dataset):
    examples = [dataset.source[i] for i in range(len(dataset.source))]
    return {int(e["x"].flat[0]): int(e["label"]) for e in examples}


def _both(settings):
    return [_contents(settings.open(split)) for split in ("train", "test")]


def _all(settings):
    train, test = _both(settings)
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
    image = _on_white(Image.open(io.BytesIO(content))).convert({1: "L", 3: "RGB"}[channels])
    scale = 16 / min(size)
    width, height = round(size[0] * scale), round(size[1] * scale)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - 16) // 2, (width - 16) // 2
    expected = resized[top : top + 16, left : left + 16].reshape(16, 16, channels)

    pixels = to_pixels(Image.open(io.BytesIO(content)), image_size=16, channels=channels)
    assert pixels.dtype == np.uint8
    # Where it is transparent, Pillow rounds once more than the oracle.
    assert np.abs(pixels.astype(int) - expected).max() <= (mode in ("RGBA", "LA"))


def _on_white(image, white=(255, 255, 255)):
    """An image laid on a background, in float64."""
    if not image.has_transparency_data:
        return image
    *colours, alpha = np.moveaxis(np.asarray(image.convert("RGBA"), np.float64), -1, 0)
    share = alpha / 255
    laid = [c * share + w * (1 - share) for c, w in zip(colours, white, strict=True)]
    return Image.fromarray(np.rint(np.stack(laid, -1)).astype(np.uint8))


def test_downsampling_is_antialiased():
    fine = Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255)
    pixels = to_pixels(fine, image_size=8, channels=1)
    assert np.abs(pixels.astype(int) - 128)[1:-1, 1:-1].max() <= 2


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16))
    stored = Image.open(io.BytesIO(_encoded(deep, ".png")))
    pixels = to_pixels(stored, image_size=0, channels=1)
    assert pixels.ravel().tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_of_thirty_two_bits_nobody_knows_the_range(dtype):
    Image.fromarray(np.ones((4, 4), dtype)).save(file := io.BytesIO(), "TIFF")
    with pytest.raises(ValueError, match="numbers of 32 bits, whose range is not known"):
        to_pixels(Image.open(file), image_size=0, channels=1)


@pytest.mark.parametrize("size", [(300, 4), (4, 300), (97, 6), (64, 4)])
def test_a_long_image_gives_its_middle(size):
    """The same as where all of it is resized."""
    image = _noise("RGB", size)
    scale = 16 / min(size)
    width, height = round(size[0] * scale), round(size[1] * scale)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - 16) // 2, (width - 16) // 2
    pixels = to_pixels(image, image_size=16, channels=3)
    np.testing.assert_array_equal(pixels, resized[top : top + 16, left : left + 16])


def test_a_line_of_pixels_takes_no_more_memory_than_others(monkeypatch):
    sizes, resize = [], Image.Image.resize

    def watched(image, size, *rest, **more):
        sizes.append(size)
        return resize(image, size, *rest, **more)

    monkeypatch.setattr(Image.Image, "resize", watched)
    line = Image.new("L", (1, 30_001), 70)
    assert (to_pixels(line, image_size=64, channels=1) == 70).all()
    assert sizes == [(64, 64 * 17)]


@pytest.mark.filterwarnings("error")
def test_transparent_palettes_are_read_in_silence():
    content = _encoded(_noise("RGBA", (9, 9)).quantize(8), ".png")
    image = Image.open(io.BytesIO(content))
    assert isinstance(image.info["transparency"], bytes)
    pixels = to_pixels(image, image_size=0, channels=3)
    assert np.abs(pixels.astype(int) - np.asarray(_on_white(image))).max() <= 1


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
@pytest.mark.parametrize("keyed", [False, True])
def test_what_is_hidden_under_transparency_is_not_shown(background, keyed):
    """A red square on nothing; what lies under the nothing is noise, or a colour that means it."""
    hidden = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    square = np.zeros((32, 32), bool)
    square[8:24, 8:24] = True
    expected = np.where(square[..., None], (255, 0, 0), background)
    if keyed:
        colours = np.where(square[..., None], (255, 0, 0), (1, 2, 3)).astype(np.uint8)
        Image.fromarray(colours).save(file := io.BytesIO(), "PNG", transparency=(1, 2, 3))
    else:
        colours = np.where(square[..., None], (255, 0, 0), hidden).astype(np.uint8)
        alpha = (255 * square[..., None]).astype(np.uint8)
        Image.fromarray(np.concatenate([colours, alpha], -1)).save(file := io.BytesIO(), "PNG")
    pixels = to_pixels(Image.open(file), image_size=0, channels=3, background=background)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
def test_a_transparent_level_of_sixteen_bits_is_not_shown(background):
    levels = np.full((8, 8), 40_000, np.uint16)
    levels[2:4] = 300
    Image.fromarray(levels).save(file := io.BytesIO(), "PNG", transparency=300)
    pixels = to_pixels(Image.open(file), image_size=0, channels=3, background=background)
    np.testing.assert_array_equal(pixels[:2], 40_000 >> 8)
    np.testing.assert_array_equal(pixels[2:4], np.broadcast_to(background, (2, 8, 3)))


def test_the_background_is_chosen_in_the_source(tmp_path, source):
    nothing = _encoded(Image.new("RGBA", (4, 4), (1, 2, 3, 0)), ".png")
    root = write(tmp_path / "images", {f"cat/{n}.png": nothing for n in range(3)})
    for fields, level in (({}, [255] * 3), ({"background": (5, 6, 7)}, [5, 6, 7])):
        data = source(Folder, path=root, **fields).open("train")
        assert data.source[0]["x"].reshape(-1, 3).tolist() == [level] * 16


@pytest.mark.parametrize("orientation", range(10))
def test_photographs_are_turned_upright(orientation):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    found = to_pixels(Image.open(file), image_size=0, channels=1)[..., 0]
    np.testing.assert_array_equal(found, expected)
    if orientation == 6:  # To be turned a quarter clockwise.
        assert found.tolist() == [[120, 0], [160, 40], [200, 80]]


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"eXIf", b"\x13\x37" * 9),
        _chunk(b"eXIf", b"II*\x00\xff\xff\xff\xff"),
        _chunk(b"tEXt", b"Raw profile type exif\0\nexif\n      4\nzzzz"),
    ],
)
def test_damaged_exif_costs_no_pixel(chunk):
    image = _noise("RGB", (8, 6))
    png = _encoded(image, ".png")
    end = png.index(b"IDAT") - 4
    damaged = Image.open(io.BytesIO(png[:end] + chunk + png[end:]))
    np.testing.assert_array_equal(to_pixels(damaged, image_size=0, channels=3), np.asarray(image))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_half_an_image_is_none_whatever_its_exif(suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    format = {".png": "PNG", ".jpg": "JPEG"}[suffix]
    _noise("RGB", (64, 64)).save(file := io.BytesIO(), format, exif=exif)
    half = io.BytesIO(file.getvalue()[: file.tell() // 2])
    with pytest.raises(OSError, match=r"(?i)truncated"):
        to_pixels(Image.open(half), image_size=0, channels=3)


# What becomes of a folder.


def test_a_folder_of_mixed_images(tmp_path, source):
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
    root = write(tmp_path / "images", files | {"ant/notes.txt": b"", ".hidden/x.png": b"no image"})
    settings = source(Folder, path=root, image_size=12)
    found = {}
    for split in ("train", "test"):
        dataset = settings.open(split)
        assert (dataset.shape, dataset.class_names) == ((12, 12, 3), ("ant", "bee"))
        for i in range(len(dataset.source)):
            found[dataset.source[i]["x"].tobytes()] = int(dataset.source[i]["label"])
    assert found == {
        to_pixels(Image.open(io.BytesIO(content)), image_size=12, channels=3).tobytes(): label
        for content, label in zip(files.values(), (0, 0, 1, 1), strict=True)
    }


def test_classes_are_sorted_folder_names(tmp_path, source, levels):
    settings = source(Folder, path=write(tmp_path / "images", levels), channels=1)
    assert _all(settings) == DARK | BRIGHT
    assert settings.open("train").class_names == ("cat", "dog")


@pytest.mark.parametrize("wrapper", ["", "top/"])
def test_a_zip_is_as_its_folder(tmp_path, source, levels, wrapper):
    folder = write(tmp_path / "images", levels)
    extra = {f"{wrapper}": b""} if wrapper else {}
    extra |= {"README": b"", f"{wrapper}cat/": b"", "__MACOSX/cat/000.png": b""}
    archive = zipped(tmp_path / "images.zip", extra | {wrapper + n: c for n, c in levels.items()})
    settings = {"channels": 1, "held_out": 0.4}
    from_folder = _both(source(Folder, path=folder, **settings))
    assert _both(source(Folder, path=archive, **settings)) == from_folder
    wrapped = write(tmp_path / "outer" / "inner", levels).parent
    assert _both(source(Folder, path=wrapped, **settings)) == from_folder


def test_paths_may_start_at_home(tmp_path, source, levels, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "images", levels)
    assert _all(source(Folder, path="~/images", channels=1)) == DARK | BRIGHT


def test_a_given_test_split(tmp_path, source, levels):
    train = write(tmp_path / "train", levels)
    test = zipped(tmp_path / "test.zip", {"cat/a.png": _solid(50), "dog/b.png": _solid(150)})
    settings = source(Folder, path=train, test_path=test, channels=1)
    assert _both(settings) == [DARK | BRIGHT, {50: 0, 150: 1}]


def test_images_of_one_size_need_no_image_size(tmp_path, source):
    files = {f"cat/{n}.png": _encoded(_noise("RGB", (7, 5), n), ".png") for n in range(3)}
    root = write(tmp_path / "images", files)
    assert source(Folder, path=root).open("train").shape == (5, 7, 3)


def test_images_of_many_sizes_need_image_size(tmp_path, source, levels):
    levels["dog/odd.png"] = _solid(1, (6, 9))
    root = write(tmp_path / "images", levels)
    with pytest.raises(ValueError, match=r"image dog/odd\.png is \(9, 6\) .*set image_size"):
        source(Folder, path=root).open("train")
    assert source(Folder, path=root, image_size=6).open("train").shape == (6, 6, 3)


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
@pytest.mark.parametrize("wrapper", ["", "top/"])
@pytest.mark.parametrize("archived", [False, True])
def test_folders_of_splits_are_the_splits(tmp_path, source, levels, test, wrapper, archived):
    files = {f"{wrapper}train/{name}": content for name, content in levels.items()}
    files |= {f"{wrapper}{test}/cat/a.png": _solid(50), f"{wrapper}{test}/dog/b.png": _solid(150)}
    path = zipped(tmp_path / "images", files) if archived else write(tmp_path / "images", files)
    assert _both(source(Folder, path=path, channels=1)) == [DARK | BRIGHT, {50: 0, 150: 1}]
    with pytest.raises(ValueError, match="path should hold class folders alone where test_path"):
        source(Folder, path=path, test_path=path).open("train")
    other = write(tmp_path / "other", levels)
    with pytest.raises(ValueError, match="test_path should hold class folders alone"):
        source(Folder, path=other, test_path=path).open("train")


def test_class_folders_may_hold_folders(tmp_path, source, levels):
    parts = {name.replace("/", f"/{n % 3}/"): c for n, (name, c) in enumerate(levels.items())}
    parts |= {"cat/deep/er/a.png": _solid(50)}
    settings = source(Folder, path=write(tmp_path / "images", parts), channels=1)
    assert _all(settings) == DARK | BRIGHT | {50: 0}
    assert settings.open("train").class_names == ("cat", "dog")


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_images_in_no_folder_have_no_classes(tmp_path, source, prefix):
    files = {f"{prefix}{level}.png": _solid(level) for level in range(20)}
    if prefix:
        files |= {f"test/{level}.png": _solid(level) for level in range(20, 25)}
    settings = source(Folder, path=write(tmp_path / "images", files), channels=1)
    found = []
    for split in ("train", "test"):
        data = settings.open(split)
        assert (data.class_names, data.num_classes, data.arrays) == ((), 0, {})
        examples = [data.source[i] for i in range(len(data.source))]
        assert all(example.keys() == {"x"} for example in examples)
        found.append({int(example["x"].flat[0]) for example in examples})
    assert found[0] | found[1] == {*range(25 if prefix else 20)}
    assert not found[0] & found[1]
    if prefix:
        assert found[0] == {*range(20)}


def test_every_class_has_a_training_image(tmp_path, source):
    """Classes of one image, whose names hash to the test split as often as not."""
    files = {f"{name:02}/{n}.png": _solid(10 * name) for name in range(20) for n in range(2)}
    files |= {f"{name:02}/0.png": _solid(10 * name) for name in range(20, 25)}
    settings = source(Folder, path=write(tmp_path / "images", files), held_out=0.5)
    labels = settings.open("train").source.arrays["label"]
    assert {*labels.tolist()} == {*range(25)}


@pytest.mark.parametrize(
    "names",
    [
        [b"dog", b"two\nlines", b"zebra"],
        [b" ", b"dog", b"zebra"],
        [b"cat", b"cat ", b"dog"],
        [b"caf\xe9", b"dog"],
        ["caf\u00e9".encode(), b"dog", "\u72d0".encode()],
        [b"\tx", b"#y", b'"z"'],
    ],
)
def test_class_names_are_the_folders_names(tmp_path, source, names):
    for n, name in enumerate(names):
        folder = os.path.join(os.fsencode(tmp_path / "images"), name)
        os.makedirs(folder)
        for k in range(3):
            with open(os.path.join(folder, b"%d.png" % k), "wb") as file:
                file.write(_solid(50 * n))
    settings = source(Folder, path=tmp_path / "images", channels=1)
    expected = [n.decode("latin-1" if n == b"caf\xe9" else "utf-8") for n in names]
    data = settings.open("train")
    assert list(data.class_names) == [
        expected[i] for i in np.argsort([os.fsdecode(n) for n in names])
    ]
    assert {level: data.class_names[k] for level, k in _contents(data).items()} == {
        50 * n: name for n, name in enumerate(expected)
    }


def test_a_source_says_how_it_is_read(tmp_path, source, levels):
    root = write(tmp_path / "images", levels)
    for said in ({}, {"flip": True, "skip_bad": True, "workers": 3}):
        data = source(Folder, path=root, **said).open("train")
        plain = {"flip": False, "skip_bad": False, "workers": 0}
        assert {name: getattr(data, name) for name in plain} == plain | said


@pytest.mark.parametrize("format", ["WEBP", "GIF", "BMP", "TIFF", "PNG", "JPEG"])
def test_formats(tmp_path, source, format):
    suffixes = {"WEBP": ["webp"], "TIFF": ["tif", "TIFF"], "JPEG": ["jpg", "jpeg"]}
    image = Image.new("RGB", (8, 8), (40, 80, 120))
    image.save(file := io.BytesIO(), format, **({"lossless": True} if format == "WEBP" else {}))
    files = {
        f"cat/{n}.{suffix}": file.getvalue()
        for suffix in suffixes.get(format, [format.lower()])
        for n in range(3)
    }
    data = source(Folder, path=write(tmp_path / "images", files)).open("train")
    off = np.abs(data.source[0]["x"].astype(int) - [40, 80, 120]).max()
    assert off <= (2 if format == "JPEG" else 0)


def test_of_an_animation_the_first_frame_is_taken(tmp_path, source):
    frames = [Image.new("L", (8, 8), level) for level in (10, 200)]
    frames[0].save(file := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    root = write(tmp_path / "images", {f"cat/{n}.gif": file.getvalue() for n in range(3)})
    assert source(Folder, path=root, channels=1).open("train").source[0]["x"].max() == 10


# What is prepared, and when.


def _prepared(settings):
    return set(os.listdir(settings.dir)) - {"downloads"}


def test_a_dataset_is_prepared_once_with_a_progress_bar(tmp_path, source, levels, capfd):
    settings = source(Folder, path=write(tmp_path / "images", levels))
    train = settings.open("train")
    out, err = capfd.readouterr()
    assert out == ""
    assert re.search(rf"train examples.*/{len(train.source)} ", err)
    again = settings.open("train")
    assert "examples" not in capfd.readouterr().err
    np.testing.assert_array_equal(again.source.arrays["x"], train.source.arrays["x"])
    assert len(_prepared(settings)) == 1


@pytest.mark.parametrize("below", ["", "cat", "kept/here"])
def test_prepared_data_never_lie_among_the_images(tmp_path, levels, below):
    root = write(tmp_path / "images", levels)
    before = sorted(root.rglob("*"))
    with pytest.raises(ValueError, match=r"dir, .*, should lie elsewhere than within .*images"):
        Folder(path=str(root), dir=str(root / below)).open("train")
    assert sorted(root.rglob("*")) == before


def test_a_changed_folder_is_prepared_anew(tmp_path, source, levels):
    root = write(tmp_path / "images", levels)
    settings = source(Folder, path=root, channels=1)
    assert {1, 2} <= _all(settings).keys()
    (root / "cat/001.png").write_bytes(_solid(101))
    assert _all(settings) == dict.fromkeys((0, *range(2, 20), 101), 0) | BRIGHT
    (root / "cat/002.png").unlink()
    assert _all(settings) == dict.fromkeys((0, *range(3, 20), 101), 0) | BRIGHT


@pytest.mark.parametrize(
    "changes",
    [{"image_size": 4}, {"channels": 1}, {"held_out": 0.5}, {"skip_bad": True}, {"test_path": "."}],
)
def test_other_settings_are_prepared_apart(tmp_path, source, levels, changes):
    root = write(tmp_path / "images", levels)
    source(Folder, path=root).open("train")
    if "test_path" in changes:
        changes = {"test_path": root}
    changed = source(Folder, path=root, **changes)
    dataset = changed.open("test")
    assert len(_prepared(changed)) == 2
    assert dataset.shape == (changed.image_size or 6, changed.image_size or 6, changed.channels)


# What is refused.


def _refused(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        settings.open("train")
    assert "\n" not in str(error.value)
    assert not list(Path(settings.dir).rglob("*incomplete*"))


LAYOUT = r"lay images out as images/CLASS/IMAGE\.png"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b"", "cat/b.png": b""}, rf"image a\.png lies in no class folder; {LAYOUT}"),
        (
            {"a.png": b"", "train/cat/b.png": b"", "test/cat/b.png": b""},
            rf"image a\.png lies in no class folder; {LAYOUT}",
        ),
        (
            {"cat/a.png": b"", "dog/b.svg": b""},
            rf"folder dog holds no image; {LAYOUT}",
        ),
        (
            {"train/cat/a.png": b"", "test/cat/b.png": b"", "test/dog/b.svg": b""},
            r"folder dog holds no image; lay images out as images/test/CLASS/IMAGE\.png",
        ),
        (
            {"train/cat/a.png": b"", "test/cow/b.png": b""},
            "should have the same class folders: only one of .*train and .*test has cat",
        ),
        ({"README": b""}, rf"images holds no image; {LAYOUT}"),
        ({"a.png": b""}, r"holds one image: train and test need one each"),
        ({"cat/a.png": b""}, r"holds one image: train and test need one each"),
        ({"x/y/cat/a.png": b""}, r"holds one image: train and test need one each"),
        ({"cat/a.png": b"", "dog/b.webp": b""}, "holds one image a class, and none can be held"),
    ],
)
@pytest.mark.parametrize("archived", [False, True])
def test_layouts_refused(tmp_path, source, files, message, archived):
    path = zipped(tmp_path / "images", files) if archived else write(tmp_path / "images", files)
    _refused(source(Folder, path=path), message)


def test_empty_class_folders_are_refused(tmp_path, source, levels):
    (write(tmp_path / "images", levels) / "emu").mkdir()
    _refused(source(Folder, path=tmp_path / "images"), "folder emu holds no image")


def test_paths_refused(tmp_path, source):
    with pytest.raises(ValueError, match="path should name a folder or zip of class folders"):
        source(Folder)
    _refused(source(Folder, path=tmp_path / "none"), "none does not exist: path should be a folder")
    (tmp_path / "file").write_text("neither")
    _refused(source(Folder, path=tmp_path / "file"), "file is neither a folder nor a zip")


def test_other_classes_in_the_test_split_are_refused(tmp_path, source, levels):
    root = write(tmp_path / "images", levels)
    other = write(tmp_path / "test", {"cat/a.png": _solid(1), "cow/b.png": _solid(2)})
    _refused(
        source(Folder, path=root, test_path=other),
        "should have the same class folders: only one of .*images and .*test has cow",
    )


@pytest.fixture
def damaged(tmp_path, levels):
    half = _encoded(_noise("RGB", (64, 64)), ".jpg")
    levels |= {"cat/text.png": b"not an image", "dog/half.jpg": half[: len(half) // 2]}
    return write(tmp_path / "images", levels)


@pytest.mark.parametrize("image_size", [0, 6])
def test_bad_images_are_named(source, damaged, image_size):
    _refused(
        source(Folder, path=damaged, image_size=image_size),
        r"image (cat/text\.png|dog/half\.jpg) cannot be read "
        r"\((OSError: .*truncated.*|UnidentifiedImageError: cannot identify image file)\); "
        r"skip_bad .*leaves such",
    )


def test_bad_images_are_skipped_and_counted_if_so_said(source, damaged, levels, caplog):
    settings = source(Folder, path=damaged, channels=1, skip_bad=True, held_out=0.5)
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert _all(settings) == DARK | BRIGHT
    counts = re.findall(r"skipped (\d+) of \d+ images as unreadable, such as (\S+)", caplog.text)
    assert sum(int(count) for count, _ in counts) == 2
    assert {name for _, name in counts} <= {"cat/text.png", "dog/half.jpg"}


def _nowhere(path):
    os.symlink("/nowhere/gone.png", path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_nowhere, "FileNotFoundError: No such file or directory"),
        (os.mkfifo, "OSError: it is not a regular file"),
        (lambda path: os.symlink(path, path), "OSError: Too many levels of symbolic links"),
    ],
)
def test_what_is_no_file_is_as_a_bad_image(tmp_path, source, levels, make, why):
    root = write(tmp_path / "images", levels)
    make(root / "cat" / "000x.png")
    _refused(
        source(Folder, path=root, held_out=0.5),
        rf"image cat/000x\.png cannot be read \({why}\); skip_bad .*leaves such",
    )
    settings = source(Folder, path=root, channels=1, held_out=0.5, skip_bad=True)
    assert _all(settings) == DARK | BRIGHT


def test_a_link_to_an_image_or_a_folder_is_followed(tmp_path, source, levels):
    root = write(tmp_path / "images", levels)
    (root / "cat").rename(tmp_path / "cats")
    (root / "cat").symlink_to(tmp_path / "cats")
    (root / "dog" / "200.png").rename(tmp_path / "elsewhere.png")
    (root / "dog" / "200.png").symlink_to(tmp_path / "elsewhere.png")
    assert _all(source(Folder, path=root, channels=1)) == DARK | BRIGHT


@pytest.mark.parametrize("archived", [False, True])
def test_the_fingerprint_tells_whether_images_were_added(tmp_path, source, levels, archived):
    def fingerprint(name, files):
        path = tmp_path / name / "images"
        path.parent.mkdir()
        path = zipped(path, files) if archived else write(path, files)
        both = {source(Folder, path=path).open(split).fingerprint for split in ("train", "test")}
        (found,) = both
        return found

    first = fingerprint("first", levels)
    assert first
    assert fingerprint("same", levels) == first
    assert fingerprint("more", levels | {"cat/new.png": _solid(50)}) != first
    assert fingerprint("less", dict(list(levels.items())[1:])) != first


def test_a_class_of_bad_images_alone_is_told(tmp_path, source, levels, caplog):
    root = write(tmp_path / "images", levels | {f"emu/{n}.png": b"bad" for n in range(3)})
    settings = source(Folder, path=root, channels=1, skip_bad=True)
    with caplog.at_level(logging.WARNING):
        assert settings.open("train").class_names == ("cat", "dog", "emu")
    assert "images: 1 of 3 classes have no training example, such as 'emu'" in caplog.text


@pytest.mark.parametrize("image_size", [0, 6])
def test_nothing_but_bad_images_is_refused(tmp_path, source, image_size):
    root = write(tmp_path / "images", {f"cat/{n}.png": b"bad" for n in range(3)})
    settings = source(Folder, path=root, skip_bad=True, image_size=image_size)
    _refused(settings, r"none of \d images can be read")


# A real one.


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.exists(), reason=f"{CIFAR.name} lies not beside the checkout")
def test_real_photographs(source):
    settings = source(Folder, path=CIFAR, image_size=32)
    train, test = (settings.open(split) for split in ("train", "test"))
    assert train.shape == (32, 32, 3)
    assert train.class_names[:2] == ("airplane", "automobile")
    assert len(train.source) + len(test.source) == 10_000
    labels = np.concatenate([train.source.arrays["label"], test.source.arrays["label"]])
    assert np.bincount(labels).tolist() == [1000] * 10
    with zipfile.ZipFile(CIFAR) as archive:
        name = archive.namelist()[1234]
        image = np.asarray(Image.open(io.BytesIO(archive.read(name))))
    images = np.concatenate([train.source.arrays["x"], test.source.arrays["x"]])
    same = (images == image).all(axis=(1, 2, 3))
    assert train.class_names[labels[same.argmax()]] == name.split("/")[0]
    assert same.any()
