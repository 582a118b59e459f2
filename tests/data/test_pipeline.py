import contextlib
import dataclasses
import itertools
import logging
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from cfg_jax.data import (
    ArraySource,
    Dataset,
    Digits,
    LostWorkerError,
    UnreadableError,
    batches,
)
from cfg_jax.data import dataset as datasets


def _dataset(size, shape=(2, 3, 1)):
    """Image n holds n in its first pixel, 255 - n in the others; its label is 3 n."""
    images = np.empty((size, *shape), np.uint8)
    images[:] = 255 - np.arange(size).reshape(-1, 1, 1, 1)
    images[:, :, 0] = np.arange(size).reshape(-1, 1, 1)
    source = ArraySource({"x": images, "label": (3 * np.arange(size)).astype(np.int32)})
    return Dataset(source, shape, ("a",), "counting", "train")


def _read(dataset, *, flip=False, skip_bad=False, workers=0, **settings):
    said = dataclasses.replace(dataset, flip=flip, skip_bad=skip_bad, workers=workers)
    return batches(said, **settings)


def _take(count, dataset, **settings):
    with contextlib.closing(_read(dataset, **settings)) as stream:
        return list(itertools.islice(stream, count))


def _line(taken, key="label"):
    return np.concatenate([batch[key] for batch in taken])


def _assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys() == {"x", "label", "replaced"}
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_batches_are_examples_of_the_dataset():
    dataset = _dataset(10)
    for batch in _take(3, dataset, batch_size=4, seed=0):
        assert batch["x"].shape == (4, 2, 3, 1)
        assert (batch["x"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
        assert (batch["replaced"].dtype, batch["replaced"].tolist()) == (np.int32, [0] * 4)
        np.testing.assert_array_equal(batch["x"], dataset.source.arrays["x"][batch["label"] // 3])


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
    for key in ("x", "label"):
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
        {key: np.concatenate([part[key] for part in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    _assert_same(together, _take(4, dataset, **settings))
    assert all(len(part["label"]) == 8 // count for step in parts for part in step)


@pytest.mark.slow
def test_workers_read_the_same_stream():
    settings = {"batch_size": 8, "seed": 3, "start": 2, "flip": True, "process_count": 2}
    dataset = _dataset(10)
    expected = _take(7, dataset, process_index=1, **settings)
    for workers in (1, 3):
        _assert_same(_take(7, dataset, process_index=1, workers=workers, **settings), expected)


def test_half_of_the_images_are_mirrored_left_to_right():
    dataset = _dataset(250)
    settings = {"batch_size": 1000, "seed": 0}
    plain = _line(_take(4, dataset, **settings), "x")
    flipped = _line(_take(4, dataset, flip=True, **settings), "x")
    mirrored = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == plain).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(mirrored))
    # Neither epochs nor images are mirrored as a whole.
    assert all(0.3 < epoch.mean() < 0.7 for epoch in mirrored.reshape(16, 250))
    labels = _line(_take(4, dataset, **settings))
    shares = [mirrored[labels == label].mean() for label in np.unique(labels)]
    assert np.std(shares) == pytest.approx(0.5 / np.sqrt(16), rel=0.2)


@pytest.mark.parametrize("shape", [(3, 1), (2, 3, 1), (2, 2, 3, 1)])
def test_the_axis_before_the_channels_is_mirrored_whatever_the_shape(shape):
    x = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
    source = ArraySource({"x": x, "number": np.arange(40)})
    data = Dataset(source, shape, (), "noise", "train")
    (batch,) = _take(1, data, batch_size=40, seed=0, flip=True)
    plain = x[batch["number"]]
    same = (batch["x"] == plain).all(axis=tuple(range(1, x.ndim)))
    np.testing.assert_array_equal(batch["x"][~same], plain[~same][..., ::-1, :])
    assert 5 < same.sum() < 35


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


class _Damaged:
    """The same examples one by one, some of them unreadable."""

    def __init__(self, dataset, bad, name):
        self.source, self.bad, self.name = dataset.source, frozenset(bad), name

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index in self.bad:
            raise UnreadableError(f"{self.name}: example {index} cannot be read (torn)")
        return self.source[index]


def _damaged(size, bad, name="damaged train"):
    dataset = _dataset(size)
    return Dataset(_Damaged(dataset, bad, name), dataset.shape, ("a",), "damaged", "train")


def _mended(size, bad, batch_size, count, **settings):
    """By another way: each epoch of the sound dataset, mended by rolling it on."""
    epochs = -(-count * batch_size // size)
    sound = _line(_take(epochs, _dataset(size), batch_size=size, **settings)).reshape(-1, size)
    line = [
        next(label for label in np.roll(epoch, -place) if label // 3 not in bad)
        for epoch in sound
        for place in range(size)
    ][: count * batch_size]
    replaced = (sound.ravel()[: len(line)] != line).astype(np.int32)
    return np.array(line), replaced


@pytest.mark.parametrize(
    ("size", "bad", "batch_size"),
    [(10, {3}, 5), (10, {0, 2, 9}, 4), (7, set(range(6)), 3), (3, {1}, 8), (10, set(), 4)],
)
def test_unreadable_examples_are_replaced_by_the_next_of_the_epoch(size, bad, batch_size):
    count = 4 * size
    settings = {"batch_size": batch_size, "seed": 1}
    taken = _take(count, _damaged(size, bad), skip_bad=True, **settings)
    labels, replaced = _mended(size, bad, count=count, **settings)
    np.testing.assert_array_equal(_line(taken), labels)
    np.testing.assert_array_equal(_line(taken, "replaced"), replaced)
    assert {batch["replaced"].dtype for batch in taken} == {np.dtype(np.int32)}
    assert replaced.mean() == pytest.approx(len(bad) / size, abs=0.05)


def test_the_stream_stays_the_same_with_unreadable_examples():
    dataset = _damaged(10, {1, 4, 5})
    settings = {"batch_size": 8, "seed": 3, "flip": True, "skip_bad": True}
    whole = _take(9, dataset, **settings)
    _assert_same(_take(6, dataset, start=3, **settings), whole[3:])
    _assert_same(_take(9, dataset, workers=2, **settings), whole)
    parts = [_take(9, dataset, process_index=i, process_count=2, **settings) for i in range(2)]
    for step, halves in enumerate(zip(*parts, strict=True)):
        for key, value in whole[step].items():
            np.testing.assert_array_equal(np.concatenate([half[key] for half in halves]), value)
    assert 0 < _line(whole, "replaced").mean() < 1


def test_sound_places_keep_their_example_and_their_flip():
    settings = {"batch_size": 50, "seed": 2, "flip": True}
    mended = _take(9, _damaged(50, {7, 8}), skip_bad=True, **settings)
    sound = _take(9, _dataset(50), **settings)
    kept = _line(mended, "replaced") == 0
    for key in ("x", "label"):
        np.testing.assert_array_equal(_line(mended, key)[kept], _line(sound, key)[kept])
    # An example's first column is its number, the second 255 minus it.
    flips = [
        (_line(taken, "x")[:, 0, 0, 0] != _line(taken) // 3)[~kept] for taken in (mended, sound)
    ]
    np.testing.assert_array_equal(*flips)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_example_ends_the_stream_in_one_line(workers):
    settings = {"batch_size": 8, "seed": 0}
    sound = _take(5, _dataset(40), **settings)
    taken = []
    with pytest.raises(UnreadableError) as caught:
        taken.extend(_read(_damaged(40, {7}), workers=workers, **settings))
    assert str(caught.value) == (
        "damaged train: example 7 cannot be read (torn); "
        "skip_bad (the flag --skip-bad) goes on without such examples"
    )
    _assert_same(taken, sound[: np.flatnonzero(_line(sound) == 21)[0] // 8])


@pytest.mark.parametrize(("size", "tried"), [(300, 100), (12, 12)])
def test_nothing_but_unreadable_examples_is_refused(size, tried):
    message = rf"^{tried} examples in a row cannot be read, the last: damaged train: example \d+ "
    with pytest.raises(UnreadableError, match=message):
        _take(1, _damaged(size, range(size)), batch_size=8, seed=0, skip_bad=True)


def test_each_unreadable_example_is_named_once(caplog):
    dataset = _damaged(10, {3, 6}, "named once")
    with caplog.at_level(logging.WARNING):
        _take(6, dataset, batch_size=5, seed=0, skip_bad=True)
    told = [record.getMessage() for record in caplog.records]
    assert sorted(line for line in told if line.startswith("named once")) == [
        f"named once: example {index} cannot be read (torn); another one takes its place"
        for index in (3, 6)
    ]


def test_a_flipped_bit_on_disk(source, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "IN_MEMORY", 0)
    settings = {"batch_size": 360, "seed": 0}
    sound = _take(1, source(Digits).open("test"), **settings)[0]
    (file,) = tmp_path.glob("prepared/digits/1.0.0/*test.array_record*")
    data = bytearray(file.read_bytes())
    data[33_000] ^= 1
    file.write_bytes(data)
    dataset = source(Digits).open("test")
    message = r"^digits test: example \d+ cannot be read \(RuntimeError: Corrupted .*--skip-bad"
    with pytest.raises(UnreadableError, match=message) as caught:
        _take(1, dataset, workers=1, **settings)
    assert "\n" not in str(caught.value)
    mended = _take(1, dataset, skip_bad=True, **settings)[0]
    (place,) = np.flatnonzero(mended["replaced"])
    for key in ("x", "label"):
        sound[key][place] = sound[key][(place + 1) % 360]
        np.testing.assert_array_equal(mended[key], sound[key])


def test_a_killed_worker_is_told_in_one_line():
    with contextlib.closing(_read(_dataset(10), batch_size=4, seed=0, workers=1)) as stream:
        next(stream)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(
            LostWorkerError, match=r"^a process .*\) ended with exit code -9; [^\n]*$"
        ):
            for _ in stream:
                pass


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
        batch["x"][:] = 0
        batch["label"][:] = 0
    for key, value in _dataset(10).source[np.arange(10)].items():
        np.testing.assert_array_equal(dataset.source[np.arange(10)][key], value)


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
        _read(_dataset(10), **{"batch_size": 8, "seed": 0} | settings)
