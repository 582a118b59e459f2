"""The tables of the guidance paper, remade: what is trained, sampled, scored and drawn.

`experiments/` is no package, so the script is loaded from its path.
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import recipes
import scripts
from PIL import Image

import cfg_jax
from cfg_jax import evaluation, grids, guidance, solvers
from cfg_jax.data import Digits
from cfg_jax.runtime import files

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    """The script, with few points."""
    loaded = scripts.load("guidance_tradeoff")
    for name, value in {"WS": (0.0, 1.0), "FEW": (1.0,), "P_UNCOND": (0.1, 0.5)}.items():
        monkeypatch.setattr(loaded, name, value)
    monkeypatch.setattr(loaded, "STEPS", (3,))
    return loaded


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Where the first test trains, and the next ones go on."""
    return tmp_path_factory.mktemp("tradeoff")


def command(workdir, out):
    recipe = recipes.write(workdir)
    argv = ["--workdir", str(workdir / "runs"), "--config", str(recipe), "--out", str(out)]
    return [*argv, "--samples", "12", "--steps", "2", "--batch", "8"]


def by_hand(run, *, w, v, steps):
    """The scores of one point, put together from the library's pieces."""
    data = [Digits().open(split) for split in ("train", "test")]
    scorer = evaluation.train_classifier(*data, cache=files.cache())
    images, _ = evaluation.load_arrays(data[1])
    real = evaluation.moments(scorer.features_and_probabilities(images)[0])
    labels = np.arange(12) % 10
    x = cfg_jax.sample(
        cfg_jax.denoiser.clipped(guidance.classifier_free(run.denoiser, w=w, null={"label": 10})),
        jax.random.key(0),
        {"label": labels},
        shape=(8, 8, 1),
        schedule=run.schedule,
        solver=solvers.Ancestral(v=v),
        grid=grids.UniformU(),
        steps=steps,
    )
    return dataclasses.asdict(evaluation.score(np.clip(x, -1, 1), labels, scorer, real))


def test_every_point_is_what_its_name_says(script, workdir, capsys, monkeypatch):
    out = workdir / "figure.png"
    argv = command(workdir, out)
    script.main(argv)
    report = json.loads(out.with_suffix(".json").read_text())["sweeps"]
    first = capsys.readouterr().out
    assert Image.open(out).size[0] > 1000
    assert {field: list(values) for field, values in report.items()} == {
        "p_uncond": ["0.1", "0.5"],
        "trained": ["3", "6"],
        "steps": ["2", "3"],
        "v": ["0", "0.3", "1"],
    }
    rarely, often = (workdir / "runs" / f"p_uncond_{p}" for p in ("0.1", "0.5"))
    for place, p in ((rarely, 0.1), (often, 0.5)):
        assert cfg_jax.load(place).config.condition.label.p_uncond == p
    own = {"w": 1.0, "v": 0.3, "steps": 2}
    for row, run, how in (
        (report["p_uncond"]["0.5"][1], cfg_jax.load(often), own),
        (report["trained"]["3"][0], cfg_jax.load(rarely, step=3), own),
        (report["steps"]["3"][0], cfg_jax.load(rarely), {**own, "steps": 3}),
        (report["v"]["1"][0], cfg_jax.load(rarely), {**own, "v": 1.0}),
    ):
        assert row == pytest.approx({"w": 1.0, **by_hand(run, **how)}, rel=1e-2)
    assert report["p_uncond"]["0.1"][1] == report["v"]["0.3"][0]  # one point of two sweeps

    # The same command again neither trains nor samples.
    monkeypatch.setattr(script.evaluation, "sampler", None)
    script.main(argv)
    again = capsys.readouterr().out
    assert again.count("is trained already, to step 6") == 2
    assert again[again.index("| p_uncond") :] == first[first.index("| p_uncond") :]


def test_early_checkpoints_are_multiples_that_are_kept(script):
    config = recipes.tiny()
    for every, last, want in ((500, 1_700, (500, 1_000)), (5_000, 500_000, (150_000, 300_000))):
        config.train.checkpoint_every, config.train.steps = every, last
        assert script.early(config) == want
    config.train.checkpoint_every, config.train.steps = 10, 5
    assert script.early(config) == ()


def test_the_smallest_distance_is_told(script):
    rows = [
        {"w": w, "label_accuracy": 1.0, "inception_score": 1.0, "frechet_distance": abs(w - 0.5)}
        for w in (0.0, 0.5, 1.0)
    ]
    kind = script.Kind("title", "T", (8,), (0.0, 0.5, 1.0))
    text = script.tables(
        {"sweeps": {"steps": {"8": rows}}, "real training images": rows[0]}, {"steps": kind}
    )
    assert "smallest Fréchet distance: w = 0.5 at T 8" in text


def test_the_figure_that_is_shown_has_the_scripts_points():
    script = scripts.load("guidance_tradeoff")
    shown = json.loads(script.FIGURE.with_suffix(".json").read_text())["sweeps"]
    for p in script.P_UNCOND:
        assert [row["w"] for row in shown["p_uncond"][f"{p:g}"]] == list(script.WS)
    for field, values in (("steps", script.STEPS), ("v", script.VS)):
        assert {f"{value:g}" for value in values} < set(shown[field])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "1"], "--samples must be at least 2"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--out", "x.gif"], "--out must be a .png file"),
        (["--config", "nowhere.py"], "the config file 'nowhere.py' does not exist"),
        (["--config.train.step=3"], "did you mean train.steps?"),
        (
            ["--config.objective=CrossEntropy"],
            "must train a diffusion model with and without its condition",
        ),
        (["--sample", "3"], "unexpected argument '--sample'"),
    ],
)
def test_mistakes_are_refused(script, workdir, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        script.main(["--workdir", str(workdir / "none"), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (workdir / "none").exists()
