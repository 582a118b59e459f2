import contextlib
import itertools
import threading
import time

import numpy as np
import pytest

from cfg_jax.data import Dataset, batches
from cfg_jax.data.sources import ArraySource


def _dataset(size, shape=(2, 3, 1)):
    """Image n holds n in its first pixel, 255 - n in the others; its label is 3 n."""
    images = np.empty((size, *shape), np.uint8)
    images[:] = 255 - np.arange(size).reshape(-1, 1, 1, 1)
    images[:, :, 0] = np.arange(size).reshape(-1, 1, 1)
    source = ArraySource(images, (3 * np.arange(size)).astype(np.int32))
    return Dataset(source, shape, ("a",), "counting", "train")


def _take(count, dataset, **settings):
    with contextlib.closing(batches(dataset, **settings)) as stream:
        return list(itertools.islice(stream, count))


def _line(taken, key="label"):
    return np.concatenate([batch[key] for batch in taken])


def _assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys() == {"image", "label"}
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_batches_are_examples_of_the_dataset():
    dataset = _dataset(10)
    for batch in _take(3, dataset, batch_size=4, seed=0):
        assert batch["image"].shape == (4, 2, 3, 1)
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(batch["image"], dataset.source.images[batch["label"] // 3])


@pytest.mark.parametrize(("size", "batch_size"), [(10, 5), (10, 4), (7, 3), (3, 8), (1, 4), (5, 1)])
def test_each_image_comes_once_an_epoch(size, batch_size):
    epochs = 6
    count = -(-size * epochs // batch_size)
    line = _line(_take(count, _dataset(size), batch_size=batch_size, seed=1))
    for epoch in line[: size * epochs].reshape(epochs, size):
        assert sorted(epoch) == list(range(0, 3 * size, 3))


def test_epochs_and_seeds_shuffle_anew():
    orders = []
    for seed in (0, 1, 2**40):
        line = _line(_take(3, _dataset(80), batch_size=80, seed=seed))
        orders += [tuple(epoch) for epoch in line.reshape(3, 80)]
    assert len({tuple(range(0, 240, 3)), *orders}) == 10


def test_the_stream_does_not_depend_on_the_batch_size():
    dataset = _dataset(10)
    for key in ("image", "label"):
        small = _take(12, dataset, batch_size=2, seed=5, flip=True)
        large = _take(2, dataset, batch_size=12, seed=5, flip=True)
        np.testing.assert_array_equal(_line(small, key), _line(large, key))


@pytest.mark.parametrize("start", [1, 4, 1_000_003])
def test_a_resumed_stream_goes_on(start):
    dataset = _dataset(10)
    settings = {"batch_size": 4, "seed": 0, "flip": True}
    later = _take(3, dataset, start=start, **settings)
    _assert_same(_take(2, dataset, start=start + 1, **settings), later[1:])
    if start < 10:
        _assert_same(_take(start + 3, dataset, **settings)[start:], later)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_share_the_global_batch(count):
    dataset = _dataset(10)
    settings = {"batch_size": 8, "seed": 3, "start": 2, "flip": True}
    parts = [
        _take(4, dataset, process_index=index, process_count=count, **settings)
        for index in range(count)
    ]
    together = [
        {key: np.concatenate([part[key] for part in step]) for key in ("image", "label")}
        for step in zip(*parts, strict=True)
    ]
    _assert_same(together, _take(4, dataset, **settings))
    assert all(len(part["label"]) == 8 // count for step in parts for part in step)


def test_workers_read_the_same_stream():
    settings = {"batch_size": 8, "seed": 3, "start": 2, "flip": True, "process_count": 2}
    dataset = _dataset(10)
    expected = _take(7, dataset, process_index=1, **settings)
    for workers in (1, 3):
        _assert_same(_take(7, dataset, process_index=1, workers=workers, **settings), expected)


def test_half_of_the_images_are_mirrored_left_to_right():
    dataset = _dataset(250)
    settings = {"batch_size": 1000, "seed": 0}
    plain = _line(_take(4, dataset, **settings), "image")
    flipped = _line(_take(4, dataset, flip=True, **settings), "image")
    mirrored = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == plain).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(mirrored))
    # Neither epochs nor images are mirrored as a whole.
    assert all(0.3 < epoch.mean() < 0.7 for epoch in mirrored.reshape(16, 250))
    labels = _line(_take(4, dataset, **settings))
    shares = [mirrored[labels == label].mean() for label in np.unique(labels)]
    assert np.std(shares) == pytest.approx(0.5 / np.sqrt(16), rel=0.2)


class _Records:
    """The same examples one by one, counting what was read."""

    def __init__(self, dataset):
        self.source, self.read = dataset.source, 0

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.read += 1
        return self.source[index]


def test_any_random_access_source_will_do():
    dataset = _dataset(10)
    records = Dataset(_Records(dataset), dataset.shape, ("a",), "records", "train")
    settings = {"batch_size": 4, "seed": 0, "flip": True}
    _assert_same(_take(5, records, **settings), _take(5, dataset, **settings))


def test_batches_are_read_ahead():
    source = _Records(_dataset(10))
    dataset = Dataset(source, (2, 3, 1), ("a",), "records", "train")
    with contextlib.closing(batches(dataset, batch_size=4, seed=0)) as stream:
        next(stream)
        deadline = time.monotonic() + 10
        while source.read < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert source.read >= 12
        time.sleep(0.1)
        assert source.read <= 100


def test_closing_ends_the_threads():
    def threads():
        return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]

    before = set(threads())
    stream = batches(_dataset(10), batch_size=4, seed=0)
    next(stream)
    started = set(threads()) - before
    assert started
    stream.close()
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()
    with pytest.raises(StopIteration):
        next(stream)


def test_a_batch_is_the_callers_to_change():
    dataset = _dataset(10)
    for batch in _take(2, dataset, batch_size=4, seed=0):
        batch["image"][:] = 0
        batch["label"][:] = 0
    _assert_same([dataset.source[np.arange(10)]], [_dataset(10).source[np.arange(10)]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size should be 1 or more, got 0"),
        ({"seed": -1}, "seed should be 0 or more, got -1"),
        ({"start": -1}, "start should be 0 or more, got -1"),
        ({"workers": -1}, "workers should be 0 or more, got -1"),
        ({"process_count": 3}, "batch_size should be a multiple of the 3 processes, got 8"),
        ({"process_count": 0}, "process_index should be .* got 0 of 0"),
        ({"process_count": 2, "process_index": 2}, "process_index should be .* got 2 of 2"),
        ({"process_index": -1}, "process_index should be .* got -1 of 1"),
    ],
)
def test_settings_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        batches(_dataset(10), **{"batch_size": 8, "seed": 0} | settings)
