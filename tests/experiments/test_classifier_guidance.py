"""The curves of classifier guidance: every point is what `Model.sample` draws, scored.

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
from cfg_jax import evaluation, grids, guidance, solvers
from cfg_jax.data import Digits
from cfg_jax.runtime import files

pytestmark = pytest.mark.slow

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

    run, held = cfg_jax.load(trained), cfg_jax.load(noisy)
    data = [Digits().open(split) for split in ("train", "test")]
    scorer = evaluation.train_classifier(*data, cache=files.cache())
    images, _ = evaluation.load_arrays(data[1])
    real = evaluation.moments(scorer.features_and_probabilities(images)[0])
    labels, null = np.arange(12) % 10, {"label": 10}
    walk = {"shape": (8, 8, 1), "schedule": run.schedule, "steps": 2, "grid": grids.UniformU()}
    uphill = guidance.ascent(held.log_prob, w=script.CURVES[1].strengths[-1])
    by_hand = [
        (solvers.Ancestral(v=0.3), guidance.classifier_free(run.denoiser, w=0.5, null=null)),
        (
            solvers.Ancestral(v=0.3, shift=uphill),
            guidance.unconditional(run.denoiser, null=null),
        ),
    ]
    drawn = [
        cfg_jax.sample(
            cfg_jax.denoiser.clipped(guided),
            jax.random.key(0),
            {"label": jax.numpy.asarray(labels)},
            solver=solver,
            **walk,
        )
        for solver, guided in by_hand
    ]
    for row, x in zip((free[0], shifted[-1]), drawn, strict=True):
        want = evaluation.score(np.clip(x, -1, 1), labels, scorer, real)
        assert row["inception_score"] == pytest.approx(want.inception_score, rel=1e-3)
        assert row["frechet_distance"] == pytest.approx(want.frechet_distance, rel=1e-2)


def test_the_figure_that_is_shown_has_the_scripts_curves(script):
    shown = json.loads(script.FIGURE.with_suffix(".json").read_text())
    for curve in script.CURVES:
        assert [row["strength"] for row in shown["curves"][curve.name]] == list(curve.strengths)
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(script.FIGURE.name in page.read_text() for page in pages)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "1"], "--samples must be at least 2"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--out", "x.gif"], "--out must be a .png file"),
        (["--classifier", "nowhere"], "there is no work directory nowhere"),
        (["--classifier", "RUN"], "is a diffusion model, not a noisy classifier"),
        (["--workdir", "CLASSIFIER"], "is a noisy classifier, which denoises nothing"),
    ],
)
def test_mistakes_are_refused(script, trained, noisy, capsys, flags, message):
    places = {"RUN": str(trained), "CLASSIFIER": str(noisy)}
    flags = [places.get(flag, flag) for flag in flags]
    with pytest.raises(SystemExit) as stop:
        script.main(["--workdir", str(trained), "--classifier", str(noisy), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
