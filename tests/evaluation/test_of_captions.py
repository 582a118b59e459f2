"""The scores of captions: which are sampled, and what is counted, by a detector that never errs."""

import dataclasses
import types

import numpy as np
import pytest

from cfg_jax import evaluation
from cfg_jax.conditions import Label, Text
from cfg_jax.data import Scenes
from cfg_jax.data.scene_captions import parsed
from cfg_jax.evaluation import of_captions as room
from cfg_jax.evaluation.detector import TrainedDetector
from cfg_jax.model import Model

GUIDING = {0.0: {"w": 0.0}, 3.0: {"w": 3.0}}


@dataclasses.dataclass(frozen=True, eq=False)
class Oracle(TrainedDetector):
    """Knows all real scenes; a brightness and a colour are its features."""

    known: dict = dataclasses.field(default_factory=dict)

    def found_and_features(self, x):
        stored = room.to_float(x) if x.dtype == np.uint8 else x
        found = [self.known.get(np.float32(picture).tobytes(), NOTHING) for picture in stored]
        return found, stored.mean((1, 2))[:, :2]


NOTHING = np.empty((0, 4), np.float32)


@pytest.fixture(scope="module")
def data():
    scenes = Scenes(scenes=600)
    return scenes.open("train"), scenes.open("test")


@pytest.fixture(scope="module")
def judge(data):
    arrays = data[1].source.arrays
    x = room.to_float(arrays["x"])
    known = {
        picture.tobytes(): objects[objects[:, 0] >= 0].astype(np.float32)
        for picture, objects in zip(x, arrays["objects"], strict=True)
    }
    oracle = Oracle(None, None, 1.0, known)
    return evaluation.CaptionJudge(oracle, evaluation.moments(oracle.features(x)))


@pytest.fixture(scope="module")
def captions(data):
    return evaluation.captions_of(data[1], "text", 12)


def test_captions_are_as_many_of_each_kind_and_said_of_their_scenes(data, captions):
    arrays = data[1].source.arrays
    assert len(captions.texts) == 24
    np.testing.assert_array_equal(captions.held_out, np.arange(24) % 2 == 1)
    np.testing.assert_array_equal(captions.counts, np.tile([1, 1, 2, 2, 3, 3], 4))
    pictures = room.to_float(arrays["x"])
    chosen = []
    for turn, (text, wanted, held_out, x) in enumerate(zip(*captions, strict=True)):
        assert parsed(text) == wanted
        (index,) = np.flatnonzero((pictures == x).all((1, 2, 3)))
        assert arrays["text"][index][turn // 6 % 2] == text
        assert bool(arrays["novel"][index]) == held_out
        chosen.append(index)
    assert len(set(chosen)) == 24


def test_where_there_are_fewer_scenes_they_come_again(data):
    many = evaluation.captions_of(data[1], "text", 60)
    assert len(many.texts) == 120
    assert many.held_out.sum() == 60
    np.testing.assert_array_equal(np.bincount(many.counts), [0, 40, 40, 40])


def test_a_kind_that_no_scene_is_of_is_told(data):
    source = data[1].source
    few = dataclasses.replace(source, arrays={k: v[::2] for k, v in source.arrays.items()})
    with pytest.raises(ValueError, match="no scene of 1 digits has held-out captions in scenes"):
        evaluation.captions_of(dataclasses.replace(data[1], source=few), "text", 6)


def test_real_scenes_show_all_that_is_said_of_them(judge, captions):
    scores = judge.scores(captions.x, captions)
    accuracies = [score for name, score in scores.items() if "accuracy" in name]
    assert accuracies == [1.0] * 5
    assert list(scores)[-2:] == ["frechet_distance", "diversity"]


def test_each_share_counts_its_own_captions(judge, captions):
    """Wrong are one seen caption of one digit, and two held-out ones of three digits."""
    x = captions.x.copy()
    x[[0, 5, 11]] = x[[1, 6, 12]]
    scores = judge.scores(x, captions)
    assert scores["caption_accuracy"] == 11 / 12
    assert scores["caption_accuracy_held_out"] == 10 / 12
    assert [scores[f"caption_accuracy_{n}"] for n in (1, 2, 3)] == [7 / 8, 1.0, 6 / 8]


def test_distance_and_diversity_are_those_of_the_features(judge, captions, data):
    x = room.to_float(data[1].source.arrays["x"])
    half = 0.5 * captions.x
    scores = judge.scores(half, captions)
    features, real = half.mean((1, 2))[:, :2].astype(float), x.mean((1, 2))[:, :2].astype(float)
    share = features.var(0, ddof=1).sum() / real.var(0, ddof=1).sum()
    assert scores["diversity"] == pytest.approx(share, rel=1e-4)
    want = evaluation.frechet_distance(evaluation.moments(features), evaluation.moments(real))
    assert scores["frechet_distance"] == pytest.approx(want, rel=1e-3)


def test_other_scorers_add_to_the_scores(judge, captions):
    seen = []

    def agreement(x, texts):
        seen.append((len(x), texts))
        return {"r_precision": 0.25}

    more = judge._replace(scorers=(agreement,))
    scores = more.scores(captions.x, captions)
    assert list(scores.items()) == [
        *judge.scores(captions.x, captions).items(),
        ("r_precision", 0.25),
    ]
    assert seen == [(24, captions.texts)]


def test_one_sample_a_caption_is_scored(judge, captions):
    with pytest.raises(ValueError, match="there are 23 pictures for 24 captions"):
        judge.scores(captions.x[1:], captions)


def model_of(*conditioners):
    """A model of which no more is known than its conditioners."""
    made = object.__new__(Model)
    for name, value in {"conditioners": conditioners, "params": {}, "network": None}.items():
        object.__setattr__(made, name, value)
    object.__setattr__(made, "facts", types.SimpleNamespace(shape=(32, 32, 3)))
    return made


TEXT = ("text", Text())


def test_a_model_of_captions_alone_is_one(data):
    held_out = data[1]
    assert room.entry_of(model_of(TEXT), held_out) == "text"
    assert room.entry_of(model_of(), held_out) is None
    assert room.entry_of(model_of(("label", Label())), held_out) is None
    assert room.entry_of(model_of(TEXT, ("label", Label())), held_out) is None
    for other in ({"arrays": {}}, {"texts": ()}, {"shape": (32, 32, 1)}):
        assert room.entry_of(model_of(TEXT), dataclasses.replace(held_out, **other)) is None
    foreign = np.empty(60, object)
    foreign[:] = [("a photograph of a fox",)] * 60
    arrays = {**held_out.source.arrays, "text": foreign}
    source = dataclasses.replace(held_out.source, arrays=arrays)
    assert room.entry_of(model_of(TEXT), dataclasses.replace(held_out, source=source)) is None


def test_every_strength_has_the_scores_of_its_samples(data, judge, captions, monkeypatch):
    """A model that draws the real scene of each caption with guidance, and another without."""
    scene = dict(zip(captions.texts, captions.x, strict=True))
    asked = []

    def drawn(self, key, shown, *, offset, mesh, w):
        asked.append((offset, len(shown["text"]), w))
        x = np.stack([scene[str(text)] for text in shown["text"]])
        return x if w else np.roll(x, 1, axis=0)

    monkeypatch.setattr(Model, "sample", drawn)
    monkeypatch.setattr(room, "train_detector", lambda *_, **__: judge.detector)
    model = model_of(TEXT)
    found = evaluation.evaluate_captions(
        model, *data, guiding=GUIDING, samples=12, batch=8, scorers=[lambda x, _: {"n": len(x)}]
    )
    assert asked == [(start, 8, w) for w in (0.0, 3.0) for start in (0, 8, 16)]
    assert [row["w"] for row in found.rows] == [0.0, 3.0]
    assert found.captions.texts == captions.texts
    unguided, guided = found.rows
    assert unguided["caption_accuracy"] == unguided["caption_accuracy_held_out"] == 0.0
    assert guided == {"w": 3.0, **judge.scores(captions.x, captions), "n": 24}
    assert found.reference == {k: v for k, v in guided.items() if k != "w"}
    np.testing.assert_array_equal(found.examples[3.0], captions.x[:12])
    with pytest.raises(ValueError, match="does not take the captions of scenes alone"):
        evaluation.evaluate_captions(model_of(), *data, guiding=GUIDING)
