"""The command `evaluate`: its report against the pieces, and what it refuses."""

import json

import jax
import numpy as np
import pytest

import cfg_jax
from cfg_jax import evaluation
from cfg_jax.data import open_dataset


def test_the_report_holds_what_the_pieces_give(command, trained, tmp_path):
    out = tmp_path / "report"
    code, printed, err = command(
        "evaluate",
        "--workdir",
        trained,
        "--w",
        "0,2",
        "--samples",
        24,
        "--batch",
        16,
        "--seed",
        5,
        "--guidance",
        "rescaled",
        "--guidance.phi",
        0.7,
        "--out",
        out,
    )
    assert code == 0, err
    assert "held-out accuracy" in printed
    report = json.loads((out / "report.json").read_text())
    assert [row["w"] for row in report["rows"]] == [0.0, 2.0]
    assert set(report["rows"][0]) == {"w", "label_accuracy", "inception_score", "frechet_distance"}
    assert report["settings"]["guidance"] == "rescaled, phi=0.7"
    run = cfg_jax.load(trained)
    run.config.guidance.name, run.config.guidance.phi = "rescaled", 0.7
    train, held_out = (open_dataset(run.config.data, split=s) for s in ("train", "test"))
    classifier = evaluation.train_classifier(train, held_out, cache=trained / "evaluation")
    images, _ = evaluation.load_arrays(held_out)
    real = evaluation.moments(classifier.features_and_probabilities(images)[0])
    labels = np.arange(24) % 10
    samples = np.asarray(run.sample(jax.random.key(5), labels, w=2.0))
    want = evaluation.score(samples, labels, classifier, real)
    row = report["rows"][1]
    assert row["label_accuracy"] == pytest.approx(want.label_accuracy, abs=1e-6)
    assert row["inception_score"] == pytest.approx(want.inception_score, rel=1e-3)
    assert row["frechet_distance"] == pytest.approx(want.frechet_distance, rel=1e-2)
    for name in ("report.md", "tradeoff.png", "samples_by_w.png"):
        assert (out / name).stat().st_size > 100


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--w", "0,nan"], "nan"),
        (["--w", "a,b"], "--w takes numbers separated by commas"),
        (["--samples", "1"], "--samples must be at least 2"),
        (["--solver", "rk4"], "got 'rk4'"),
        (["--guidance", "zero_star", "--guidance.eta", "1"], "guidance.eta belongs to projected"),
        (["--guidance", "composed", "--guidance.conds", "10,11"], "10 for none; got 11"),
        (["--steps", "0"], "steps must be a whole number of at least 1"),
    ],
)
def test_mistakes_are_refused(refused, trained, tmp_path, flags, message):
    assert message in refused("evaluate", "--workdir", trained, "--out", tmp_path / "r", *flags)


def test_a_missing_workdir_is_refused(refused, tmp_path):
    assert "there is no work directory" in refused("evaluate", "--workdir", tmp_path / "none")
