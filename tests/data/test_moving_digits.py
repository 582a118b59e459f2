import itertools

import numpy as np
import pytest

from cfg_jax.data import Digits, MovingDigits, batches


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return str(tmp_path_factory.mktemp("digits"))


def _arrays(place, split="train", **fields):
    return MovingDigits(dir=place, **fields).open(split).source.arrays


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_frame_holds_the_whole_digit(place, split):
    digits = Digits(dir=place).open(split).source.arrays
    found = _arrays(place, split, clips=2)
    np.testing.assert_array_equal(found["label"], digits["label"].repeat(2))
    for index in range(0, len(found["x"]), 7):
        x, digit = found["x"][index], digits["x"][index // 2]
        rows, columns = (np.flatnonzero(digit.any(axis)) for axis in ((1, 2), (0, 2)))
        ink = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        for frame in x:
            there = np.flatnonzero(frame.any((1, 2))), np.flatnonzero(frame.any((0, 2)))
            top, left = there[0][0], there[1][0]
            height, width = ink.shape[:2]
            np.testing.assert_array_equal(frame[top : top + height, left : left + width], ink)
            assert frame.astype(int).sum() == ink.astype(int).sum()


def _centres(x):
    """Of each frame, the ink's centre (n, frames, 2), float64."""
    ink = x[..., 0].astype(float)
    total = ink.sum((2, 3))
    places = np.arange(x.shape[2])
    return np.stack([(ink.sum(3) @ places) / total, (ink.sum(2) @ places) / total], -1)


def test_digits_move_in_straight_lines_and_turn_at_the_edges(place):
    size, frames = 24, 40
    centres = _centres(_arrays(place, "test", clips=1, size=size, frames=frames)["x"])
    steps = np.diff(centres, axis=1)
    assert np.linalg.norm(steps, axis=-1).max() <= 2 + np.sqrt(2) + 1e-9  # rounded to pixels
    paths = (centres - centres.min(1, keepdims=True)).transpose(0, 2, 1).reshape(-1, frames)
    turns = 0
    for path in paths:
        (moves,) = np.nonzero(np.diff(path))
        turned = moves[1:][np.diff(np.sign(np.diff(path)[moves])) != 0]
        turns += len(turned)
        for start, end in itertools.pairwise([0, *turned, frames - 1]):
            time = np.arange(start + 1, end)  # the turns lie between two frames
            if len(time) > 2:
                fit = np.polyval(np.polyfit(time, path[time], 1), time)
                assert np.abs(fit - path[time]).max() < 1  # rounded to pixels
        # Between two turns lies the whole way from edge to edge, whose ends fall between frames.
        if len(turned) > 1:
            assert size - 8 - 2 <= path.max() - path.min() <= size - 8 + 1e-9
    assert turns > len(centres)


def test_motions_are_the_same_every_time_and_differ(place):
    first, again = (_arrays(place, "train", clips=2)["x"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len({x.tobytes() for x in first}) > 0.99 * len(first)
    starts = _centres(first)[:, 0]
    # Uniform over the room of 8 pixels, whatever the digit: deviation 8 / √12, in both directions.
    np.testing.assert_allclose(starts.std(0), 8 / np.sqrt(12), rtol=0.15)


def test_its_facts(place):
    source = MovingDigits(dir=place, frames=4, size=12, clips=1, rate=5)
    facts = source.peek()
    assert (facts.shape, facts.dtype, facts.rate) == ((4, 12, 12, 1), "uint8", 5)
    assert facts.class_names == tuple("0123456789")
    train, test = source.open("train"), source.open("test")
    assert (len(train.source), len(test.source)) == (1437, 360)
    stream = batches(train, batch_size=3, seed=0)
    assert next(stream)["x"].shape == (3, 4, 12, 12, 1)
    stream.close()


def test_a_frame_without_room_stands_still(place):
    x = _arrays(place, "test", size=8, clips=1)["x"]
    np.testing.assert_array_equal(x, np.repeat(x[:, :1], 8, axis=1))


@pytest.mark.parametrize("field", ["frames", "size", "clips"])
def test_more_than_the_memory_is_to_hold_is_refused(field):
    fields = {"frames": 60, "size": 60, "clips": 12}
    MovingDigits(**fields)  # 1,437 · 12 · 60 · 60² bytes are 3.5 GiB
    with pytest.raises(ValueError, match="frames, size and clips should make at most 4 GiB"):
        MovingDigits(**fields | {field: 2 * fields[field]})
