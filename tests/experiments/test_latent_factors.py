"""Factors of compression: that all get the same time, and that every point is told and drawn.

`experiments/` is no package, so the script is loaded from its path.
"""

import json
import types

import numpy as np
import pytest
import scripts

from cfg_jax import recipe

SCORES = {"frechet_distance": 0.25, "accuracy": 0.5}


@pytest.fixture
def script():
    return scripts.load("latent_factors")


@pytest.fixture
def report(script):
    codec = {"numbers": 512, "psnr": 31.5, "frechet_distance": 0.125}
    times = [{"training_steps": 8 * n, "minutes": n / 4, **SCORES} for n in (1, 2, 4, 8)]
    return {
        "codecs": dict.fromkeys(script.CODECS, codec),
        "over_time": dict.fromkeys(script.FACTORS, times),
        "over_throughput": {
            factor: [{"sampling_steps": n, "images_per_second": 40 / n, **SCORES} for n in steps]
            for factor, steps in script.STEPS.items()
        },
        "real": {"frechet_distance": 0.0625, "accuracy": 1.0},
    }


def test_only_codec_and_reach_of_positions_differ(script, tmp_path):
    made = {f: recipe.flatten(script.model_recipe(f, tmp_path, 16)) for f in script.FACTORS}
    for factor, fields in made.items():
        assert fields["network.period"] * factor == 32
        differ = {name for name in fields if fields[name] != made[8].get(name)}
        assert all(name.startswith(("codec.", "network.period")) for name in differ)
    for factor in script.CODECS:
        config = script.codec_recipe(factor, 100)
        recipe.check(config)
        codec = recipe.make(config.network, "network", path="config.network").codec
        assert codec.factor == factor
        trained, used = recipe.flatten(config), made[factor]
        for name in ("patch", "channels", "groups", "window", "latent_channels"):
            assert used[f"codec.{name}"] == trained[f"network.codec.{name}"]


@pytest.mark.parametrize(
    ("minutes", "step", "steps"), [(4.0, 0.1, 2400), (1.0, 7.0, 8), (0.001, 9.0, 8), (1, 1.1, 56)]
)
def test_steps_fill_the_minutes_in_eighths(script, minutes, step, steps):
    assert script.steps_within(minutes, step) == steps


def test_seconds_are_medians_of_a_step_and_of_an_image(script, monkeypatch):
    monkeypatch.setattr(script, "STEPS", {1: (5,), 8: (5, 10)})

    def timed(title, runs, **how):
        return {name: [9.0, 1.0, run()] for name, run in runs.items()}

    monkeypatch.setattr(script, "timed", timed)
    contestants = {
        factor: types.SimpleNamespace(
            training=lambda factor=factor: 2.0 * factor,
            sampling=lambda steps, factor=factor: lambda: float(steps),
            batch=4,
        )
        for factor in (1, 8)
    }
    assert script.seconds(contestants, rounds=3) == {
        "1 training": 2.0,
        "8 training": 9.0,
        "1 sampling 5": 1.25,
        "8 sampling 5": 1.25,
        "8 sampling 10": 2.25,
    }


def test_every_factor_is_trained_for_the_same_time_and_measured_once(
    script, monkeypatch, tmp_path, capsys
):
    """A step over f places a side takes 1 / f seconds here, an image as many as it has steps."""
    trained, drawn = {}, []
    per_step = {f"{f} training": 1 / f for f in script.FACTORS}
    per_image = {
        f"{f} sampling {steps}": steps / f for f in script.FACTORS for steps in script.STEPS[f]
    }

    def train(config, place):
        trained[place.name] = config.train.steps

    def scored(run, judge, captions, **how):
        drawn.append((run, how["steps"]))
        return SCORES

    captions = types.SimpleNamespace(texts=("a red three",) * 6, x=np.zeros((6, 1)))
    real = {
        "frechet_distance": 0.0,
        "caption_accuracy": 1.0,
        "caption_accuracy_held_out": 0.5,
    }
    judge = types.SimpleNamespace(scores=lambda x, captions: real)
    for name, value in {
        "train": train,
        "scored": scored,
        "turns": lambda config, data: None,
        "seconds": lambda contestants, rounds: per_step | per_image,
        "of_codec": lambda *given: {"numbers": 1, "psnr": 1.0, "frechet_distance": 1.0},
    }.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(script.cfg_jax, "load", lambda place, step: f"{place.name} at {step}")
    monkeypatch.setattr(script.scoring, "splits", lambda config: (None, None))
    monkeypatch.setattr(script.evaluation, "caption_judge_of", lambda *data: judge)
    monkeypatch.setattr(script.evaluation, "captions_of", lambda *given: captions)
    out = tmp_path / "made.png"
    argv = ["--workdir", str(tmp_path), "--minutes", "2", "--out", str(out)]
    script.main(argv)
    found = json.loads(out.with_suffix(".json").read_text())
    first = capsys.readouterr().out
    assert {f"{f}_{120 * f}": 120 * f for f in script.FACTORS}.items() <= trained.items()
    for factor in script.FACTORS:
        minutes = [row["minutes"] for row in found["over_time"][str(factor)]]
        assert minutes == [0.25, 0.5, 1.0, 2.0]
        for row in found["over_throughput"][str(factor)]:
            assert row["images_per_second"] == pytest.approx(factor / row["sampling_steps"])
    assert found["real"] == {"frechet_distance": 0.0, "accuracy": 0.75}
    assert len(set(drawn)) == len(drawn)
    assert ("8_960 at 120", script.STEPS_OVER_TIME) in drawn
    before = list(drawn)
    script.main(argv)
    assert drawn == before
    assert capsys.readouterr().out == first


def test_every_point_is_in_the_tables_and_the_figure(script, report):
    told = script.tables(report)
    steps = sum(map(len, script.STEPS.values()))
    assert told.count("0.250 | 50.0%") == 4 * len(script.FACTORS) + steps
    assert told.count("31.5 dB") == len(script.CODECS)
    distance, accuracy, throughput = script.figure(report).axes
    for axes in (distance, accuracy, throughput):
        assert len(axes.lines) == len(script.FACTORS) + 1
    assert len(throughput.texts) == steps


def test_the_figure_that_is_shown_has_the_scripts_points(script):
    shown = json.loads(script.FIGURE.with_suffix(".json").read_text())
    for factor in script.FACTORS:
        assert len(shown["over_time"][str(factor)]) == len(script.MOMENTS)
        steps = [row["sampling_steps"] for row in shown["over_throughput"][str(factor)]]
        assert steps == list(script.STEPS[factor])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--minutes", "0"], "--minutes must be positive"),
        (["--minutes", "nan"], "--minutes must be positive"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--codec-steps", "0"], "--codec-steps must be at least 1"),
        (["--samples", "2"], "--samples must be at least 3"),
        (["--sample-batch", "0"], "--sample-batch must be at least 1"),
        (["--out", "x.gif"], "--out must be a .png file"),
        (["--minute", "3"], "unrecognized arguments: --minute 3"),
    ],
)
def test_mistakes_are_refused(script, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        script.main(["--workdir", str(tmp_path / "none"), *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "none").exists()
