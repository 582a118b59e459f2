"""Captions from data to picture: trained along, kept with the run, asked for by commands."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny_captioned

import cfg_jax
from cfg_jax import evaluation, exchange, recipe
from cfg_jax.evaluation import of_captions
from cfg_jax.run import load_run
from cfg_jax.runtime import files
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.training.loop import train

pytestmark = pytest.mark.slow

PROMPTS = ["a red three left of a blue seven", "a white zero"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    place = tmp_path_factory.mktemp("text") / "run"
    train(tiny_captioned(), place)
    return place


@pytest.fixture(scope="module")
def run(workdir):
    return load_run(workdir)


def test_every_parameter_of_the_encoder_that_captions_reach_moves(workdir, run):
    with Checkpoints(workdir) as checkpoints:
        first = checkpoints.restore_ema(2, {"0": run.params})["0"]
        last = checkpoints.restore_ema(4, {"0": run.params})["0"]
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), first, last)["encoders"]
    still = [jax.tree_util.keystr(p) for p, m in jax.tree.leaves_with_path(moved) if not m]
    assert still == []


def test_a_page_is_drawn(workdir):
    assert (workdir / "samples" / "4.png").read_bytes().startswith(b"\x89PNG")


def test_one_file_and_a_run_of_it_sample_what_the_run_does(run, tmp_path):
    def drawn(model):
        return np.asarray(model.sample(jax.random.key(0), text=PROMPTS))

    exchange.export(run, tmp_path / "text.safetensors")
    exchange.import_run(tmp_path / "text.safetensors", tmp_path / "imported")
    wanted = drawn(run)
    for place in ("text.safetensors", "imported"):
        np.testing.assert_array_equal(drawn(cfg_jax.load(tmp_path / place)), wanted)


def test_prompts_are_flags(command, workdir, tmp_path):
    def done(*argv):
        code, _, err = command(*argv)
        assert code == 0, err

    asked = ("sample", "--workdir", workdir, "--per-label", 2, "--w", 2)
    named = tmp_path / "prompts.npz"
    done(*asked, "--prompt", PROMPTS[0], "--negative", PROMPTS[1], "--out", named)
    assert np.load(named)["arr_0"].shape == (2, 32, 32, 3)
    plain = tmp_path / "plain.npz"
    done(*asked, "--prompt", PROMPTS[0], "--out", plain)
    assert not np.array_equal(np.load(named)["arr_0"], np.load(plain)["arr_0"])
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    page = tmp_path / "page.png"
    done(*asked, "--prompt", f"@{tmp_path / 'prompts.txt'}", "--out", page)
    assert page.exists()
    done("sample", "--workdir", workdir, "--per-label", 3, "--out", tmp_path / "lent.npz")
    assert len(np.load(tmp_path / "lent.npz")["arr_0"]) == 3


def test_captions_are_scored_by_what_a_detector_finds(command, workdir, tmp_path, monkeypatch):
    """The report holds what the pieces give; with a tenth of 400 scenes there are all kinds."""
    quickly = {"steps": 2, "batch": 8, "progress": False}
    detector = functools.partial(evaluation.train_detector, **quickly)
    clip = functools.partial(evaluation.train_agreement, **quickly)
    monkeypatch.setattr(of_captions, "train_detector", detector)
    monkeypatch.setattr(evaluation, "train_agreement", clip)
    few = tmp_path / "few"
    shutil.copytree(workdir, few)
    told = json.loads((few / "config.json").read_text())
    told["config"]["data.scenes"] = 400
    (few / "config.json").write_text(json.dumps(told))
    argv = ("--w", "0,2", "--samples", 4, "--seed", 3, "--out", tmp_path / "out")
    code, printed, err = command("evaluate", "--workdir", few, *argv)
    assert code == 0, err
    assert "of the held-out scenes without a mistake" in printed
    assert "| w | s = 1 + w | caption accuracy ↑ |" in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["samples_per_w"] == 8
    run = load_run(few)
    source = recipe.make(run.config.data, "data")
    train_scenes, held_out = source.open("train"), source.open("test")
    captions = evaluation.captions_of(held_out, "text", 4)
    kept = {"cache": files.cache()}  # where the command has left them
    scorers = (evaluation.train_agreement(train_scenes, held_out, **kept),)
    judge = evaluation.caption_judge_of(train_scenes, held_out, scorers=scorers, **kept)
    x = np.asarray(run.sample(jax.random.key(3), text=list(captions.texts), w=2.0))
    want = judge.scores(np.clip(x, -1, 1), captions)
    assert report["rows"][1] == pytest.approx({"w": 2.0, **want}, rel=2e-2, abs=1e-6)
    assert report["reference"] == pytest.approx(judge.scores(captions.x, captions), rel=1e-3)
    for name in ("report.md", "accuracy.png", "samples_by_w.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100


def test_a_text_for_a_model_without_one_and_the_reverse_are_refused(refused, workdir, trained):
    out = ("--out", "x.png")
    assert "prompt" in refused("sample", "--workdir", trained, "--prompt", "a", *out)
    assert "labels" in refused("sample", "--workdir", workdir, "--labels", "3", *out)
    with pytest.raises(ValueError, match="the model takes label; got text"):
        load_run(trained).sample(jax.random.key(0), text=["a"])
    with pytest.raises(ValueError, match="the model takes text; got label"):
        load_run(workdir).sample(jax.random.key(0), label=[3])
