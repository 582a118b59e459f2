"""The command `train`: stopping on Ctrl-C, looking into a step again, and what it refuses."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
from launch import train, wait_for_row
from PIL import Image
from recipes import write

import cfg_jax
from cfg_jax.runtime import locks

STEPS = "--config.train.steps"
FEW = ("--config.train.log_every=1", "--config.train.checkpoint_every=1")


@pytest.fixture
def config(tmp_path):
    return write(tmp_path)


def test_ctrl_c_saves_and_says_how_to_go_on(config, tmp_path):
    workdir = tmp_path / "run"
    settings = ("--config.train.steps=100000", "--config.train.checkpoint_every=100000")
    process = train(config, workdir, *settings)
    wait_for_row(workdir, 4, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    (saved,) = (p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
    last = err.strip().splitlines()[-1]
    assert f"step {saved} is saved" in last
    assert f"go on with: python -m cfg_jax train --config {config}" in last


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["--config.train.bach_size=3"],
            "no config field 'train.bach_size'; did you mean train.batch",
        ),
        (["--config.zzz=3"], "no config field 'zzz'"),
        (["--config.train.steps=few"], "few"),
        (["--config.train.steps=0"], "config.train.steps must lie in [1, "),
        (
            ["--config.condition.label.p_uncond=2.0"],
            "config.condition.label.p_uncond must lie in [0, 1]",
        ),
        (["--config.schedule.logsnr_min=30.0"], "logsnr_min must be smaller"),
        (["--config.sample.solver=rk4"], "UniPC, or an import path module:Name; got 'rk4'"),
        (["--config.data=Catalogue", "--config.data.name=nothing"], "nothing"),
        (["--config.network.patch=16"], "multiples of 16; got 8×8"),
    ],
)
def test_mistakes_in_the_config_are_refused(refused, config, tmp_path, overrides, message):
    workdir = tmp_path / "run"
    line = refused("train", "--config", config, "--workdir", workdir, *overrides)
    assert message in line
    assert not workdir.exists()


def test_missing_flags_and_files_are_refused(refused, config, tmp_path):
    assert "give --config FILE" in refused("train", "--workdir", tmp_path / "run")
    assert "give --workdir" in refused("train", "--config", config)
    assert "mounted" in refused("train", "--config", config, "--workdir", "gs://bucket/run")
    line = refused("train", "--config", tmp_path / "none.py", "--workdir", tmp_path / "run")
    assert "none.py' does not exist" in line


def test_a_mistake_in_the_config_file_is_told_in_one_line(refused, config, tmp_path):
    config.write_text(config.read_text() + "\n    config.train.foo = 1\n".replace("    ", ""))
    line = refused("train", "--config", config, "--workdir", tmp_path / "run")
    assert "the config file has a mistake" in line


def test_another_config_in_the_same_directory_is_refused(refused, config, trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    line = refused(
        "train", "--config", config, "--workdir", workdir, "--config.condition.label.p_uncond=0.3"
    )
    assert "condition.label.p_uncond: 0.1 -> 0.3" in line
    assert "another --workdir" in line


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70, 1.5])
def test_seeds_out_of_range_are_refused(refused, config, tmp_path, seed):
    ask = ("train", "--config", config, "--workdir", tmp_path / "run")
    assert "config.train.seed must " in refused(*ask, f"--config.train.seed={seed}")


def test_two_trainers_in_one_directory_are_refused(refused, config, tmp_path):
    with locks.alone(tmp_path / "run"):
        line = refused("train", "--config", config, "--workdir", tmp_path / "run")
    assert "is in use by process" in line
    assert [path.name for path in (tmp_path / "run").iterdir()] == [locks.NAME]


@pytest.mark.parametrize("left", [6, 3])
def test_a_page_that_a_killed_run_did_not_draw_is_drawn(command, upscaler, tmp_path, left):
    """The last page, and that of the checkpoint the run goes on from."""
    shutil.copytree(upscaler, tmp_path / "run")
    whole = (upscaler / "samples" / "6.png").read_bytes()
    shutil.rmtree(tmp_path / "run" / "samples")
    if left == 3:
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    recipe = tmp_path / "large.py"
    recipe.write_text("from recipes import tiny_upscaler\n\nget_config = tiny_upscaler\n")
    ask = ("train", "--config", recipe, "--workdir", tmp_path / "run")
    code, _, err = command(*ask, f"--config.train.sample_every={left}")
    assert code == 0, err
    pages = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert pages == (["6.png"] if left == 6 else ["3.png", "6.png"])
    assert (tmp_path / "run" / "samples" / "6.png").read_bytes() == whole


@pytest.mark.parametrize("after", [0.0, 1.0])
@pytest.mark.slow
def test_ctrl_c_while_the_first_step_compiles_ends_in_order(config, tmp_path, after):
    """A second one ends it at once, wherever it is."""
    process = train(config, tmp_path / "run", "--config.train.steps=100000")
    while not (tmp_path / "run" / "config.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    for _ in range(2):
        time.sleep(after)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err


@pytest.mark.slow
def test_pictures_added_between_two_starts_are_told_of(command, refused, config, tmp_path):
    """The run goes on, and says so; a new class is another network."""
    rng, pictures, workdir = np.random.default_rng(0), tmp_path / "pictures", tmp_path / "run"

    def add(name):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / name)

    def ask(steps):
        data = ("--config.data=Folder", f"--config.data.path={pictures}")
        return ("train", "--config", config, "--workdir", workdir, *data, *FEW, f"{STEPS}={steps}")

    for name in (f"{label}/{number}.png" for label in ("cat", "dog") for number in range(8)):
        add(name)
    said = []
    for steps, more in ((1, "cat/8.png"), (2, None), (3, None)):
        code, out, err = command(*ask(steps))
        assert code == 0, err
        said.append("the files of the data have changed" in out + err)
        if more:
            add(more)
    assert said == [False, True, False]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert cfg_jax.load(workdir).step == 3
    add("emu/0.png")
    add("emu/1.png")
    line = refused(*ask(4))
    assert "2 classes" in line
    assert "3 classes" in line
    assert cfg_jax.load(workdir).step == 3
