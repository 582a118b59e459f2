"""The sweep over w with a sampler and a scorer whose scores are known."""

import math

import numpy as np
import pytest

from cfg_jax.evaluation import Row, Scores, moments, score, sweep

CLASSES = 4
LABELS = np.arange(240, dtype=np.int32) % CLASSES


class Pixels:
    """Takes an image's channels for both its features and its class probabilities."""

    def features_and_probabilities(self, images):
        pixels = np.asarray(images).reshape(len(images), -1)
        return pixels, pixels


def one_hot(labels):
    return np.eye(CLASSES, dtype=np.float32)[labels][:, None, None, :]


def sample(labels, w):
    """Right for a share w of the labels, one class too high for the others."""
    right = np.arange(len(labels)) < w * len(labels)
    return one_hot(np.where(right, labels, (labels + 1) % CLASSES))


@pytest.fixture
def real():
    return moments(one_hot(LABELS).reshape(len(LABELS), -1))


def run(real, *, ws, sample=sample, labels=LABELS, **options):
    return sweep(sample, Pixels(), real, labels=labels, ws=ws, progress=False, **options)


def test_each_strength_has_its_scores_in_the_order_given(real):
    rows = run(real, ws=[0.5, 0, 1.0, 0.25])
    assert [row.w for row in rows] == [0.5, 0.0, 1.0, 0.25]
    assert [row.label_accuracy for row in rows] == [0.5, 0.0, 1.0, 0.25]
    for row in rows:
        assert row.inception_score == pytest.approx(CLASSES)
        assert row.frechet_distance == pytest.approx(0.0, abs=1e-6)


def test_mode_collapse_costs_both_scores(real):
    def collapsed(labels, w):
        return one_hot(np.where(np.arange(len(labels)) < 100 * w, 0, labels))

    rows = run(real, ws=[0.0, 0.5, 1.0], sample=collapsed)
    assert rows[0].inception_score > rows[1].inception_score > rows[2].inception_score
    assert rows[0].frechet_distance < rows[1].frechet_distance < rows[2].frechet_distance


def test_every_strength_gets_the_same_labels_and_shows_its_images(real):
    asked, shown = [], {}

    def recording(labels, w):
        asked.append((w, labels.tolist()))
        return sample(labels, w)

    run(real, ws=[0.0, 1.0], sample=recording, on_samples=shown.__setitem__)
    assert asked == [(0.0, LABELS.tolist()), (1.0, LABELS.tolist())]
    for w, images in shown.items():
        np.testing.assert_array_equal(images, sample(LABELS, w))


def test_rows_have_exactly_the_published_names():
    assert list(Row.__dataclass_fields__) == [
        "w",
        "label_accuracy",
        "inception_score",
        "frechet_distance",
    ]
    assert list(Scores.__dataclass_fields__) == list(Row.__dataclass_fields__)[1:]


def test_real_images_are_scored_like_samples(real):
    scores = score(one_hot(LABELS), LABELS, Pixels(), real)
    assert scores.label_accuracy == 1.0
    assert scores.inception_score == pytest.approx(CLASSES)
    assert scores.frechet_distance == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("ws", [[], [0.0, math.nan], [math.inf], [1.0, -math.inf]])
def test_strengths_that_are_no_numbers_are_refused_before_sampling(real, ws):
    def never(labels, w):
        raise AssertionError

    with pytest.raises(ValueError, match="guidance strength w") as error:
        run(real, ws=ws, sample=never)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [np.zeros((3, 2), int), np.zeros(3), 1])
def test_labels_that_are_none_are_refused(real, labels):
    with pytest.raises(ValueError, match="labels must be"):
        run(real, ws=[0.0], labels=labels)


def test_a_sampler_of_too_few_images_is_told_at_which_strength(real):
    with pytest.raises(ValueError, match=r"w = 0\.3 .* 239 images for 240 labels"):
        run(real, ws=[0.3], sample=lambda labels, w: sample(labels, w)[1:])


def test_a_single_sample_is_refused(real):
    with pytest.raises(ValueError, match="at least 2 samples"):
        run(real, ws=[0.3], labels=LABELS[:1])
