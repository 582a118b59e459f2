"""Held-out skin tones: which captions are asked for, and what the nearest real picture says."""

import numpy as np
import pytest
import scripts


@pytest.fixture(scope="module")
def script():
    return scripts.load("emoji_tones")


@pytest.fixture(scope="module")
def real(script):
    """Two people in five tones, one tone of each held out, and a third who lacks some."""
    rng = np.random.default_rng(0)
    captions = [f"{name} {tone} skin tone" for name in ("cook", "elf") for tone in script.TONES]
    captions += ["judge dark skin tone", "anchor", "judge light skin tone"]
    held = np.array([c in ("cook dark skin tone", "elf light skin tone") for c in captions])
    held[-1] = True
    order = np.argsort(held, kind="stable")
    x = rng.uniform(-1.0, 1.0, (len(captions), 4, 4, 3)).astype(np.float32)
    return script.Pictures(x[order], tuple(captions[i] for i in order), held[order])


def test_only_tones_whose_other_four_were_seen_are_asked_for(script, real):
    assert script.toned(real) == [("cook", "dark"), ("elf", "light")]


def test_the_nearest_is_that_of_least_squared_error(script):
    rng = np.random.default_rng(1)
    x, there = rng.normal(size=(7, 3, 3, 2)), rng.normal(size=(11, 3, 3, 2))
    wanted = ((x[:, None] - there[None]) ** 2).sum((2, 3, 4)).argmin(1)
    np.testing.assert_array_equal(script.nearest(x, there), wanted)


def test_scores_tell_the_picture_the_person_and_the_tone(script, real):
    asked = [("cook", "dark"), ("elf", "light")]

    def drawn(*captions):
        x = np.stack([real.x[real.captions.index(caption)] for caption in captions])
        return x + 0.01 * np.random.default_rng(2).normal(size=x.shape)

    right = drawn("cook dark skin tone", "elf light skin tone")
    assert script.scores(right, asked, real) == {"picture": 1.0, "person": 1.0, "tone": 1.0}
    partly = drawn("cook light skin tone", "cook light skin tone")
    assert script.scores(partly, asked, real) == {"picture": 0.0, "person": 0.5, "tone": 0.5}
    wrong = drawn("anchor", "anchor")
    assert script.scores(wrong, asked, real) == {"picture": 0.0, "person": 0.0, "tone": 0.0}
