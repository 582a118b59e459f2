"""A model's scores against those of its pieces: what is asked, sampled, judged and reported."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import cfg_jax
from cfg_jax import evaluation
from cfg_jax.data import ArraySource, Digits
from cfg_jax.data.samples import to_float
from cfg_jax.evaluation import of_model as room
from cfg_jax.evaluation import record
from cfg_jax.runtime.mesh import device_mesh
from cfg_jax.sampling import fronts

pytestmark = pytest.mark.slow

GUIDING = {0.0: {"w": 0.0}, 1.0: {"w": 1.0}, 3.0: {"w": 3.0}}
SAMPLES = 22


@pytest.fixture(scope="module")
def data():
    return Digits().open("train"), Digits().open("test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """The scoring classifier is trained for one pass."""
    once = functools.partial(evaluation.train_classifier, epochs=1, progress=False)
    monkeypatch.setattr(room, "train_classifier", once)


@pytest.fixture(scope="module")
def model(trained):
    return cfg_jax.load(trained)


@pytest.fixture(scope="module")
def enlarging(upscaler):
    return cfg_jax.load(upscaler)


def evaluated(model, data, cache, **options):
    there = {"guiding": GUIDING, "samples": SAMPLES, "seed": 5, "batch": 8, "cache": cache}
    return evaluation.evaluate(model, *data, **(there | options))


def by_hand(model, data, cache, entries, labels, **guiding):
    """The scores of one call of `Model.sample`."""
    train, held_out = data
    scorer = room.train_classifier(train, held_out, cache=cache)
    real = evaluation.moments(
        scorer.features_and_probabilities(evaluation.load_arrays(held_out)[0])[0]
    )
    samples = np.asarray(model.sample(jax.random.key(5), entries, **guiding))
    return samples, evaluation.score(samples, labels, scorer, real)


def check_row(row, want):
    assert row.label_accuracy == want.label_accuracy
    assert row.inception_score == pytest.approx(want.inception_score, rel=1e-4)
    assert row.frechet_distance == pytest.approx(want.frechet_distance, rel=1e-3)


def close(a, b):
    """On average: the first step, at great noise, multiplies rounding at a few pixels."""
    return np.abs(a - b).mean() < 1e-5


def test_every_strength_has_the_scores_of_its_samples(model, data, cache):
    found = evaluated(model, data, cache)
    labels = np.arange(SAMPLES) % 10
    np.testing.assert_array_equal(found.asked.labels, labels)
    np.testing.assert_array_equal(found.asked.entries["label"], labels)
    assert list(found.asked.titles) == list("0123456789")
    assert found.asked.beside == {}
    assert [row.w for row in found.rows] == [0.0, 1.0, 3.0]
    for row in found.rows:
        samples, want = by_hand(model, data, cache, {"label": labels}, labels, w=row.w)
        check_row(row, want)
        assert close(found.examples[row.w], samples[:10])
    images, known = evaluation.load_arrays(data[0])
    reference = evaluation.score(images, known, found.judge.scorer, found.judge.real)
    assert found.judge.training == reference
    assert found.judge.scores(images, known) == dataclasses.asdict(reference)


def test_one_program_samples_every_strength_over_all_devices(model, data, cache):
    """22 samples by at most 8 are three batches of 8, the last filled up."""
    alone = evaluated(model, data, cache)
    fronts._sharded.clear_cache()
    shared = evaluated(model, data, cache, mesh=device_mesh())
    assert fronts._sharded._cache_size() == 1
    for a, b in zip(alone.rows, shared.rows, strict=True):
        check_row(b, a)
        assert close(alone.examples[a.w], shared.examples[a.w])


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [(22, 8, [8, 8, 8]), (22, 250, [22]), (1000, 300, [250] * 4), (9, 4, [3, 3, 3])],
)
def test_batches_are_as_equal_as_can_be(model, monkeypatch, count, batch, sizes):
    """And every sample has the condition and the number that it has in one batch."""
    asked = []

    def recorded(self, key, shown, *, offset, mesh, w):
        asked.append(len(shown["label"]))
        rows = np.arange(offset, offset + len(shown["label"]))
        return np.stack([rows, shown["label"] * w], axis=1) / 1000

    monkeypatch.setattr(type(model), "sample", recorded)
    labels = np.arange(count) % 10
    sample = evaluation.sampler(model, {"label": labels}, GUIDING, seed=0, batch=batch)
    found = sample(labels, 3.0)
    assert asked == sizes
    np.testing.assert_allclose(found[:, 0], np.arange(count) / 1000)
    np.testing.assert_allclose(found[:, 1], 3.0 * labels / 1000)


def test_what_cannot_be_named_is_lent_by_held_out_data(enlarging, data, cache):
    """Small digits of the held-out ones, one of each class first."""
    found = evaluated(enlarging, data, cache, guiding={1.0: {"w": 1.0}}, samples=12)
    x, labels = evaluation.load_arrays(data[1])
    assert len(found.asked.labels) == 12
    first = [int(np.flatnonzero(labels == label)[0]) for label in range(10)]
    others = [i for i in range(len(x)) if i not in first][:2]
    chosen = [*first, *others]
    np.testing.assert_array_equal(found.asked.labels, labels[chosen])
    np.testing.assert_array_equal(found.asked.entries["label"], labels[chosen])
    small = to_float(x[chosen]).reshape(12, 4, 2, 4, 2, 1).mean((2, 4))
    np.testing.assert_allclose(found.asked.entries["small"], small, atol=1e-6)
    assert list(found.asked.titles) == list("0123456789")
    assert set(found.asked.beside) == {"small", "held out"}
    np.testing.assert_array_equal(found.asked.beside["held out"], to_float(x[first]))
    _, want = by_hand(enlarging, data, cache, found.asked.entries, labels[chosen], w=1.0)
    check_row(found.rows[0], want)


def test_a_classifier_says_of_which_class_an_unconditional_samples_should_be(model, noisy, data):
    alone = dataclasses.replace(model, conditioners=())
    with pytest.raises(ValueError, match="nothing says of which class"):
        evaluation.asked(alone, data[1], 12)
    found = evaluation.asked(alone, data[1], 12, cfg_jax.load(noisy))
    np.testing.assert_array_equal(found.labels, np.arange(12) % 10)


def test_other_data_cannot_lend(enlarging, data):
    _, held_out = data
    with pytest.raises(ValueError, match=r"should be of \(8, 8, 1\).*got \(8, 9, 1\)"):
        evaluation.asked(enlarging, dataclasses.replace(held_out, shape=(8, 9, 1)), 12)
    with pytest.raises(ValueError, match=r"got .* with nothing$"):
        evaluation.asked(enlarging, dataclasses.replace(held_out, arrays={}), 12)


def test_examples_are_found_by_their_labels(data):
    _, held_out = data
    labels = np.array([2, 0, 2, 1, 0, 2], np.int32)
    source = ArraySource({"x": np.zeros((6, 8, 8, 1), np.uint8), "label": labels})
    few = dataclasses.replace(held_out, source=source)
    assert room.by_label(few, [2, 0], 2) == [0, 2, 1, 4]
    assert room.by_label(few, [1], 5) == [3]
    assert room.by_label(few, [1, 7], 1) == [3]
    with pytest.raises(ValueError, match="no held-out example has label 7"):
        room.by_label(few, [7], 1)
    assert room.by_label(dataclasses.replace(few, class_names=()), [], 4) == [0, 1, 2, 3]


def test_some_of_the_values_of_each_entry():
    entries = {"words": {"token": np.arange(6).reshape(3, 2)}, "label": [4, 5, 6]}
    found = room.taken(entries, np.array([2, 0]))
    np.testing.assert_array_equal(found["words"]["token"], [[4, 5], [0, 1]])
    np.testing.assert_array_equal(found["label"], [6, 4])


def test_a_classifier_that_cannot_be_kept_scores_all_the_same(tmp_path, monkeypatch):
    """Where the user's cache is a file, say; what stood there stays."""
    file = tmp_path / "cache"
    file.write_text("mine")
    arrays, told = {"x": np.ones(2)}, []
    monkeypatch.setattr(record.logging, "warning", lambda text, *given: told.append(text % given))
    record.keep(file / "classifier.npz", "ab", arrays)
    assert "classifier.npz cannot be kept: " in told[0]
    assert file.read_text() == "mine"
    record.keep(tmp_path / "folder" / "classifier.npz", "ab", arrays)
    said = {"damaged": "", "other": ""}
    found = record.kept(tmp_path / "folder" / "classifier.npz", "ab", **said)
    np.testing.assert_array_equal(found["x"], arrays["x"])
