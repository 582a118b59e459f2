"""The command `sample`: pictures, arrays, going on, and what it refuses."""

import time

import jax
import numpy as np
import pytest
from launch import finish, start_together
from PIL import Image
from recipes import tiny

import cfg_jax
from cfg_jax import guidance, solvers
from cfg_jax.data.images import to_uint8
from cfg_jax.training.loop import train


def sample(trained, out, *flags):
    return ("sample", "--workdir", trained, "--out", out, *flags)


def test_arrays_are_what_python_samples(command, trained, tmp_path):
    out = tmp_path / "samples.npz"
    code, printed, err = command(
        *sample(trained, out, "--labels", "2,5-6", "--per-label", 3, "--w", 1.5, "--steps", 3),
        "--solver",
        "ddim",
        "--eta",
        0.5,
        "--seed",
        4,
        "--batch",
        8,
    )
    assert code == 0, err
    assert "9 images" in printed
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
    denoiser = guidance.rescaled(run.denoiser, w=2.0, null=10, phi=0.4)
    want = cfg_jax.sample(
        cfg_jax.denoiser.clipped(guidance.interval(denoiser, low=-3.0)),
        jax.random.key(0),
        jax.numpy.arange(10),
        shape=run.shape,
        schedule=run.schedule,
        solver=solvers.DDIM(),
        steps=3,
    )
    with np.load(out) as arrays:
        assert np.abs(arrays["arr_0"].astype(int) - to_uint8(want)).max() <= 1


def test_a_classifier_guides_as_in_python(command, trained, noisy, tmp_path):
    out = tmp_path / "samples.npz"
    flags = ("--labels", "0-4", "--per-label", 1, "--classifier", noisy, "--classifier-scale", 3)
    more = ("--classifier-form", "mean", "--w", -1, "--steps", 3)
    assert command(*sample(trained, out, *flags, *more))[0] == 0
    run, held = cfg_jax.load(trained), cfg_jax.load_noisy_classifier(noisy)
    by = {"classifier": held.log_prob, "classifier_scale": 3.0, "classifier_form": "mean"}
    want = run.sample(jax.random.key(0), range(5), w=-1.0, steps=3, **by)
    with np.load(out) as arrays:
        assert np.abs(arrays["arr_0"].astype(int) - to_uint8(want)).max() <= 1
    plain = run.sample(jax.random.key(0), range(5), w=-1.0, steps=3)
    assert np.abs(to_uint8(want).astype(int) - to_uint8(plain)).max() > 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labels", "10"], "labels must lie in [0, 9]; got 10"),
        (["--classifier-form", "x"], "classifier_form must be one of eps, mean; got 'x'"),
        (["--classifier-form", "mean", "--solver", "ddim"], "mean of ancestral, no other solver"),
        (["--classifier-form", "mean", "--guidance.low", "1"], "do not limit classifier_form mean"),
        (["--classifier-scale", "nan"], "classifier-scale must be finite"),
    ],
)
def test_mistakes_beside_a_classifier_are_refused(
    refused, trained, noisy, tmp_path, flags, message
):
    argv = sample(trained, tmp_path / "x.png", "--classifier", noisy, *flags)
    assert message in refused(*argv)


def test_beside_an_unconditional_model_a_classifier_alone_takes_labels(
    refused, command, noisy, tmp_path
):
    config = tiny()
    config.model.conditional = False
    config.train.steps = 1
    train(config, tmp_path / "run")
    argv = sample(tmp_path / "run", tmp_path / "x.npz", "--steps", 2, "--per-label", 1)
    assert "takes no --labels" in refused(*argv, "--labels", "3")
    assert "takes no --w" in refused(*argv, "--classifier", noisy, "--w", 1)
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
    """The U-Net of batch 20 (both halves) acts inside the interval, that of batch 10 outside."""
    from cfg_jax.networks import UNet

    traced, original = [], UNet._embed

    def watching(self, logsnr, cond):
        traced.append(len(logsnr))
        return original(self, logsnr, cond)

    monkeypatch.setattr(UNet, "_embed", watching)
    argv = sample(trained, tmp_path / "x.png", "--per-label", 1, "--steps", 5)
    assert command(*argv, "--guidance.low", -2, "--guidance.high", 2)[0] == 0
    per_device = {len_ for len_ in traced if len_ != 1}
    assert per_device == {2, 4}  # ten labels padded to sixteen over eight devices


def test_an_interrupted_job_does_not_go_on_under_another_guidance(
    command, refused, trained, tmp_path, monkeypatch
):
    from cfg_jax.runtime import bulk

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    argv = sample(trained, tmp_path / "x.npz", "--labels", "0-1", "--per-label", 1)
    monkeypatch.setattr(bulk, "full_batches", interrupted)
    assert command(*argv)[0] == 130
    line = refused(*argv, "--guidance", "projected")
    assert "guidance.name: classifier_free -> projected" in line


def test_a_picture_has_a_row_a_label(command, trained, tmp_path):
    out = tmp_path / "deep" / "grid.png"
    code, _, err = command(*sample(trained, out, "--labels", "0-9", "--per-label", 4))
    assert code == 0, err
    picture = Image.open(out)
    assert picture.size[1] / picture.size[0] == pytest.approx(10 / 4, rel=0.02)


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


def test_interrupted_it_goes_on(command, trained, tmp_path, monkeypatch):
    from cfg_jax.run import Run

    out, calls, original = tmp_path / "samples.npz", [], Run.sample

    def counting(self, *args, **options):
        calls.append(options["offset"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *args, **options)

    monkeypatch.setattr(Run, "sample", counting)
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
        (["--labels", "0-11"], "labels must lie in [0, 9], or be 10 for none; got 11"),
        (["--labels", "a"], "--labels takes labels and ranges"),
        (["--labels", "5-2"], "--labels takes labels and ranges"),
        (["--per-label", "0"], "--per-label must be at least 1"),
        (["--steps", "0"], "steps must be a whole number of at least 1"),
        (["--w", "nan"], "w must be finite"),
        (["--solver", "rk4"], "must be one of default, ancestral, ddim, euler, heun, dpmpp, unipc"),
        (["--grid", "fine"], "must be one of uniform_u, uniform_logsnr, karras, secant"),
        (["--solver", "unipc", "--order", "5"], "order must be 1, 2 or 3, got 5"),
        (["--v", "2"], "v must lie in [0, 1]"),
        (["--solver", "unipc", "--v", "0.2"], "--v does not belong to --solver unipc"),
        (["--clip", "hard"], "must be one of static, dynamic, none"),
        (["--guidance", "stronger"], "must be one of classifier_free, negative, composed"),
        (["--guidance", "rescaled"], "rescaled needs guidance.phi"),
        (["--guidance", "rescaled", "--guidance.phi", "2"], "phi must lie in [0, 1], got 2.0"),
        (["--guidance.phi", "0.3"], "guidance.phi belongs to rescaled"),
        (["--guidance", "negative", "--guidance.cond", "12"], "[0, 9], or be 10 for none; got 12"),
        (["--guidance", "plus_plus"], "one of ddim, euler, heun; got 'ancestral'"),
        (["--guidance.low", "3", "--guidance.high", "1"], "less than high, got low=3.0, high=1.0"),
        (["--clip", "dynamic", "--percentile", "99"], "percentile must lie in [0, 1]"),
        (["--percentile", "0.9"], "--percentile does not belong to --clip static"),
        (["--guidance", "composed", "--guidance.conds", "a"], "takes labels separated by commas"),
        (["--guidance", "autoguidance", "--guidance.weak", ":4"], "no checkpoint of step 4"),
        (["--ema", "0.5"], "there is no average 0.5; there are 0.9999"),
        (["--process", "1"], "--process needs --coordinator"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--step", "4"], "no checkpoint of step 4; it has 3, 6"),
        (["--out", "picture.jpg"], "--out must end in .png or .npz"),
    ],
)
def test_mistakes_are_refused(refused, trained, tmp_path, flags, message):
    assert message in refused(*sample(trained, tmp_path / "x.png", *flags))
    assert not list(tmp_path.iterdir())  # nothing that the right command would stumble on


@pytest.mark.parametrize("where", ["nowhere", "empty"])
def test_a_missing_or_empty_workdir_is_refused(refused, tmp_path, where):
    (tmp_path / "empty").mkdir()
    line = refused("sample", "--workdir", tmp_path / where, "--out", tmp_path / "x.png")
    assert "train" in line
