"""What the experiments share: recipes, data, scores that are kept, the table."""

import json

import numpy as np
import pytest
import recipes
import scoring

from cfg_jax import recipe, solvers
from cfg_jax.data import Digits

SCORES = {"label_accuracy": 0.975, "inception_score": 9.5, "frechet_distance": 2.0}


def test_a_recipe_takes_the_experiments_changes_and_then_the_users(tmp_path):
    path = recipes.write(tmp_path)

    def adapt(config):
        config.train.steps, config.train.batch_size = 50, 24

    config = scoring.recipe_of(path, ["--config.train.steps", "70"], adapt)
    want = recipes.tiny()
    want.train.steps, want.train.batch_size = 70, 24
    assert recipe.flatten(config) == recipe.flatten(want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--config.condition.label.p_uncond=0"], "with and without its condition"),
        (["--config.condition.label.guided=False"], "with and without its condition"),
        (["--config.objective=CrossEntropy"], "with and without its condition"),
        (["--steps", "3"], "unexpected argument '--steps'"),
    ],
)
def test_a_recipe_of_another_kind_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        scoring.recipe_of(recipes.write(tmp_path), changes)


def test_entries_that_are_hidden_together_are_found():
    config = recipes.tiny_upscaler()
    assert scoring.hidden(config) == ["label"]
    config.condition.small.guided = True
    assert scoring.hidden(config) == ["label", "small"]


def test_the_splits_are_those_of_the_recipe():
    train, held_out = scoring.splits(recipe.default())
    for found, want in ((train, Digits().open("train")), (held_out, Digits().open("test"))):
        np.testing.assert_array_equal(found.source[7]["x"], want.source[7]["x"])
        assert len(found.source) == len(want.source)


@pytest.mark.parametrize(
    ("own", "v"),
    [
        (None, 0.3),
        (solvers.Heun(), 0.3),
        (solvers.Ancestral(v=None), 0.3),
        (solvers.Ancestral(v=0.7), 0.7),
    ],
)
def test_the_papers_sampler_keeps_a_recipes_v(own, v):
    assert scoring.ancestral(own) == solvers.Ancestral(v=v)


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
