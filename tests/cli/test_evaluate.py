"""The command `evaluate`: its report against the pieces, and what it refuses."""

import json

import jax
import numpy as np
import pytest

import cfg_jax
from cfg_jax import evaluation, recipe
from cfg_jax.runtime import files


def both(run):
    """The training and held-out data of a run."""
    source = recipe.make(run.config.data, "data")
    return source.open("train"), source.open("test")


@pytest.mark.slow
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
    config = recipe.copied(run.config)
    config.guidance = recipe.node("Rescaled", phi=0.7)
    run = run.sampling_as(config)
    train, held_out = both(run)
    classifier = evaluation.train_classifier(train, held_out, cache=files.cache())
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


@pytest.mark.slow
def test_a_classifier_is_swept_over(command, trained, noisy, tmp_path):
    out = tmp_path / "report"
    few = ("--samples", 12, "--steps", 2, "--batch", 16, "--out", out)
    guiding = ("--classifier", noisy, "--classifier-scale", "0,5", "--w", -1)
    code, printed, err = command("evaluate", "--workdir", trained, *few, *guiding)
    assert code == 0, err
    report = json.loads((out / "report.json").read_text())
    assert [row["classifier_scale"] for row in report["rows"]] == [0.0, 5.0]
    assert (report["settings"]["w"], report["settings"]["classifier"]) == (-1.0, str(noisy))
    assert "| classifier scale | label accuracy |" in printed
    run, held = cfg_jax.load(trained), cfg_jax.load(noisy)
    train, held_out = both(run)
    scorer = evaluation.train_classifier(train, held_out, cache=files.cache())
    real = evaluation.moments(
        scorer.features_and_probabilities(evaluation.load_arrays(held_out)[0])[0]
    )
    labels = np.arange(12) % 10
    by = {"classifier": held.log_prob, "classifier_scale": 5.0}
    samples = np.asarray(run.sample(jax.random.key(0), labels, w=-1.0, steps=2, **by))
    want = evaluation.score(samples, labels, scorer, real)
    assert report["rows"][1]["inception_score"] == pytest.approx(want.inception_score, rel=1e-3)


def test_a_noisy_classifier_is_measured_at_each_noise_level(command, noisy, tmp_path):
    out = tmp_path / "report"
    argv = ("evaluate", "--workdir", noisy, "--samples", 40, "--seed", 2, "--out", out)
    code, printed, err = command(*argv)
    assert code == 0, err
    assert "| chance | 10." in printed
    report = json.loads((out / "report.json").read_text())
    held = cfg_jax.load(noisy)
    levels, overall = evaluation.by_noise_level(
        held, *evaluation.load_arrays(both(held)[1]), samples=40, seed=2
    )
    assert len(report["levels"]) == len(levels) == 20
    assert report["levels"][15]["accuracy"] == levels[15].accuracy
    assert report["p(logsnr)"]["cross_entropy"] == pytest.approx(overall.cross_entropy, rel=1e-4)


def test_of_a_noisy_classifier_what_has_no_meaning_is_refused(refused, noisy):
    line = refused("evaluate", "--workdir", noisy, "--w", "0,1")
    assert "--w does not belong to a noisy classifier" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--w", "0,nan"], "nan"),
        (["--w", "0,1e39"], "--w must lie in [-1e+06, 1e+06], got 1e+39"),
        (["--w", "1e7"], "--w must lie in [-1e+06, 1e+06], got 10000000.0"),
        (["--w", ""], "--w takes numbers separated by commas, got ''"),
        (["--classifier", "c", "--classifier-scale", "0,1e7"], "--classifier-scale must lie in"),
        (["--out", ""], "give --out"),
        (["--out", "s3://b/x"], "--out must be a path, on a mounted file system; got s3://b/x"),
        (["--solver", "heun", "--solver.gamma", "--samples", "2"], "--solver.gamma needs a value"),
        (["--w", "a,b"], "--w takes numbers separated by commas"),
        (["--samples", "1"], "--samples must lie in [2, 1000000], got 1"),
        (["--seed", str(2**32)], "--seed must lie in [0, 4294967295]"),
        (["--solver", "rk4"], "got 'rk4'"),
        (["--guidance", "zero_star", "--guidance.eta", "1"], "no config field 'guidance.eta'"),
        (["--guidance", "composed", "--guidance.conds", "(10,11)"], "10 for none; got 11"),
        (["--steps", "0"], "config.sample.steps must lie in [1, "),
        (["--classifier-scale", "1,2"], "--classifier-scale needs --classifier"),
        (["--w", "0,1", "--classifier-scale", "1,2", "--classifier", "c"], "not both"),
    ],
)
def test_mistakes_are_refused(refused, trained, tmp_path, flags, message):
    assert message in refused("evaluate", "--workdir", trained, "--out", tmp_path / "r", *flags)


def test_a_missing_workdir_is_refused(refused, tmp_path):
    assert "there is no work directory" in refused("evaluate", "--workdir", tmp_path / "none")
