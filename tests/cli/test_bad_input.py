"""Broken paths, full disks, damaged networks and closed pipes: one line, and nothing written."""

import dataclasses
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from launch import PYTHONPATH
from recipes import write

import cfg_jax
from cfg_jax import exchange
from cfg_jax.cli import COMMANDS, main
from cfg_jax.planning import topology
from cfg_jax.planning.topology import Topology


@pytest.fixture
def place(tmp_path, monkeypatch, trained, upscaler, told, exported):
    """The current directory, with what commands read, and files that nobody can."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(topology, "load", lambda name: Topology(name, "", jax.devices()))
    write(tmp_path)
    for name, run in (("run", trained), ("upscaler", upscaler), ("told", told)):
        (tmp_path / name).symlink_to(run)
    (tmp_path / "run.safetensors").symlink_to(exported)
    np.savez("statistics.npz", mu=np.arange(3.0), sigma=np.eye(3))
    np.savez("images.npz", np.zeros((4, 8, 8, 3), np.uint8))
    (tmp_path / "empty").touch()
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(1000))
    (tmp_path / "half").write_bytes((tmp_path / "images.npz").read_bytes()[:500])
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


BROKEN = {
    "missing": "none",
    "file": "file",
    "below_a_file": "file/none",
    "too_long": "x" * 300,
    "much_too_long": "/".join(["x" * 200] * 30),
    "loop": "loop",
    "below_a_loop": "loop/none",
    "nobodys_home": "~nobody_of_this_name/none",
    "not_utf8": os.fsdecode(b"\xff\xfe"),
    "an_empty_file": "empty",
    "noise": "noise",
    "half_a_file": "half",
    "an_empty_folder": "folder",
}
INPUTS = {
    "sample": ("sample", "--out", "x.png", "--workdir", "PATH"),
    "sample_model": ("sample", "--out", "x.png", "--model=PATH"),
    "sample_classifier": (
        *("sample", "--workdir", "run", "--out", "x.png"),
        *("--classifier", "PATH"),
    ),
    "sample_small": ("sample", "--workdir", "upscaler", "--out", "x.png", "--small", "PATH"),
    "sample_vectors": ("sample", "--workdir", "told", "--out", "x.png", "--vectors", "PATH"),
    "sample_data": ("sample", "--workdir", "told", "--out", "x.png", "--data-path", "PATH"),
    "evaluate": ("evaluate", "--workdir", "PATH"),
    "evaluate_model": ("evaluate", "--model", "PATH"),
    "evaluate_classifier": ("evaluate", "--workdir", "run", "--classifier", "PATH"),
    "evaluate_data": ("evaluate", "--workdir", "told", "--data-path", "PATH"),
    "export": ("export", "--out", "x.safetensors", "--workdir", "PATH"),
    "import": ("import", "--from", "cfg-jax", "--workdir", "new", "PATH"),
    "import_published": (
        *("import", "--from", "guided-diffusion", "--arch", "imagenet64"),
        *("--workdir", "new", "PATH"),
    ),
    "score": ("score", "--samples", "PATH"),
    "score_reference": ("score", "--samples", "statistics.npz", "--reference", "PATH"),
    "score_weights": ("score", "--samples", "images.npz", "--weights", "PATH"),
    "train": ("train", "--workdir", "new", "--config", "PATH"),
    "train_init": ("train", "--workdir", "new", "--config", "tiny.py", "--init", "PATH"),
    "train_arrays": (
        *("train", "--workdir", "new", "--config", "tiny.py"),
        *("--config.data=Arrays", "--config.data.path=PATH"),
    ),
    "plan": ("plan", "--topology", "v5e:2x4", "--config", "PATH"),
    "prepare": ("prepare", "--config", "PATH"),
    "encode": ("encode", "--config", "PATH"),
    "encode_run": (
        *("encode", "--config", "tiny.py", "--config.codec=KL"),
        *("--config.codec.data_channels=1", "--config.codec.run=PATH"),
    ),
    "prepare_folder": ("prepare", "--config", "folder", "--config.data.path=PATH"),
    "prepare_sounds": (
        *("prepare", "--config", "tiny.py"),
        *("--config.data=Sounds", "--config.data.path=PATH"),
    ),
}
OUTPUTS = {
    "sample": ("sample", "--workdir", "run", "--out", "PATH.png"),
    "evaluate": ("evaluate", "--workdir", "run", "--out", "PATH"),
    "export": ("export", "--workdir", "run", "--out", "PATH.safetensors"),
    "import": ("import", "--from", "cfg-jax", "run.safetensors", "--workdir", "PATH"),
    "score": (
        *("score", "--samples", "statistics.npz", "--reference", "statistics.npz"),
        *("--out", "PATH.json"),
    ),
    "score_cache": ("score", "--samples", "images.npz", "--cache", "PATH"),
    "plan": ("plan", "--config", "tiny.py", "--topology", "v5e:2x4", "--out", "PATH.md"),
    "train": ("train", "--config", "tiny.py", "--workdir", "PATH"),
    "prepare": ("prepare", "--config", "tiny.py", "--config.data.dir=PATH"),
}
NO_PATHS = {
    *("arch", "batch", "classes", "classifier-form", "classifier-scale", "clip", "condition"),
    *("coordinator", "count", "distributed", "ema", "from", "fsdp", "grid", "guidance", "labels"),
    *("metrics", "per-label", "process", "processes", "replay-step", "scale", "search", "seed"),
    *("shape", "skip-bad", "solver", "step", "steps", "topology", "w", "wait"),
}
"""Flags whose values are none."""
UNWRITABLE = {
    "below_a_file": "file/x",
    "too_long": "x" * 300,
    "below_a_loop": "loop/x",
    "nobodys_home": "~nobody_of_this_name/x",
}


def given(argv, path):
    return [part.replace("PATH", path) for part in argv]


@pytest.mark.parametrize("command_", COMMANDS)
def test_every_path_that_a_command_takes_is_tried(command, place, command_):
    tried = [argv for argv in [*INPUTS.values(), *OUTPUTS.values()] if argv[0] == command_]
    named = {
        (argv[i - 1] if argv[i].startswith("PATH") else argv[i].partition("=")[0]).lstrip("-")
        for argv in tried
        for i in range(len(argv))
        if "PATH" in argv[i]
    }
    models = {"sample": ("run", "upscaler", "told"), "evaluate": ("run",)}.get(command_, ("",))
    told = [command(command_, *(("--workdir", m) if m else ()), "--help")[1] for m in models]
    flags = {flag for text in told for flag in re.findall(r"^  --([\w-]+)$", text, re.MULTILINE)}
    assert flags - NO_PATHS - {"samples"} <= named
    assert command_ == "score" or "samples" not in named


@pytest.mark.parametrize("path", BROKEN)
@pytest.mark.parametrize("command_", INPUTS)
def test_what_cannot_be_read_is_told_in_one_line(refused, place, command_, path):
    before = sorted(place.iterdir())
    refused(*given(INPUTS[command_], BROKEN[path]))
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("path", UNWRITABLE)
@pytest.mark.parametrize("command_", OUTPUTS)
def test_what_cannot_be_written_is_told_in_one_line(refused, place, command_, path):
    before = sorted(place.iterdir())
    refused(*given(OUTPUTS[command_], UNWRITABLE[path]))
    assert sorted(place.iterdir()) == before


HUGE = {
    "per-label": (*("sample", "--workdir", "run", "--out", "x.png"), "--per-label", "1000000000"),
    "config.sample.steps": (*("sample", "--workdir", "run", "--out", "x.png"), "--steps=1000000"),
    "samples": ("evaluate", "--workdir", "run", "--samples", "1000000000000"),
    **{
        f"config.{field}": (*OUTPUTS["train"], *kind, f"--config.{field}={value}")
        for field, value, *kind in (
            ("network.width", 10**9),
            ("network.channel_mult", "(1,1000000000)", "--config.network=UNet"),
            ("network.depth", 10**5),
            ("network.blocks", 10**5, "--config.network=UNet"),
            ("condition.label.num_classes", 10**9),
            ("schedule.steps", 10**9, "--config.schedule=LinearBeta"),
            ("data.workers", 10**5),
            ("data.frames", 10**9, "--config.data=MovingDigits"),
            ("data.size", 10**9, "--config.data=MovingDigits"),
            ("data.clips", 10**9, "--config.data=MovingDigits"),
        )
    },
}


@pytest.mark.parametrize("field", HUGE)
def test_what_no_machine_can_do_is_refused_at_once(refused, place, field):
    before = sorted(place.iterdir())
    assert field in refused(*given(HUGE[field], "new"))
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("command_", ["sample", "export", "score", "plan"])
def test_a_folder_where_a_file_is_to_be_is_refused_at_once(refused, place, command_):
    argv = given(OUTPUTS[command_], "there")
    Path(argv[-1]).mkdir()
    assert "cannot be written: it is a folder" in refused(*argv)


@pytest.mark.parametrize("command_", ["sample", "evaluate", "export", "score", "plan"])
def test_a_folder_without_permission_is_refused_at_once(refused, place, monkeypatch, command_):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "no permission to write in" in refused(*given(OUTPUTS[command_], "there"))


@pytest.mark.parametrize("command_", ["sample", "export", "score", "import"])
def test_a_full_disk_is_told_in_one_line(refused, place, monkeypatch, command_):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    argv = given(OUTPUTS[command_], "there")
    few = ("--labels", "1", "--per-label", "1", "--steps", "2") if command_ == "sample" else ()
    monkeypatch.setattr(os, "replace", full)
    assert "No space left on device" in refused(*argv, *few)
    assert not list(place.rglob("*.part"))


def test_home_is_where_it_is(refused, place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    trained_in = []
    monkeypatch.setattr("cfg_jax.cli.train.train", lambda _, workdir: trained_in.append(workdir))
    main(["train", "--config", "tiny.py", "--workdir=~/new"])
    assert trained_in == [place / "new"]
    assert f"no work directory {place}/none" in refused(
        "sample", "--workdir=~/none", "--out", "x.png"
    )
    assert not (place / "~").exists()


ENDINGS = [command_ for command_, argv in OUTPUTS.items() if "PATH." in argv[-1]]


@pytest.mark.parametrize("theirs", ["images.npz", "tiny.py", "run.safetensors.bak", "run"])
@pytest.mark.parametrize("command_", ENDINGS)
def test_no_file_of_another_kind_is_written_over(refused, place, command_, theirs):
    """Such as what the command reads: the samples, the recipe."""
    path = place / theirs
    if theirs.endswith(".bak"):
        path.write_bytes(b"kept")
    before = None if path.is_dir() else path.read_bytes()
    argv = [*OUTPUTS[command_][:-1], theirs]
    if command_ == "sample" and theirs == "images.npz":
        pytest.skip("samples are an .npz file")
    assert re.search(r"must end in \.|are written as \.", refused(*argv))
    assert before is None or path.read_bytes() == before


def test_classes_go_by_name(command, refused, place):
    ask = ("sample", "--model", "run.safetensors", "--out", "x.npz", "--per-label", 1)
    code, _, err = command(*ask, "--steps", 2, "--labels", "two, nine,5-6")
    assert code == 0, err
    with np.load("x.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_1"], [2, 9, 5, 6])
    assert "class names; got 'twelve'" in refused(*ask, "--labels", "two,twelve")


@pytest.mark.parametrize(
    ("scale", "message"),
    [(np.nan, "the parameters of wrong.safetensors are not finite"), (1e30, "are not finite")],
)
def test_of_what_is_no_number_no_picture_is_written(refused, place, scale, message):
    run = cfg_jax.load("run")
    params = jax.tree.map(lambda leaf: leaf * scale, run.params)
    exchange.export(dataclasses.replace(run, params=params), "wrong.safetensors")
    few = ("--labels", "0-1", "--per-label", 1, "--steps", 2)
    ask = ("sample", "--model", "wrong.safetensors", "--out", "x.png", *few)
    assert message in refused(*ask)
    assert not Path("x.png").exists()
    assert not list(place.rglob("*.npy"))


@pytest.mark.parametrize("argv", [("--help",), ("sample", "--help")])
def test_nobody_reading_on_is_no_error(argv):
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(
        [sys.executable, "-m", "cfg_jax", *argv],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (ran.stderr, ran.returncode) == ("", 0)


def test_help_lists_the_flags_of_the_runs_condition(command, place):
    _, told, _ = command("sample", "--workdir", "run", "--help")
    assert "--labels\n" in told
    assert "--solver.gamma\n" in told
    _, told, _ = command("sample", "--help")
    assert "--labels\n" not in told
