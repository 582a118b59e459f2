"""Pictures that are not square: the shapes, which picture has which, and whose turn it is."""

import contextlib
import io
import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from folders import write, zipped
from PIL import Image

from cfg_jax.data import Captioned, UnreadableError, batches
from cfg_jax.data.buckets import nearest, shapes, turn

SDXL = [
    (1024, 1024),
    *((832, 1216), (896, 1152), (768, 1344), (640, 1536)),
    *((1216, 832), (1152, 896), (1344, 768), (1536, 640)),
]
"""Shapes of SDXL's Appendix I that its users are told to sample with."""


def test_the_shapes_are_those_that_others_train_with():
    assert set(SDXL) <= set(shapes(1024, 64, 4.0))
    assert {(512, 2048), (576, 1792), (704, 1408), (960, 1088)} <= set(shapes(1024, 64, 4.0))


@pytest.mark.parametrize(
    ("side", "multiple", "aspect"), [(64, 8, 2.0), (512, 64, 2.0), (1024, 64, 4.0), (24, 24, 1.0)]
)
def test_shapes_fill_the_pixels_of_the_square(side, multiple, aspect):
    found = shapes(side, multiple, aspect)
    assert (side, side) in found
    assert set(found) == {(width, height) for height, width in found}
    for height, width in found:
        assert height % multiple == width % multiple == 0
        assert height * width <= side * side
        assert max(height, width) <= aspect * min(height, width)
        grown = (height + multiple) * width, height * (width + multiple)
        assert max(grown) > side * side
    # None is missing: whatever fits lies within one of them.
    for one in range(multiple, 4 * side, multiple):
        other = side * side // one // multiple * multiple
        if other and max(one, other) <= aspect * min(one, other):
            assert (one, other) in found


def test_a_picture_has_the_shape_of_the_nearest_ratio():
    of = shapes(1024, 64, 2.0)
    for height, width in [(1000, 1000), (3000, 2000), (512, 768), (768, 512), (10, 900)]:
        got = of[nearest(of, (height, width))]
        distances = {s: abs(math.log(s[0] / s[1]) - math.log(height / width)) for s in of}
        assert distances[got] == min(distances.values())
    assert of[nearest(of, (512, 768))] == of[nearest(of, (768, 512))][::-1] == (832, 1216)


@pytest.mark.parametrize("sizes", [(1,), (3, 1, 6), (5, 5)])
def test_every_bucket_has_as_many_turns_as_examples_and_each_batch_its_own_number(sizes):
    total = sum(sizes)
    turns = [turn(7, step, sizes) for step in range(3 * total)]
    for rounds in range(3):
        here = turns[rounds * total : (rounds + 1) * total]
        assert Counter(bucket for bucket, _ in here) == dict(enumerate(sizes))
    for bucket, size in enumerate(sizes):
        assert [number for b, number in turns if b == bucket] == list(range(3 * size))


def test_turns_come_in_an_order_of_the_seed():
    orders = {
        tuple(turn(seed, step, (20, 20))[0] for step in range(start, start + 40))
        for seed, start in [(0, 0), (0, 40), (1, 0)]
    }
    assert len(orders) == 3


def png(height, width, level):
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), level, np.uint8)).save(out, "PNG")
    return out.getvalue()


SIZES = {"square": (40, 40), "wide": (20, 80), "tall": (80, 20)}
SHAPES = {"square": (32, 32), "wide": (16, 64), "tall": (64, 16)}


def pictures(per=4):
    """So many pictures of each ratio, each of a level of its own that its caption says."""
    files, rows = {}, []
    for kind, (name, size) in enumerate(SIZES.items()):
        for n in range(per + kind):
            level = 40 * kind + n
            files[f"{name}{n}.png"] = png(*size, level)
            rows.append({"file_name": f"{name}{n}.png", "text": f"{name} {level}"})
    files["metadata.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    return files


def told(path, **fields):
    return Captioned(path=str(path), held_out=0.2, image_size=32, buckets=16, aspect=4.0, **fields)


def take(count, data, **settings):
    with contextlib.closing(batches(data, **settings)) as stream:
        return list(itertools.islice(stream, count))


def check(batch):
    """A batch is of the shape of all its pictures, each with its own caption."""
    (name,) = {str(text).split()[0] for text in batch["text"]}
    assert batch["x"].shape[1:3] == SHAPES[name]
    for x, text in zip(batch["x"], batch["text"], strict=True):
        assert np.all(x == int(text.split()[1]))
    return name


@pytest.fixture
def place(tmp_path):
    return write(tmp_path / "p", pictures())


@pytest.mark.parametrize("pack", [write, zipped])
@pytest.mark.parametrize("crop", [1.0, 1.5])
def test_a_batch_is_of_one_bucket_and_its_shape(tmp_path, pack, crop):
    path = pack(tmp_path / ("p.zip" if pack is zipped else "p"), pictures())
    data = told(path, crop=crop, flip=True).open("train")
    found = Counter(check(batch) for batch in take(len(data.source), data, batch_size=3, seed=0))
    texts = [data.source[number]["text"][0] for number in range(len(data.source))]
    held = Counter(text.split()[0] for text in texts)
    assert found == held  # in as many steps as there are examples
    assert len(found) == 3


def test_read_directly_all_are_squares(place):
    data = told(place).open("train")
    assert data.shape == data.facts.shape == (32, 32, 3)
    assert {data.source[n]["x"].shape for n in range(len(data.source))} == {(32, 32, 3)}


def test_all_examples_are_seen_equally_often(place):
    data = told(place).open("train")
    count = len(data.source)
    seen = Counter(t for b in take(count, data, batch_size=3, seed=1) for t in b["text"].tolist())
    assert len(seen) == count
    assert set(seen.values()) == {3}


def test_the_stream_is_one_wherever_it_starts_and_whoever_reads_it(place):
    data = told(place, crop=1.5).open("train")
    settings = {"batch_size": 4, "seed": 5}
    whole = take(12, data, **settings)
    for one, other in zip(whole[7:], take(5, data, start=7, **settings), strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])
    halves = [take(12, data, process_index=i, process_count=2, **settings) for i in (0, 1)]
    for batch, first, second in zip(whole, *halves, strict=True):
        np.testing.assert_array_equal(batch["x"], np.concatenate([first["x"], second["x"]]))
        np.testing.assert_array_equal(
            batch["text"], np.concatenate([first["text"], second["text"]])
        )
    by_worker = take(4, told(place, crop=1.5, workers=1).open("train"), **settings)
    for one, other in zip(whole, by_worker, strict=False):
        np.testing.assert_array_equal(one["x"], other["x"])


def test_pictures_on_their_side_have_the_shape_that_they_are_seen_in(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side
    out = io.BytesIO()
    Image.fromarray(np.zeros((20, 80, 3), np.uint8)).save(out, "JPEG", exif=exif)
    files = {f"{n}.jpg": out.getvalue() for n in range(3)}
    files |= {f"{n}.txt": b"tall 0" for n in range(3)}
    data = told(write(tmp_path / "p", files)).open("train")
    assert check(take(1, data, batch_size=2, seed=0)[0]) == "tall"


def test_damaged_pictures_are_named_or_left_out(tmp_path):
    files = pictures() | {"wide0.png": b"\x89PNG no"}
    path = write(tmp_path / "p", files)
    with pytest.raises(UnreadableError, match=r"wide0.png cannot be read .*; skip_bad"):
        [told(path).open(split) for split in ("train", "test")]
    both = [told(path, skip_bad=True).open(split) for split in ("train", "test")]
    assert sum(len(data.source) for data in both) == len(files) - 2


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"buckets": 12, "image_size": 24}, "buckets should be a multiple of 8, got 12"),
        ({"buckets": 8}, "image_size should be a multiple of buckets, 8, got 0"),
        (
            {"buckets": 64, "image_size": 96},
            "image_size should be a multiple of buckets, 64, got 9",
        ),
    ],
)
def test_shapes_that_cannot_be_are_refused(fields, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        Captioned(path="x", **fields)
