"""A step made again: the very loss it had, from the checkpoint before it or from the start."""

import json

import numpy as np
import pytest
from recipes import tiny

from cfg_jax.blueprint import blueprint
from cfg_jax.data import Digits
from cfg_jax.training import loop, metrics, replay

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a row a step and dropout: 6 steps, a checkpoint after 3 and 6."""
    config, workdir = tiny(), tmp_path_factory.mktemp("replay") / "run"
    config.train.log_every = 1
    config.network.dropout = 0.3
    loop.train(config, workdir)
    return config, workdir


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_step_is_made_again_as_it_was(run, step):
    config, workdir = run
    before = sorted(str(p) for p in (workdir / "checkpoints").rglob("*"))
    found = replay.replay(config, workdir, step)
    row = metrics.read(workdir / "metrics.jsonl")[step - 1]
    assert (found.loss, found.grad_norm) == (row["loss"], row["grad_norm"])
    each = np.array([example["loss"] for example in found.examples])
    assert each.mean() == pytest.approx(row["loss"], rel=1e-5)
    assert (np.diff(each) <= 0).all()
    places = sorted(example["example"] for example in found.examples)
    assert places == list(range((step - 1) * 16, step * 16))
    assert sorted(str(p) for p in (workdir / "checkpoints").rglob("*")) == before
    assert json.loads((workdir / "replay" / f"{step}.json").read_text())["loss"] == found.loss
    assert found.picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_shows_the_greatest_losses_first(run):
    found = replay.replay(*run, 2)
    lines = replay.table(found, most=3).splitlines()
    assert lines[0].startswith("step 2: loss ")
    assert [int(line.split()[0]) for line in lines[2:5]] == [
        example["example"] for example in found.examples[:3]
    ]


def test_labels_are_those_of_the_batch(run):
    config, workdir = run
    found = replay.replay(config, workdir, 5)
    data = Digits().open("train")
    batch = next(loop.stream(config, data, blueprint(config, data.facts), 4))
    for example in found.examples:
        assert example["label"] == batch["label"][example["example"] - 64]
        assert -20 <= example["logsnr"] <= 20
        assert example["hidden"] in ([], ["label"])


def test_what_cannot_be_replayed_is_refused(run, tmp_path):
    config, workdir = run
    with pytest.raises(ValueError, match="--replay-step must be at least 1; got 0"):
        replay.replay(config, workdir, 0)
    with pytest.raises(ValueError, match=r"--replay-step must be at most train.steps, 6; got 7"):
        replay.replay(config, workdir, 7)
    with pytest.raises(ValueError, match="there is no work directory"):
        replay.replay(config, tmp_path / "none", 1)
    other = tiny()
    with pytest.raises(ValueError, match=r"network.dropout: 0.3 -> 0.0"):
        replay.replay(other, workdir, 1)
