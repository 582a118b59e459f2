"""Pictures cut at random: where the windows lie, and that each is a function of (seed, place)."""

import contextlib
import dataclasses
import io
import itertools
import json

import numpy as np
import pytest
from folders import write
from PIL import Image
from scipy import stats

from cfg_jax.data import ArraySource, Captioned, Dataset, Folder, batches
from cfg_jax.data.windows import Windowed


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def ramp(height, width):
    """Red tells the row, green the column, so that a window tells where it lies."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)


def dataset(count=5, stored=(9, 12), window=(6, 8), **fields):
    """Pictures whose blue is their number, of which windows are shown."""
    x = np.stack([ramp(*stored)] * count)
    x[..., 2] = np.arange(count)[:, None, None]
    source = ArraySource({"x": x, "label": np.arange(count, dtype=np.int32)})
    shape = (*window, 3)
    return Dataset(Windowed(source, shape), shape, (), "ramps", "train", **fields)


def take(count, data, **settings):
    with contextlib.closing(batches(data, **settings)) as stream:
        return list(itertools.islice(stream, count))


def corners(taken):
    """The top and left of every window, and that it is one."""
    x = np.concatenate([batch["x"] for batch in taken]).astype(int)
    height, width = x.shape[1:3]
    found = x[:, 0, 0, :2]
    whole = ramp(height, width)[None, ..., :2] + found[:, None, None]
    np.testing.assert_array_equal(x[..., :2], whole)
    return found


def test_read_directly_a_picture_is_its_middle():
    data = dataset(stored=(9, 13), window=(6, 8))
    for number in range(5):
        x = data.source[number]["x"]
        assert x.shape == data.shape
        assert x[0, 0].tolist() == [1, 2, number]


@pytest.mark.slow
def test_windows_lie_everywhere_alike():
    found = corners(take(1, dataset(), batch_size=8000, seed=1))
    cells = np.bincount(found[:, 0] * 5 + found[:, 1], minlength=20)
    assert len(cells) == 4 * 5  # of room for 3 rows and 4 columns
    assert stats.chisquare(cells).pvalue > 1e-3


def test_the_stream_is_one_with_any_number_of_workers_and_wherever_it_starts():
    data = dataset(flip=True)
    settings = {"batch_size": 4, "seed": 3}
    whole = take(6, data, **settings)
    later = take(2, data, start=4, **settings)
    large = take(2, data, batch_size=12, seed=3)
    by_process = [take(6, data, process_index=i, process_count=2, **settings) for i in (0, 1)]
    for name in ("x", "label"):
        line = np.concatenate([batch[name] for batch in whole])
        np.testing.assert_array_equal(line[16:], np.concatenate([b[name] for b in later]))
        np.testing.assert_array_equal(line, np.concatenate([b[name] for b in large]))
        halves = [np.concatenate([p[k][name] for p in by_process]) for k in range(6)]
        np.testing.assert_array_equal(line, np.concatenate(halves))
    other = take(6, data, batch_size=4, seed=4)
    assert any(not np.array_equal(a["x"], b["x"]) for a, b in zip(whole, other, strict=True))


def test_seeds_and_epochs_cut_other_windows():
    """Of one picture, which comes once an epoch."""
    found = [corners(take(1, dataset(1), batch_size=50, seed=seed)).tolist() for seed in (3, 4)]
    assert found[0] != found[1]
    assert len({tuple(corner) for corner in found[0]}) > 10


def test_workers_cut_the_same_windows():
    data, settings = dataset(), {"batch_size": 4, "seed": 3}
    told = dataclasses.replace(data, workers=1)
    for one, other in zip(take(3, data, **settings), take(3, told, **settings), strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])


def test_cutting_moves_nothing_else():
    """The order, the flips and the texts are those of pictures that are not cut."""
    cut, whole = dataset(), dataset(window=(9, 12))
    for one, other in zip(*(take(4, d, batch_size=4, seed=0) for d in (cut, whole)), strict=True):
        np.testing.assert_array_equal(one["label"], other["label"])


def captioned(tmp_path, *pictures, **fields):
    names = [f"{n}.png" for n in range(len(pictures))]
    rows = [json.dumps({"file_name": name, "text": name}) for name in names]
    files = {name: png(p) for name, p in zip(names, pictures, strict=True)}
    files["metadata.jsonl"] = "\n".join(rows).encode()
    path = write(tmp_path / "p", files)
    return Captioned(path=str(path), held_out=0.4, **fields)


def test_captioned_pictures_are_cut_anywhere_in_the_whole_picture(tmp_path):
    """The short side is image_size · crop, exactly as stored here, the long one in proportion."""
    told = captioned(tmp_path, *[ramp(12, 24)] * 5, image_size=8, crop=1.5)
    data = told.open("train")
    assert data.shape == data.facts.shape == (8, 8, 3)
    found = corners(take(1, data, batch_size=600, seed=0))
    assert set(found[:, 0]) == set(range(5))
    assert set(found[:, 1]) == set(range(17))
    assert data.source[0]["x"][0, 0].tolist() == [2, 8, 0]  # the middle


def test_captioned_pictures_are_resized_to_crop_times_image_size(tmp_path):
    pictures = [np.full((30, 60, 3), 10 * n, np.uint8) for n in range(5)]
    told = captioned(tmp_path, *pictures, image_size=10, crop=1.26)
    whole = told.open("train").source.source
    assert whole[0]["x"].shape == (13, 26, 3)
    batch = take(1, told.open("train"), batch_size=4, seed=0)[0]
    for x, text in zip(batch["x"], batch["text"], strict=True):
        assert np.all(x == 10 * int(text[0]))  # each with its own caption


def test_folders_are_cut_within_the_square(tmp_path):
    path = write(tmp_path / "f", {f"{c}/{n}.png": png(ramp(12, 24)) for c in "ab" for n in "123"})
    told = {"path": str(path), "dir": str(tmp_path / "prepared"), "image_size": 8}
    data = Folder(**told, crop=1.5).open("train")
    assert data.shape == data.source[0]["x"].shape == (8, 8, 3)
    found = corners(take(1, data, batch_size=300, seed=0))
    assert set(found[:, 0]) == set(range(5))
    assert set(found[:, 1]) == set(range(6, 11))
    plain = Folder(**told).open("train")
    assert isinstance(plain.source, ArraySource)
    assert plain.shape == data.shape


@pytest.mark.parametrize("kind", [Folder, Captioned])
def test_cropping_needs_a_size(kind):
    with pytest.raises(ValueError, match=r"^crop should be 1 where image_size is 0"):
        kind(path="x", crop=1.1)
