"""A package of somebody else's, `my_house`, through the ordinary commands, this one untouched.

A transformer over words, its conditioner, a codec and an objective with a frozen teacher are
trained, killed, resumed, sampled from under guidance, evaluated, loaded and planned.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from launch import xla_flags

import cfg_jax
from cfg_jax import guidance
from cfg_jax.runtime import manifest
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.training import metrics

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
STEPS = ("--config.train.steps=40", "--config.train.checkpoint_every=4")


def begin(folder, *arguments):
    """A command in a process of its own, begun in a folder; kinds come from PYTHONPATH."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
        "XLA_FLAGS": xla_flags(1),
        "TQDM_MININTERVAL": "10",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "cfg_jax", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(folder, *arguments):
    """What a command prints, that must succeed."""
    process = begin(folder, *arguments)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module", autouse=True)
def importable():
    """As PYTHONPATH makes it in the commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the recipes' files, a trained teacher and a trained pupil."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "teacher.py").write_text(
        "from recipes_of_mine import teacher\n\n\ndef get_config():\n    return teacher()\n"
    )
    shutil.copy(HERE / "recipes_of_mine.py", folder / "pupil.py")
    (folder / "runs").mkdir()
    done(folder, "train", "--config", "teacher.py", "--workdir", "teacher")
    done(folder, "train", "--config", "pupil.py", "--workdir", "pupil", *STEPS)
    return folder


def saved(workdir, step):
    """The checksum of every array that a checkpoint holds."""
    return manifest.read(workdir / "checkpoints" / str(step), step).arrays


def test_it_trains_and_its_teacher_lies_beside_its_checkpoints(place):
    for run, last in (("teacher", 4), ("pupil", 40)):
        rows = metrics.read(place / run / "metrics.jsonl")
        assert rows[-1]["step"] == last
        assert all(np.isfinite(row["loss"]) for row in rows)
        assert list((place / run / "samples").glob("*.png"))
    assert not (place / "teacher" / "checkpoints" / "frozen").exists()
    with Checkpoints(place / "pupil") as checkpoints:
        frozen = checkpoints.restore_frozen()
    teacher = cfg_jax.load(place / "teacher")
    held = {np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(frozen)}
    assert held == {np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(teacher.params)}


def test_killed_and_resumed_it_ends_the_same_bit_for_bit(place):
    workdir = place / "killed"
    process = begin(place, "train", "--config", "pupil.py", "--workdir", workdir, *STEPS)
    deadline = time.monotonic() + 300
    while not (workdir / "checkpoints" / "8").is_dir():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done(place, "train", "--config", "pupil.py", "--workdir", workdir, *STEPS)
    one, other = (saved(place / run, 40) for run in ("pupil", "killed"))
    assert len(one["state"]) > len(one["ema"]) > 10
    assert one == other
    logged = [
        {row["step"]: row["loss"] for row in metrics.read(place / run / "metrics.jsonl")}
        for run in ("pupil", "killed")
    ]
    assert logged[0] == logged[1]


def test_it_is_loaded_and_guided(place):
    run = cfg_jax.load(place / "pupil")
    assert run.shape == (8, 4, 2)
    assert run.codec.bound is None
    words, key = ["seven", "three"], jax.random.key(0)
    x = run.sample(key, words=words, w=2.0)
    assert x.shape == (2, 8, 8, 1)
    cond = run.condition(words=words)
    assert cond["words"]["token"].tolist() == [[10, 7, 10], [10, 3, 10]]
    made = guidance.classifier_free(run.denoiser, w=2.0, null=run.null)
    z = cfg_jax.sample(made, key, cond, shape=run.shape, schedule=run.schedule, steps=2)
    left, right = (np.asarray(z[..., :1] + sign * z[..., 1:]) for sign in (1, -1))
    want = np.stack([left, right], axis=3).reshape(2, 8, 8, 1)
    np.testing.assert_allclose(x, want, atol=1e-4 * np.abs(want).max())
    assert np.abs(x - run.sample(key, words=words, w=0.0)).max() > 0
    with pytest.raises(ValueError, match=r"words must be of zero, one, .*; got 'dog'"):
        run.sample(key, words=["dog"])


def test_it_is_sampled_by_the_ordinary_command(place):
    flags = ("sample", "--workdir", "pupil", "--words", "seven,three", "--per-label", 2)
    for name in ("x.npz", "page.png"):
        done(place, *flags, "--w", 2, "--out", place / name)
    drawn = np.load(place / "x.npz")["arr_0"]
    assert (drawn.shape, drawn.dtype) == ((4, 8, 8, 1), np.uint8)
    assert (place / "page.png").read_bytes().startswith(b"\x89PNG")
    run = cfg_jax.load(place / "pupil")
    x = run.sample(jax.random.key(0), words=["seven", "seven", "three", "three"], w=2.0)
    want = np.clip(np.round((np.asarray(x, np.float64) + 1) * 127.5), 0, 255)
    assert np.abs(drawn.astype(float) - want).max() <= 1


def test_a_word_that_there_is_not_is_one_line(place):
    process = begin(place, "sample", "--workdir", "pupil", "--words", "dog", "--out", "y.png")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "Traceback" not in err
    assert "got 'dog'" in err


def test_it_is_evaluated_by_the_ordinary_command(place):
    done(place, "evaluate", "--workdir", "pupil", "--w", "0,1", "--samples", 40)
    report = json.loads((place / "pupil" / "evaluation" / "report.json").read_text())
    assert [row["w"] for row in report["rows"]] == [0.0, 1.0]
    for row in report["rows"]:
        assert np.isfinite(row["inception_score"])
        assert np.isfinite(row["frechet_distance"])


def test_a_run_without_its_teacher_still_samples_but_does_not_go_on(place, tmp_path):
    """What is frozen lies in the run; training reads the teacher where the recipe says."""
    shutil.copytree(place / "pupil", tmp_path / "pupil")
    shutil.copy(place / "pupil.py", tmp_path / "pupil.py")
    run = cfg_jax.load(tmp_path / "pupil")
    assert run.sample(jax.random.key(0), words=["one"], w=0.0).shape == (1, 8, 8, 1)
    process = begin(tmp_path, "train", "--config", "pupil.py", "--workdir", "pupil", *STEPS)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "there is no work directory teacher" in err
    assert "Traceback" not in err


@pytest.mark.tpu_compiler
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs the TPU compiler, though no TPU: pip install 'cfg-jax[tpu-plan]'",
)
def test_it_is_planned_for_a_tpu(place):
    out = done(
        place,
        "plan",
        "--config",
        "pupil.py",
        "--topology",
        "v5e:2x2",
        "--config.train.batch_size=16",
        "--out",
        "plan.md",
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(cfg_jax.load(place / "pupil").params))
    assert f"{count:,}" in out or f"{count / 1e3:.1f}" in out or "parameters" in out
    assert (place / "plan.md").read_text().startswith("#")
