"""What the experiments share: batches, scores that are kept, the table."""

import json

import numpy as np
import pytest
import scoring

from cfg_jax import evaluation
from cfg_jax.data import open_dataset
from cfg_jax.training import config as recipe

SCORES = {"label_accuracy": 0.975, "inception_score": 9.5, "frechet_distance": 2.0}


def test_images_are_numbered_through_their_batches():
    asked = []

    def sample(labels, offset):
        asked.append((offset, len(labels)))
        return 2.0 * labels[:, None] + np.arange(offset, offset + len(labels))[:, None] - 6.0

    labels = np.array([0, 1, 0, 1, 0, 1, 0])
    images = scoring.drawn(sample, labels, batch=3)
    assert asked == [(0, 3), (3, 3), (6, 3)]
    np.testing.assert_array_equal(images[:, 0], np.clip(2.0 * labels + np.arange(7) - 6.0, -1, 1))


def test_a_score_is_measured_once_for_its_settings(tmp_path):
    path, measured = tmp_path / "deep" / "scores.json", []

    def scores(**settings):
        def measure():
            measured.append(settings)
            return {"score": float(len(measured))}

        return scoring.kept(path, settings, measure)

    first, second = scores(w=0.1, steps=2), scores(w=0.2, steps=2)
    assert scores(steps=2, w=0.1) == first == {"score": 1.0}
    assert scores(w=0.2, steps=2) == second == {"score": 2.0}
    assert len(measured) == 2


def test_the_judge_scores_as_evaluate_does(trained):
    data, cache = recipe.default().data, trained / "evaluation"
    judge = scoring.judge_of(data, cache)
    train, held_out = (open_dataset(data, split=split) for split in ("train", "test"))
    scorer = evaluation.train_classifier(train, held_out, cache=cache)
    images, labels = evaluation.load_arrays(held_out)
    real = evaluation.moments(scorer.features_and_probabilities(images)[0])
    want = evaluation.score(*evaluation.load_arrays(train), scorer, real)
    assert judge.training == pytest.approx(vars(want), rel=1e-6)
    itself = judge.scores(images, labels)
    assert itself["frechet_distance"] == pytest.approx(0.0, abs=1e-3)
    assert itself["label_accuracy"] == pytest.approx(scorer.held_out_accuracy)


def test_the_table_has_a_line_a_point():
    text = scoring.table(["way", "w"], [(("guidance", "0.1"), SCORES), (("none", ""), SCORES)])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert {len(line) for line in cells} == {5}
    assert cells[2] == ["guidance", "0.1", "97.5%", "9.500", "2.00"]
    assert cells[3][:2] == ["none", ""]


def test_the_report_is_json_that_other_readers_take(tmp_path):
    from matplotlib.figure import Figure

    out = tmp_path / "made.png"
    with pytest.raises(ValueError, match="JSON"):
        scoring.write(out, Figure(), {"score": float("nan")})
    scoring.write(out, Figure(), {"score": 1.0})
    assert json.loads(out.with_suffix(".json").read_text())["score"] == 1.0
