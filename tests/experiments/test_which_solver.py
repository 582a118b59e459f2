"""The page on solvers and guidance: its script against closed forms, and its tables.

`experiments/` is no package, so the script is loaded from its path.
"""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import scripts
from PIL import Image

import cfg_jax
from cfg_jax import evaluation, guidance, mixtures, sample, schedules, solvers
from cfg_jax.data import Digits
from cfg_jax.sampling.defaults import DEFAULT_GRID, default_solver

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "which_solver_which_guidance.md"
FIGURES = PAGE.parent / "figures"
NULL = 10


@pytest.fixture
def script():
    return scripts.load("which_solver_which_guidance")


@pytest.fixture
def methods():
    return importlib.import_module("which_solver_methods")


@pytest.fixture
def small(script, monkeypatch):
    """The script with few solvers, steps, strengths and methods."""
    every = script.methods

    def few(null, weak=None):
        found = every(null, weak)
        names = ("none", "classifier_free", "interval", "plus_plus", "autoguidance")
        return {
            name: found[name]._replace(steps=found[name].steps // 10, ws=found[name].ws[-2:])
            for name in names
            if name in found
        }

    for name, value in {
        "CALLS": (2, 3),
        "SOLVERS": {"default": None, "Heun": solvers.Heun()},
        "GRIDS": {"default": None},
        "DRAWN": {"default": None},
        "STRENGTHS": (1.0,),
        "FINE": 6,
        "FEW_TO_MANY": (2,),
        "INVERTED_IN": (2,),
        "methods": few,
    }.items():
        monkeypatch.setattr(script, name, value)
    return script


def test_errors_are_those_to_the_exact_end(script, monkeypatch):
    """Of a mixture, whose end an adaptive method of order 8 knows."""
    for name, value in {
        "CALLS": (6, 12),
        "STRENGTHS": (1.0,),
        "SOLVERS": {"default": None, "DDIM": solvers.DDIM(), "Heun": solvers.Heun()},
        "GRIDS": {"default": None},
    }.items():
        monkeypatch.setattr(script, name, value)
    rng = np.random.default_rng(0)
    mixture = mixtures.gaussian_mixture(rng.normal(0.0, 0.5, (3, 2, 4)), 0.2)
    run = SimpleNamespace(
        shape=(4,),
        guided=lambda w: guidance.classifier_free(mixture, w=w, null=3),
    )
    key, labels = jax.random.key(5), np.arange(12) % 3
    found = script.flow_ends(run, labels, seed=5)
    z = np.stack(
        [
            jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, i), 0), (4,))
            for i in range(12)
        ]
    )
    exact = mixtures.reference(
        run.guided(1.0), z, labels, logsnr_from=script.FLOW.logsnr_min, tolerance=1e-8
    )
    for name, solver, calls in (
        ("DDIM", solvers.DDIM(), [6, 12]),
        ("Heun", solvers.Heun(), [5, 11]),
    ):
        for number, (steps, expected) in enumerate(zip((6, 12), calls, strict=True)):
            steps = (steps + 1) // 2 if name == "Heun" else steps
            x = sample(
                run.guided(1.0),
                key,
                labels,
                shape=(4,),
                schedule=script.FLOW,
                solver=solver,
                grid=DEFAULT_GRID,
                steps=steps,
            )
            error = 1000.0 * np.sqrt(np.mean((np.asarray(x) - exact) ** 2))
            got = found["solvers"][name]["1"][number]
            assert got[0] == expected
            assert got[1] == pytest.approx(error, rel=0.02)
    assert found["solvers"]["default"] == found["grids"]["default"]
    assert found["unsettled"]["1"] < 0.05 * found["solvers"]["default"]["1"][-1][1]


def test_what_an_image_costs(methods):
    schedule = schedules.Cosine()
    levels = DEFAULT_GRID(schedule, methods.STEPS)[:-1]
    inside = int(np.sum((levels >= methods.LOW) & (levels < methods.HIGH)))
    assert 0 < inside < methods.STEPS
    costs = {"none": 20, "classifier_free": 40, "interval": 20 + inside, "plus_plus": 100}
    costs["autoguidance"] = 40
    null, cond = {"label": NULL}, {"label": jax.numpy.zeros(1, int)}
    assert {name: methods.evaluations(name, null, cond, schedule) for name in costs} == costs


def test_tables_go_between_their_markers_alone(script):
    page = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n"
    filled = script.fill(page, {"one": "| new |"})
    assert filled.replace("| new |", "").split() == page.replace("old", "").split()
    assert script.fill(filled, {"one": "| new |"}) == filled
    with pytest.raises(ValueError, match="0 places for the table three"):
        script.fill(page, {"three": "| x |"})


def test_the_page_shows_what_was_measured(script):
    report = json.loads((FIGURES / "which_solver_which_guidance.json").read_text())
    against = json.loads((FIGURES / "solvers_vs_diffusers.json").read_text())
    page = PAGE.read_text()
    assert script.fill(page, script.tables(report, against)) == page


def test_it_measures_draws_and_fills(small, trained, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    asked = ["--workdir", str(trained), "--samples", "20", "--ends", "2", "--seed", "3"]
    small.main([*asked, "--out", str(tmp_path), "--page", str(page)])
    report = json.loads((tmp_path / "which_solver_which_guidance.json").read_text())
    assert page.read_text() == small.fill(PAGE.read_text(), small.tables(report, None))
    assert page.read_text() != PAGE.read_text()
    for name in ("solver_errors", "guidance_tradeoff", "guidance_samples"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5.0
    assert len(report["guidance"]["autoguidance"]) == 2  # weaker: the checkpoint of step 3

    run, labels = cfg_jax.load(trained), np.arange(20) % NULL
    x = run.sample(
        jax.random.key(3),
        label=labels,
        w=1.0,
        steps=2,
        solver=default_solver(2),
        grid=DEFAULT_GRID,
    )
    (row,) = (row for row in report["guidance"]["classifier_free"] if row["w"] == 1.0)
    data = [Digits().open(split) for split in ("train", "test")]
    judge = evaluation.judge_of(*data)
    for name, score in judge.scores(np.asarray(x), labels).items():
        assert row[name] == pytest.approx(score, rel=1e-3), name


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--workdir", "nowhere"], "no work directory nowhere"),
        (["--workdir", "RUN", "--samples", "1"], "at least 2"),
        (["--workdir", "RUN", "--out", "nowhere"], "must exist"),
    ],
)
def test_mistakes_are_one_line(script, trained, capsys, argv, words):
    with pytest.raises(SystemExit) as stopped:
        script.main([str(trained) if a == "RUN" else a for a in argv])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
