"""The command `sample`: pictures, arrays, going on, and what it refuses."""

import json
import shutil
import time

import jax
import numpy as np
import pytest
from launch import finish, start_together
from PIL import Image
from recipes import tiny

import cfg_jax
from cfg_jax import guidance, solvers
from cfg_jax.data.samples import to_uint8
from cfg_jax.runtime import bulk
from cfg_jax.training.loop import train


def sample(trained, out, *flags):
    return ("sample", "--workdir", trained, "--out", out, *flags)


def test_arrays_are_what_python_samples(command, trained, tmp_path):
    out = tmp_path / "samples.npz"
    code, printed, err = command(
        *sample(trained, out, "--labels", "2,5-6", "--per-label", 3, "--w", 1.5, "--steps", 3),
        "--solver",
        "ddim",
        "--solver.eta",
        0.5,
        "--seed",
        4,
        "--batch",
        8,
    )
    assert code == 0, err
    assert "9 pictures" in printed
    with np.load(out) as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    np.testing.assert_array_equal(labels, [2, 2, 2, 5, 5, 5, 6, 6, 6])
    assert images.dtype == np.uint8
    run = cfg_jax.load(trained)
    want = run.sample(jax.random.key(4), labels, w=1.5, steps=3, solver=solvers.DDIM(eta=0.5))
    assert np.abs(images.astype(int) - to_uint8(want)).max() <= 1
    assert not list(tmp_path.glob("*.parts"))


def test_a_guidance_by_name_is_the_one_made_in_python(command, trained, tmp_path):
    out = tmp_path / "samples.npz"
    guided = ("--guidance", "rescaled", "--guidance.phi", 0.4, "--guidance.low", -3)
    code, _, err = command(
        *sample(trained, out, "--per-label", 1, "--w", 2, "--solver", "ddim", "--steps", 3),
        *guided,
    )
    assert code == 0, err
    run = cfg_jax.load(trained)
    denoiser = guidance.rescaled(run.denoiser, w=2.0, null={"label": 10}, phi=0.4)
    want = cfg_jax.sample(
        cfg_jax.denoiser.clipped(guidance.interval(denoiser, low=-3.0)),
        jax.random.key(0),
        {"label": jax.numpy.arange(10)},
        shape=run.shape,
        schedule=run.schedule,
        solver=solvers.DDIM(),
        steps=3,
    )
    with np.load(out) as arrays:
        assert np.abs(arrays["arr_0"].astype(int) - to_uint8(want)).max() <= 1


def test_conditions_are_composed_as_in_python(command, trained, tmp_path):
    out = tmp_path / "samples.npz"
    flags = ("--guidance", "Composed", "--guidance.conds", '[{"label": 3}, {"label": 5}]')
    code, _, err = command(
        *sample(trained, out, "--labels", "1", "--per-label", 2, "--w", 1.5, "--steps", 3), *flags
    )
    assert code == 0, err
    run = cfg_jax.load(trained)
    conds = [{"label": np.full(2, label)} for label in (3, 5)]
    denoiser = guidance.composed(run.denoiser, conds=conds, ws=[1.5, 1.5], null={"label": 10})
    want = cfg_jax.sample(
        cfg_jax.denoiser.clipped(denoiser),
        jax.random.key(0),
        {"label": np.array([1, 1])},
        shape=run.shape,
        schedule=run.schedule,
        steps=3,
    )
    with np.load(out) as arrays:
        assert np.abs(arrays["arr_0"].astype(int) - to_uint8(want)).max() <= 1


@pytest.mark.slow
def test_a_classifier_guides_as_in_python(command, trained, noisy, tmp_path):
    out = tmp_path / "samples.npz"
    flags = ("--labels", "0-4", "--per-label", 1, "--classifier", noisy, "--classifier-scale", 3)
    more = ("--classifier-form", "mean", "--w", -1, "--steps", 3, "--solver", "ancestral")
    code, _, err = command(*sample(trained, out, *flags, *more, "--solver.v", 0.3))
    assert code == 0, err
    run, held = cfg_jax.load(trained), cfg_jax.load(noisy)
    by = {"classifier": held.log_prob, "classifier_scale": 3.0, "classifier_form": "mean"}
    asked = {"w": -1.0, "steps": 3, "solver": solvers.Ancestral(v=0.3)}
    want = run.sample(jax.random.key(0), range(5), **asked, **by)
    with np.load(out) as arrays:
        assert np.abs(arrays["arr_0"].astype(int) - to_uint8(want)).max() <= 1
    plain = run.sample(jax.random.key(0), range(5), **asked)
    assert np.abs(to_uint8(want).astype(int) - to_uint8(plain)).max() > 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labels", "10"], "label must lie in [0, 9] beside a classifier; got 10"),
        (["--classifier-form", "x"], "classifier_form must be one of eps, mean; got 'x'"),
        (["--classifier-form", "mean", "--solver", "ddim"], "mean of Ancestral, no other solver"),
        (
            ["--classifier-form", "mean", "--solver", "ancestral", "--guidance.low", "1"],
            "do not limit classifier_form mean",
        ),
        (["--classifier-scale", "nan"], "classifier-scale must be finite"),
    ],
)
def test_mistakes_beside_a_classifier_are_refused(
    refused, trained, noisy, tmp_path, flags, message
):
    argv = sample(trained, tmp_path / "x.png", "--classifier", noisy, *flags)
    assert message in refused(*argv)


@pytest.mark.slow
def test_beside_an_unconditional_model_a_classifier_alone_takes_labels(
    refused, command, noisy, tmp_path
):
    config = tiny()
    config.condition.label = None
    config.train.steps = 1
    train(config, tmp_path / "run")
    argv = sample(tmp_path / "run", tmp_path / "x.npz", "--steps", 2, "--per-label", 1)
    assert "Unknown command line flag 'labels'" in refused(*argv, "--labels", "3")
    assert "nothing that guidance could hide" in refused(*argv, "--classifier", noisy, "--w", 1)
    assert command(*argv, "--classifier", noisy, "--labels", "3-5")[0] == 0
    with np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_1"], [3, 4, 5])


def test_a_classifier_is_no_model_and_a_model_no_classifier(refused, trained, noisy, tmp_path):
    out = tmp_path / "x.png"
    assert "holds a noisy classifier, not a diffusion model" in refused(*sample(noisy, out))
    line = refused(*sample(trained, out, "--classifier", trained))
    assert "holds a diffusion model, not a noisy classifier" in line
    line = refused(*sample(trained, out, "--classifier-scale", 2))
    assert "--classifier-scale needs --classifier" in line


def test_outside_its_interval_guidance_costs_nothing(command, trained, tmp_path, monkeypatch):
    """The network of batch 20 (both halves) acts inside the interval, that of batch 10 outside."""
    from cfg_jax.networks import DiT

    traced, original = [], DiT.__call__

    def watching(self, z, *args, **kwargs):
        traced.append(len(z))
        return original(self, z, *args, **kwargs)

    monkeypatch.setattr(DiT, "__call__", watching)
    argv = sample(trained, tmp_path / "x.png", "--per-label", 1, "--steps", 5)
    assert command(*argv, "--guidance.low", -2, "--guidance.high", 2)[0] == 0
    per_device = {len_ for len_ in traced if len_ != 1}
    assert per_device == {2, 4}  # ten labels padded to sixteen over eight devices


def test_an_interrupted_job_does_not_go_on_under_another_guidance(
    command, refused, trained, tmp_path, monkeypatch
):
    write = bulk._write

    def interrupted(*part):
        write(*part)
        raise KeyboardInterrupt

    argv = sample(trained, tmp_path / "x.npz", "--labels", "0-1", "--per-label", 1)
    monkeypatch.setattr(bulk, "_write", interrupted)
    assert command(*argv)[0] == 130
    line = refused(*argv, "--guidance", "projected")
    assert "guidance.kind: ClassifierFree -> Projected" in line


def test_a_picture_has_a_row_a_label(command, trained, tmp_path):
    out = tmp_path / "deep" / "grid.png"
    code, _, err = command(*sample(trained, out, "--labels", "0-9", "--per-label", 4))
    assert code == 0, err
    with Image.open(out) as picture:
        told = json.loads(picture.text["cfg_jax"])
        width, height = picture.size
    assert height == 10 * 34 + 2
    assert 4 * 34 + 2 < width < 4 * 34 + 2 + 34  # and the classes' names, of a digit each
    assert (told["sample.steps"], told["guiding.w"], told["seed"]) == (2, 0.5, 0)
    assert str(trained) in told["model"]


@pytest.mark.slow
def test_several_processes_share_the_images_out(command, trained, tmp_path):
    """One of them is killed; all of them, started again, end with what one process makes."""
    flags = ("--labels", "0-3", "--per-label", 6, "--batch", 4, "--steps", 3)
    alone, shared = tmp_path / "alone.npz", tmp_path / "shared.npz"
    assert command(*sample(trained, alone, *flags))[0] == 0
    parts = tmp_path / "shared.npz.parts"
    group = start_together(2, *sample(trained, shared, *flags))
    while not list(parts.glob("*.npy")):
        assert None in [process.poll() for process in group], [p.communicate() for p in group]
        time.sleep(0.05)
    group[1].kill()
    for process in group:
        process.communicate(timeout=120)
    finish(start_together(2, *sample(trained, shared, *flags)))
    with np.load(alone) as a, np.load(shared) as b:
        np.testing.assert_array_equal(a["arr_1"], b["arr_1"])
        assert np.abs(a["arr_0"].astype(int) - b["arr_0"].astype(int)).max() <= 1
    assert not parts.exists()


@pytest.mark.slow
def test_two_processes_with_different_flags_refuse_to_start(trained, tmp_path):
    flags = ("--labels", "0-3", "--per-label", 6, "--batch", 4, "--steps", 3)
    ask = sample(trained, tmp_path / "x.npz", *flags)
    group = start_together(2, *ask, own=lambda i: ("--seed", i))
    told = [process.communicate(timeout=120)[1] for process in group]
    assert [process.returncode for process in group] == [2, 2], told
    for err in told:
        assert "different settings: that of process 1 differs from process 0's in seed" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_another_network_of_the_same_path_left_is_not_gone_on_with(
    command, refused, trained, tmp_path, monkeypatch
):
    """Its settings tell; where they are lost, the part itself does, and is made again."""
    from cfg_jax.runtime import bulk

    def stopped(count, batch):
        yield 0, batch, np.arange(batch)
        raise KeyboardInterrupt

    workdir, out, parts = (tmp_path / name for name in ("run", "x.npz", "x.npz.parts"))
    shutil.copytree(trained, workdir)
    argv = sample(workdir, out, "--labels", "0-1", "--per-label", 8, "--batch", 8)
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "full_batches", stopped)
        assert command(*argv)[0] == 130
    held = (parts / "0.npy").read_bytes()
    shutil.rmtree(workdir)
    again = tiny()
    again.train.seed = 1
    train(again, workdir)
    assert "x.npz.parts holds part of another job (model: " in refused(*argv)
    assert (parts / "0.npy").read_bytes() == held
    (parts / "settings.json").write_text("")
    code, printed, err = command(*argv)
    assert code == 0, err
    assert "0.npy is damaged, and made again" in printed
    want = cfg_jax.load(workdir).sample(jax.random.key(0), np.repeat([0, 1], 8))
    with np.load(out) as arrays:
        assert np.abs(arrays["arr_0"].astype(int) - to_uint8(want)).max() <= 1


def test_interrupted_it_goes_on(command, trained, tmp_path, monkeypatch):
    from cfg_jax.model import Model

    out, calls, original = tmp_path / "samples.npz", [], Model.sample

    def counting(self, *args, **options):
        calls.append(options["offset"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *args, **options)

    monkeypatch.setattr(Model, "sample", counting)
    argv = sample(trained, out, "--labels", "0-2", "--per-label", 8, "--batch", 8)
    code, _, err = command(*argv)
    assert code == 130
    assert "the same command goes on" in err
    assert not out.exists()
    assert command(*argv)[0] == 0
    assert calls == [0, 8, 8, 16]
    monkeypatch.undo()
    again = tmp_path / "again.npz"
    assert (
        command(*sample(trained, again, "--labels", "0-2", "--per-label", 8, "--batch", 8))[0] == 0
    )
    with np.load(out) as a, np.load(again) as b:
        np.testing.assert_array_equal(a["arr_0"], b["arr_0"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--labels", "0-11"],
            "labels up to 9 (10 for none), ranges such as 0-9, or class names; got '0-11'",
        ),
        (["--labels", "a"], "9 (10 for none), ranges such as 0-9, or class names; got 'a'"),
        (["--labels", "5-2"], "9 (10 for none), ranges such as 0-9, or class names; got '5-2'"),
        (["--labels", "1.9"], "got '1.9'"),
        (["--labels", str(2**32)], f"got '{2**32}'"),
        (["--labels", f"0-{2**64}"], f"got '0-{2**64}'"),
        (["--labels", "-1"], "got '-1'"),
        (["--labels", ""], "got ''"),
        (["--per-label", "0"], "--per-label must lie in [1, 1000000], got 0"),
        (["--seed", str(2**32)], f"--seed must lie in [0, {2**32 - 1}], got {2**32}"),
        (["--seed", str(2**70)], f"--seed must lie in [0, {2**32 - 1}], got {2**70}"),
        (["--seed", "-1"], f"--seed must lie in [0, {2**32 - 1}], got -1"),
        (["--seed", "1.5"], "1.5"),
        (["--steps", "0"], "config.sample.steps must lie in [1, "),
        (["--steps", "many"], "many"),
        (["--w", "nan"], "w must be finite"),
        (["--w", "1e39"], "w must be finite in float32, got 1e+39"),
        (
            ["--solver", "rk4"],
            "one of Ancestral, DDIM, Euler, Heun, DPMSolverPP, UniPC, or an import",
        ),
        (["--grid", "fine"], "one of UniformU, UniformLogSNR, Karras, Secant, or an import"),
        (
            ["--solver", "unipc", "--solver.order", "5"],
            "order must be a whole number from 1 to 3, got 5",
        ),
        (["--solver", "ancestral", "--solver.v", "2"], "v must lie in [0, 1]"),
        (["--solver", "unipc", "--solver.v", "0.2"], "no config field 'sample.solver.v'"),
        (["--solver.v", "0.2"], "config.sample.solver is None; name a solver first"),
        (["--clip", "hard"], "one of Static, Dynamic, Off, or an import"),
        (["--guidance", "stronger"], "one of ClassifierFree, Negative, Composed, Autoguidance"),
        (["--guidance", "negative"], "config.guidance.cond must be given"),
        (["--guidance", "rescaled", "--guidance.phi", "2"], "phi must lie in [0, 1], got 2.0"),
        (["--guidance.phi", "0.3"], "no config field 'guidance.phi'"),
        (["--guidance", "negative", "--guidance.cond", "12"], "[0, 9], or be 10 for none; got 12"),
        (
            ["--guidance", "plus_plus", "--solver", "ancestral"],
            "must read ε̂ for PlusPlus guidance, as DDIM, Euler, Heun do; got Ancestral",
        ),
        (["--guidance.low", "3", "--guidance.high", "1"], "less than high, got low=3.0, high=1.0"),
        (["--clip", "dynamic", "--clip.percentile", "99"], "percentile must lie in [0, 1]"),
        (["--clip.percentile", "0.9"], "no config field 'sample.clip.percentile'"),
        (["--guidance", "composed", "--guidance.conds", "a"], "there is no class 'a'"),
        (["--guidance", "autoguidance", "--guidance.weak", ":4"], "no checkpoint of step 4"),
        (["--w", "1", "--scale", "2"], "give --w or --scale, not both"),
        (["--ema", "0.5"], "there is no average 0.5; there are ema, 0.9999"),
        (["--process", "1"], "--process needs --coordinator"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--step", "4"], "no checkpoint of step 4; it has 3, 6"),
        (["--out", "picture.jpg"], "pictures are written as .png, .npz, got 'picture.jpg'"),
        (["--model", "x"], "give --workdir or --model, not both"),
    ],
)
@pytest.mark.slow
def test_mistakes_are_refused(refused, trained, tmp_path, flags, message):
    assert message in refused(*sample(trained, tmp_path / "x.png", *flags))
    assert not list(tmp_path.iterdir())  # nothing that the right command would stumble on


@pytest.mark.parametrize("where", ["nowhere", "empty"])
def test_a_missing_or_empty_workdir_is_refused(refused, tmp_path, where):
    (tmp_path / "empty").mkdir()
    line = refused("sample", "--workdir", tmp_path / where, "--out", tmp_path / "x.png")
    assert "train" in line
