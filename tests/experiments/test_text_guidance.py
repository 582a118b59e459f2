"""Guidance by text on scenes: what is changed in captions, and what is counted in pictures.

`experiments/` is no package, so the script is loaded from its path.
"""

import dataclasses
import types

import numpy as np
import pytest
import scripts

from cfg_jax.data import Scenes
from cfg_jax.data.dataset import load
from cfg_jax.data.samples import to_float
from cfg_jax.data.scene_captions import parsed
from cfg_jax.evaluation.of_captions import captions_of

DATA = Scenes(scenes=400)


@pytest.fixture(scope="module")
def script():
    return scripts.load("text_guidance")


@pytest.fixture(scope="module")
def held_out():
    return DATA.open("test")


@pytest.fixture(scope="module")
def judge(held_out):
    """Knows each real scene by its pixels, as the detector should; sees nothing in others."""
    arrays = load(held_out.source, skip_bad=False).arrays
    known = {
        to_float(x).tobytes(): objects[objects[:, 0] >= 0].astype(float)
        for x, objects in zip(arrays["x"], arrays["objects"], strict=True)
    }
    nothing = np.zeros((0, 4))
    detector = types.SimpleNamespace(
        found=lambda x: [known.get(np.asarray(one).tobytes(), nothing) for one in x]
    )
    return types.SimpleNamespace(detector=detector)


@dataclasses.dataclass(frozen=True)
class Words:
    """A conditioner that is asked for its convention alone."""

    weights: str = ""


@dataclasses.dataclass(frozen=True)
class Modelled:
    conditioners: tuple = (("text", Words()),)


def test_what_stands_in_the_nulls_place_differs_in_one_thing(script, held_out):
    captions = script.in_pairs(captions_of(held_out, "text", 30)).texts
    assert len(captions) == 20
    for caption in captions:
        one, other = parsed(caption), parsed(script.other_way_round(caption))
        assert (other.objects, other.way) == (one.objects[::-1], one.way)
        first = parsed(" ".join(caption.split()[:3])).objects[0]
        at = one.objects.index(first)
        for change, part in ((script.other_digit, 0), (script.other_colour, 1)):
            changed = parsed(change(caption))
            assert changed.objects[1 - at] == one.objects[1 - at]
            assert changed.objects[at][part] != first[part]
            assert changed.objects[at][1 - part] == first[1 - part]
            assert changed.way == one.way


def test_weights_are_laid_on_the_words_of_the_first_digit(script):
    caption = "a red three left of a blue seven"
    assert script.weighted(caption, 0.25) == "(a red three:0.25) left of a blue seven"


def test_real_scenes_are_right_and_scenes_in_another_order_are_not(script, held_out, judge):
    pairs = script.in_pairs(captions_of(held_out, "text", 30))
    asked = []

    def draw(model, texts, w, negative=None):
        asked.append((model.conditioners[0][1].weights, tuple(texts), w, negative))
        if negative and negative == list(texts):
            return np.roll(pairs.x, 1, axis=0)
        return pairs.x

    found = script.over_negatives(Modelled(), draw, judge, pairs)
    assert set(found) == set(script.NEGATIVES)
    for name, rows in found.items():
        shares = [row["caption_accuracy"] for row in rows]
        assert shares[0] == 1.0
        assert (min(shares) == 1.0) == (name != "the caption itself")
    asked.clear()
    weighed = script.over_weights(Modelled(), draw, judge, pairs)
    assert {convention for convention, *_ in asked} == set(script.CONVENTIONS)
    assert all(text.startswith("(a ") for _, texts, *_ in asked for text in texts)
    for rows in weighed.values():
        assert [row["weight"] for row in rows] == list(script.WEIGHTS)
        assert all(row["weighted"] == row["other"] == row["caption_accuracy"] == 1 for row in rows)


def test_every_score_is_in_the_tables_and_the_figure(script):
    row = dict.fromkeys(
        ("caption_accuracy", "caption_accuracy_held_out", "r_precision", "frechet_distance"), 0.5
    )
    row |= {"diversity": 0.5}
    report = {
        "w": [{"w": w, **row} for w in script.WS],
        "real": row,
        "negatives": {
            name: [{"w": w, "caption_accuracy": 0.25} for w in (0.0, *script.NEGATIVE_WS)]
            for name in script.NEGATIVES
        },
        "weights": {
            name: [{"weight": w, "weighted": 0.125, "other": 0.75} for w in script.WEIGHTS]
            for name in script.CONVENTIONS
        },
    }
    told = script.tables(report)
    assert told.count("0.500") == 5 * len(script.WS)
    assert told.count("25.0%") == len(script.NEGATIVES) * (1 + len(script.NEGATIVE_WS))
    assert told.count("12.5%") == told.count("75.0%") == 2 * len(script.WEIGHTS)
    assert len(script.figure(report).axes) == 4
