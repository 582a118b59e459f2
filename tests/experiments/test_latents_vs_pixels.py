"""The benchmark of latents beside pixels: what its ratio means, and that its turns run."""

import importlib
import json
import types

import jax
import numpy as np
import pytest
import recipes
import scripts

from cfg_jax import recipe

bench = scripts.load("benchmarks/latents_vs_pixels")
network_turns = importlib.import_module("network_turns")


def test_the_two_differ_in_the_codec_and_in_the_reach_of_positions():
    latents, pixels = map(recipe.flatten, bench.networks("runs/it", 16).values())
    differ = {name for name in latents if latents[name] != pixels.get(name)}
    assert all(name.startswith(("codec.", "network.period")) for name in differ)
    assert latents["codec.run"] == "runs/it"


def test_a_machine_that_slows_down_does_not_change_the_ratio(monkeypatch):
    """Pixels take 4, 4 and 5 times as long, whatever a turn takes."""
    drift = np.array([1.0, 4.0, 10.0])
    latents = bench.CALLS["latents"] * drift
    taken = {"latents": latents.tolist(), "pixels": (drift * [4.0, 4.0, 5.0]).tolist()}
    monkeypatch.setattr(bench, "timed", lambda title, runs, **how: taken)
    one = types.SimpleNamespace(training=None, sampling=lambda steps: None, batch=8)
    rows = bench.compared({"latents": one, "pixels": one}, steps=3, rounds=3)
    assert [row["task"] for row in rows] == ["training", "sampling, 3 steps"]
    for row in rows:
        assert row["times_as_fast"] == 4.0
        assert row["latents_images_a_second"] == 8 / 4.0
        assert row["pixels_images_a_second"] == 8 / 16.0


def test_a_turn_is_of_so_many_calls():
    called = []
    assert bench.again(lambda: called.append(len(called)) or len(called), 3) == 3
    assert called == [0, 1, 2]


@pytest.mark.slow
def test_turns_train_and_draw(monkeypatch, tmp_path, capsys):
    config = recipes.tiny_captioned()
    data = recipe.make(config.data, "data", path="config.data").open("train")
    made = network_turns.turns(config, data)
    losses = [float(made.training()) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert made.sampling(2)().shape == (16, 32, 32, 3)
    assert (made.places, made.batch) == (1024, 16)
    monkeypatch.setattr(bench, "networks", lambda codec, batch: dict.fromkeys(KINDS, config))
    out = tmp_path / "made.json"
    bench.main(["--codec", "none", "--steps", "2", "--rounds", "1", "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["devices"] == jax.device_count()
    assert report["places"] == dict.fromkeys(KINDS, 1024)
    assert capsys.readouterr().out.count("\n| ") == 1 + len(report["rows"]) == 3


KINDS = ("latents", "pixels")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch", "0"], "at least 1"),
        (["--rounds", "many"], "at least 1"),
        (["--clock", "sun"], "invalid choice"),
        (["--out", "nowhere/made.json"], "--out must be a .json file"),
        pytest.param([], "is no work directory of a trained codec", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_flag_is_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["--codec", "nowhere", *flags])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
