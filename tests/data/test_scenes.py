"""Scenes: the sentences are true of the pictures, and the held-out parts are held out."""

import itertools
import re

import numpy as np
import pytest

from cfg_jax.data import Digits, Scenes, batches
from cfg_jax.data.scenes import (
    COLOURS,
    CORNERS,
    DIGIT_SIDE,
    DIGITS,
    HELD_NEIGHBOURS,
    HELD_PAIRS,
    SIDE,
)

OBJECT = re.compile(rf"a ({'|'.join(COLOURS)}) ({'|'.join(DIGITS)})")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    scenes = Scenes(scenes=600, dir=folder)
    return scenes, {split: scenes.open(split) for split in ("train", "test")}


def said(caption):
    """The objects that a sentence names, (digit, colour), in the order of the sentence."""
    colours = list(COLOURS)
    return [(DIGITS.index(d), colours.index(c)) for c, d in OBJECT.findall(caption)]


def in_order(caption):
    """The objects in the order in which they stand, and along which axis they do."""
    found = said(caption)
    if "right of" in caption or "below" in caption:
        found = found[::-1]
    return found, 0 if re.search("above|below|top to bottom", caption) else 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_caption_says_what_is_where(opened, split):
    for example in map(opened[1][split].source.__getitem__, range(60)):
        objects = example["objects"][example["objects"][:, 0] >= 0]
        assert len(example["text"]) == 2
        for caption in example["text"]:
            found, axis = in_order(caption)
            assert found == [tuple(o) for o in objects[:, :2]]
            steps = np.diff(objects[:, 2:], axis=0)
            assert all(steps[:, axis] >= DIGIT_SIDE)
            assert all(steps[:, axis] > np.abs(steps[:, 1 - axis]))
        if len(objects) == 1:
            halves = tuple(int(at >= SIDE / 2) for at in objects[0, 2:])
            (corner,) = (c for c in CORNERS if example["text"][1].endswith(c))
            assert CORNERS[corner] == halves


def test_pictures_have_each_digit_in_its_colour_at_its_place_and_nothing_else(opened):
    levels = np.array(list(COLOURS.values()), float)
    for example in map(opened[1]["train"].source.__getitem__, range(60)):
        rest = example["x"].astype(float).copy()
        for digit, colour, row, column in example["objects"]:
            if digit < 0:
                continue
            part = rest[row : row + DIGIT_SIDE, column : column + DIGIT_SIDE].copy()
            bright = part.reshape(-1, 3)[part.sum(-1).argmax()]
            np.testing.assert_allclose(
                bright / bright.max(), levels[colour] / levels[colour].max(), atol=0.03
            )
            assert 0.1 < (part.sum(-1) > 60).mean() < 0.95
            rest[row : row + DIGIT_SIDE, column : column + DIGIT_SIDE] = 0
        assert not rest.any()


def test_digits_stand_in_cells_and_all_cells_hold_some(opened):
    objects = opened[1]["train"].source.arrays["objects"].reshape(-1, 4)
    corners = objects[objects[:, 0] >= 0][:, 2:]
    assert not (corners % DIGIT_SIDE).any()
    counted = np.unique(corners, axis=0, return_counts=True)[1]
    assert len(counted) == (SIDE // DIGIT_SIDE) ** 2
    assert counted.min() > 0.4 * counted.max()


def test_what_is_held_out_is_in_no_training_scene_and_in_half_of_the_test_scenes(opened):
    def novel(example):
        objects = example["objects"][example["objects"][:, 0] >= 0]
        digits = objects[:, 0].tolist()
        way = 1 if "above" in example["text"][0] else 0
        pairs = {(int(c), int(d)) for d, c in objects[:, :2]}
        near = {(a, way, b) for a, b in itertools.pairwise(digits)}
        return bool(pairs & HELD_PAIRS or near & HELD_NEIGHBOURS)

    assert len(HELD_PAIRS) == 6
    assert len(HELD_NEIGHBOURS) == 20
    for split, share in {"train": 0.0, "test": 0.5}.items():
        source = opened[1][split].source
        found = [novel(source[i]) for i in range(len(source))]
        assert np.mean(found) == share
        assert [bool(n) for n in source.arrays["novel"]] == found
    counts = (opened[1]["train"].source.arrays["objects"][..., 0] >= 0).sum(1)
    assert all(150 < (counts == n).sum() < 250 for n in (1, 2, 3))


def test_training_scenes_are_made_of_training_digits(opened):
    scenes, data = opened
    digits = Digits(dir=scenes.dir).open("train").source.arrays["x"][..., 0]
    shapes = {digit.tobytes() for digit in digits}
    white = list(COLOURS).index("white")
    found = 0
    for example in map(data["train"].source.__getitem__, range(200)):
        for digit, colour, row, column in example["objects"]:
            if digit >= 0 and colour == white:
                part = example["x"][row : row + DIGIT_SIDE, column : column + DIGIT_SIDE, 0]
                assert np.ascontiguousarray(part).tobytes() in shapes
                found += 1
    assert found > 20


def test_they_are_the_same_every_time_and_the_splits_differ(opened):
    scenes, data = opened
    again = scenes.open("train").source
    np.testing.assert_array_equal(again.arrays["x"], data["train"].source.arrays["x"])
    assert again.arrays["text"].tolist() == data["train"].source.arrays["text"].tolist()
    assert not np.array_equal(again.arrays["x"][:60], data["test"].source.arrays["x"][:60])


def test_a_batch_has_one_of_the_captions_of_each_example(opened):
    data = opened[1]["train"]
    both = {c: texts for texts in data.source.arrays["text"] for c in texts}
    first = 0
    with_text = batches(data, batch_size=100, seed=0)
    for _ in range(6):
        text = next(with_text)["text"]
        assert text.shape == (100,)
        assert text.dtype.kind == "U"
        first += sum(both[str(t)].index(str(t)) == 0 for t in text)
    assert 230 < first < 370
    again = batches(data, batch_size=100, seed=0, start=3)
    later = batches(data, batch_size=100, seed=0)
    for _ in range(3):
        next(later)
    assert next(again)["text"].tolist() == next(later)["text"].tolist()


def test_facts_name_the_texts(opened):
    facts = opened[1]["train"].facts
    assert facts.texts == ("text",)
    assert facts.shape == (SIDE, SIDE, 3)
    assert set(facts.arrays) == {"objects", "novel"}


def test_too_few_scenes_are_refused():
    with pytest.raises(ValueError, match="scenes should be from 10 to 1000000, got 9"):
        Scenes(scenes=9)
