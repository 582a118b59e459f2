"""The curves of classifier guidance: every point is what `Run.sample` draws, scored.

`experiments/` is no package, so the script is loaded from its path.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import scripts
from PIL import Image

import cfg_jax
from cfg_jax import evaluation, guidance, solvers
from cfg_jax.data import open_dataset

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script():
    return scripts.load("classifier_guidance")


def test_every_point_is_what_its_name_says(script, trained, noisy, tmp_path, monkeypatch):
    """The unconditional network under a shifted mean, put together by hand."""
    monkeypatch.setattr(
        script, "CURVES", [script.CURVES[0]._replace(strengths=(0.5,)), script.CURVES[2]]
    )
    out = tmp_path / "figure.png"
    argv = ["--workdir", str(trained), "--classifier", str(noisy), "--out", str(out)]
    script.main([*argv, "--samples", "12", "--steps", "2"])
    report = json.loads(out.with_suffix(".json").read_text())
    assert Image.open(out).size[0] > 500
    free, shifted = report["curves"].values()
    assert [row["strength"] for row in shifted] == list(script.CURVES[1].strengths)

    run, held = cfg_jax.load(trained), cfg_jax.load_noisy_classifier(noisy)
    data = [open_dataset(run.config.data, split=split) for split in ("train", "test")]
    scorer = evaluation.train_classifier(*data, cache=trained / "evaluation")
    images, _ = evaluation.load_arrays(data[1])
    real = evaluation.moments(scorer.features_and_probabilities(images)[0])
    labels = np.arange(12) % 10
    walk = {"shape": run.shape, "schedule": run.schedule, "steps": 2}
    uphill = guidance.ascent(held.log_prob, w=script.CURVES[1].strengths[-1])
    by_hand = {
        "free": cfg_jax.sample(
            cfg_jax.denoiser.clipped(guidance.classifier_free(run.denoiser, w=0.5, null=10)),
            jax.random.key(0),
            jax.numpy.asarray(labels),
            solver=solvers.Ancestral(v=0.3),
            **walk,
        ),
        "shifted": cfg_jax.sample(
            cfg_jax.denoiser.clipped(guidance.unconditional(run.denoiser, null=10)),
            jax.random.key(0),
            jax.numpy.asarray(labels),
            solver=solvers.Ancestral(v=0.3, shift=uphill),
            **walk,
        ),
    }
    for row, x in zip((free[0], shifted[-1]), by_hand.values(), strict=True):
        want = evaluation.score(np.clip(x, -1, 1), labels, scorer, real)
        assert row["inception_score"] == pytest.approx(want.inception_score, rel=1e-3)
        assert row["frechet_distance"] == pytest.approx(want.frechet_distance, rel=1e-2)


def test_the_figure_that_is_shown_has_the_scripts_curves(script):
    shown = json.loads(script.FIGURE.with_suffix(".json").read_text())
    for curve in script.CURVES:
        assert [row["strength"] for row in shown["curves"][curve.name]] == list(curve.strengths)
    readme = (ROOT / "README.md").read_text()
    assert str(script.FIGURE.relative_to(ROOT)) in readme


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "1"], "--samples must be at least 2"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--out", "x.gif"], "--out must be a .png file"),
        (["--classifier", "nowhere"], "there is no work directory nowhere"),
    ],
)
def test_mistakes_are_refused(script, trained, noisy, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        script.main(["--workdir", str(trained), "--classifier", str(noisy), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
