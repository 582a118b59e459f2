"""CIFAR-10 in stretches: it stops when the time is over, goes on, and scores what there is."""

import json
import signal
import threading
import time

import jax
import numpy as np
import pytest
import recipes
import scripts
from PIL import Image

import cfg_jax
from cfg_jax.blueprint import blueprint
from cfg_jax.data import Digits
from cfg_jax.data.samples import to_uint8
from cfg_jax.model import Model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def script():
    loaded = scripts.load("cifar10")
    loaded.WS = (0.0, 1.0)
    return loaded


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two folders of two classes of images, one class dark and one bright."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for name, least in (("dark", 0), ("bright", 128)):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(least, least + 128, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def asked(pictures, tmp_path_factory):
    """The command's arguments, for a tiny recipe that would train for days."""
    place = tmp_path_factory.mktemp("run")
    config = recipes.write(place)
    data = ["--data", pictures / "train", "--test", pictures / "test", "--workdir", place / "run"]
    few = ["--samples", 6, "--steps", 2, "--batch", 4, "--out", place / "cifar10.png"]
    changes = ["--config.train.steps=1000000000", "--config.data.image_size=8"]
    return place, [str(a) for a in [*data, "--config", config, *few, *changes]]


def test_time_over_is_a_preemption_notice_for_whoever_listens(script):
    """One that comes too early is lost on nobody, and none comes when all is done."""
    received, before = threading.Event(), signal.getsignal(signal.SIGTERM)
    with script.stopped_after(0.0):
        time.sleep(0.2)
        assert not received.is_set()
        signal.signal(signal.SIGTERM, lambda *_: received.set())
        assert received.wait(30.0)
    assert signal.getsignal(signal.SIGTERM) == before
    received.clear()
    signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        with script.stopped_after(0.005):
            pass
        time.sleep(0.5)
        assert not received.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_time_passes_once_training_has_begun(script, tmp_path):
    """Which is when it writes its metrics, those of an earlier stretch among them."""
    path, stopped = tmp_path / "metrics.jsonl", threading.Event()
    for _ in range(2):
        stopped.clear()
        with script.stopped_after(0.0, script.begun(tmp_path)):
            signal.signal(signal.SIGTERM, lambda *_: stopped.set())
            assert not stopped.wait(1.0)
            path.write_text("")
            assert stopped.wait(30.0)


def test_it_trains_in_stretches_and_scores_what_there_is(script, asked, capsys):
    place, arguments = asked
    steps = []
    for minutes in ("0.03", "0.02", "0"):
        script.main([*arguments, "--minutes", minutes])
        steps.append(cfg_jax.load(place / "run").step)
    assert 0 < steps[0] < steps[1] == steps[2]
    assert "| real training images |" in capsys.readouterr().out

    report = json.loads((place / "cifar10.json").read_text())
    run = cfg_jax.load(place / "run")
    assert report["settings"]["training steps"] == run.step
    labels = np.arange(6) % 2
    for row in report["rows"]:
        with np.load(place / "run" / "scored" / f"w_{row['w']:g}.npz") as arrays:
            images, held = arrays["arr_0"], arrays["arr_1"]
        np.testing.assert_array_equal(held, labels)
        want = to_uint8(run.sample(jax.random.key(0), label=labels, w=row["w"], steps=2))
        assert np.abs(images.astype(int) - want).max() <= 1
    reached = report["training images a second"] * report["training FLOPs an image"]
    rate = report["matrix products, FLOPs a second"]
    assert report["of that reached"] == pytest.approx(reached / rate)
    with Image.open(place / "cifar10.png") as picture:
        assert picture.size[0] > 100


def test_training_counts_as_three_forward_passes(script):
    """By hand, for the tiny U-Net: its convolutions and products over one image of 8×8."""
    plan = blueprint(recipes.tiny_unet(), Digits().open("train").facts)
    run = Model(**plan.model(plan.init(jax.random.key(0))))
    found = script.utilisation(run, run.condition(label=[0]), 100.0)
    per_place = {(1, 1): 64, (3, 3): (3 * 8 - 2) ** 2}  # taps of a kernel that meet the image
    want = 4 * 64 * 64 * 8  # attention of 8 channels in the middle: two products
    for path, leaf in jax.tree_util.tree_leaves_with_path(run.params):
        if leaf.ndim > 1 and "label" not in str(path):
            places = per_place[leaf.shape[:2]] if leaf.ndim == 4 else 1
            attention = leaf.ndim == 2 and "attention" in str(path)
            want += 2 * leaf.shape[-1] * leaf.shape[-2] * (64 if attention else places)
    assert found["training FLOPs an image"] == 3 * want


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--minutes", "-1"], "--minutes must be at least 0, got -1"),
        (["--samples", "1"], "--samples must be at least 2"),
        (["--config", "none.py"], "'none.py' does not exist"),
        (["--data", "nowhere"], "nowhere"),
        (["--minutes", "0", "--workdir", "empty"], "no work directory empty"),
    ],
)
def test_mistakes_are_told_in_one_line(script, asked, capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        script.main([*asked[1], *flags])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
