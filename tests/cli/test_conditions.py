"""Networks that are shown more than labels, from data to picture: trained, sampled, evaluated."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cfg_jax
from cfg_jax import recipe
from cfg_jax.data.images import interleave
from cfg_jax.data.samples import to_float, to_uint8
from cfg_jax.diffusion import condition
from cfg_jax.diffusion.noise import Stream
from cfg_jax.diffusion.process import forward

KEY = jax.random.key(0)


def opened(workdir, split):
    return recipe.make(cfg_jax.load(workdir).config.data, "data").open(split).source


def held_out(workdir, count):
    source = opened(workdir, "test")
    return [source[i] for i in range(count)]


def noised(small, logsnr, offset=0):
    """Each image noised by noise of its own key, on the stream that augmentation has."""
    keys = [jax.random.fold_in(KEY, offset + i) for i in range(len(small))]
    folded = [jax.random.fold_in(key, int(Stream.AUGMENTATION)) for key in keys]
    eps = jnp.stack([jax.random.normal(key, small.shape[1:]) for key in folded])
    levels = jnp.full(len(small), logsnr)
    return condition.Noisy(forward(small, eps, logsnr=levels), levels)


def test_training_shows_what_it_enlarges_what_it_makes_and_what_was(upscaler):
    page = np.asarray(Image.open(upscaler / "samples" / "6.png"))
    above, _, below = (page[y : y + 32 : 4, 2:34:4].astype(float) for y in (2, 36, 70))
    first = opened(upscaler, "train")[0]["x"][..., 0].astype(float)
    small = first.reshape(4, 2, 4, 2).mean((1, 3)).repeat(2, 0).repeat(2, 1)
    assert np.abs(above - small).max() <= 1
    np.testing.assert_array_equal(below, first)


def test_sampling_without_files_enlarges_held_out_images(command, upscaler, tmp_path):
    out = tmp_path / "x.npz"
    ask = ("sample", "--workdir", upscaler, "--labels", "3,1", "--per-label", 2, "--steps", 2)
    code, _, err = command(*ask, "--condition.small.logsnr", 2, "--w", 1, "--out", out)
    assert code == 0, err
    run = cfg_jax.load(upscaler)
    examples = held_out(upscaler, 360)
    chosen = [[e for e in examples if e["label"] == n][i] for n in (3, 1) for i in (0, 1)]
    images = np.stack([e["x"] for e in chosen])
    small = to_float(images).reshape(4, 4, 2, 4, 2, 1).mean((2, 4))
    asked = {"label": [3, 3, 1, 1], "small": {"x": small, "logsnr": 2.0}}
    want = run.sample(KEY, **asked, w=1.0, steps=2)
    with np.load(out) as arrays:
        np.testing.assert_array_equal(arrays["arr_1"], [3, 3, 1, 1])
        assert np.abs(arrays["arr_0"].astype(int) - to_uint8(want)).max() <= 1
    code, _, err = command(
        *ask, "--condition.small.logsnr", 2, "--w", 1, "--out", tmp_path / "x.png"
    )
    assert code == 0, err
    page = np.asarray(Image.open(tmp_path / "x.png"))
    page = page[:, page.shape[1] - (2 * 34 + 2) :]  # at the left are the classes' names
    tiles = page[2:, 2:].reshape(6, 34, 2, 34).swapaxes(1, 2).reshape(12, 34, 34)[:, :32:4, :32:4]
    rows = [to_uint8(small.repeat(2, 1).repeat(2, 2)), to_uint8(want), images]
    assert np.abs(tiles - interleave(rows, 2)[..., 0].astype(int)).max() <= 1


def test_a_sample_is_the_pieces_put_together(upscaler):
    """The label hidden and the noised image kept, in the second half of each call."""
    run = cfg_jax.load(upscaler)
    small = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    labels = jnp.array([1, 2, 3])
    seen = noised(jnp.asarray(small), 1.5, offset=5)
    for guided, null in (
        (False, {"label": 10, "small": condition.KEPT}),
        (True, {"label": 10, "small": condition.Noisy(0.0, -10.0)}),
    ):
        config = recipe.copied(run.config)
        config.condition.small.guided = guided
        told = run.sampling_as(config)
        want = cfg_jax.sample(
            cfg_jax.denoiser.clipped(
                cfg_jax.guidance.classifier_free(run.denoiser, w=0.8, null=null)
            ),
            KEY,
            {"label": labels, "small": seen},
            shape=run.shape,
            schedule=run.schedule,
            steps=2,
            offset=5,
        )
        asked = {"label": labels, "small": {"x": small, "logsnr": 1.5}}
        got = told.sample(KEY, **asked, w=0.8, steps=2, offset=5)
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.slow
def test_the_sweep_shows_the_held_out_images_that_it_enlarges(command, upscaler, tmp_path):
    ask = ("evaluate", "--workdir", upscaler, "--w", "0,1", "--samples", 20, "--batch", 16)
    code, _, err = command(*ask, "--steps", 2, "--out", tmp_path)
    assert code == 0, err
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["w"] for row in report["rows"]] == [0.0, 1.0]
    assert all(0 <= row["label_accuracy"] <= 1 for row in report["rows"])


@pytest.mark.slow
def test_vectors_come_from_a_file_or_from_held_out_images(command, told, tmp_path):
    out, vectors = tmp_path / "x.npz", np.array([[0.5, -1.0], [0.0, 0.0], [2.0, 3.0]], np.float32)
    np.savez(tmp_path / "vectors.npz", vector=vectors)
    ask = ("sample", "--workdir", told, "--w", 0.5, "--steps", 2, "--out", out)
    code, _, err = command(*ask, "--vectors", tmp_path / "vectors.npz", "--batch", 2)
    assert code == 0, err
    run = cfg_jax.load(told)
    want = run.sample(KEY, vector=vectors, w=0.5, steps=2)
    with np.load(out) as arrays:
        assert set(arrays) == {"arr_0"}
        assert np.abs(arrays["arr_0"].astype(int) - to_uint8(want)).max() <= 1
    assert np.abs(want[0] - want[2]).max() > 1e-3
    code, _, err = command(*ask, "--per-label", 1)
    assert code == 0, err
    lent = np.stack([e["vector"] for e in held_out(told, 2)])
    want = run.sample(KEY, vector=lent, w=0.5, steps=2)
    with np.load(out) as arrays:
        assert np.abs(arrays["arr_0"].astype(int) - to_uint8(want)).max() <= 1


def test_what_does_not_fit_is_told_in_one_line(refused, upscaler, told, trained, tmp_path):
    out, file = tmp_path / "x.png", tmp_path / "x.npz"
    small = np.zeros((2, 4, 4, 1), np.uint8)
    np.savez(file, arr_0=small, arr_1=[1, 2], vector=np.zeros((2, 3)))

    def sample(workdir, *flags):
        return refused("sample", "--workdir", workdir, "--out", out, *flags)

    unknown = "Unknown command line flag"
    assert f"{unknown} 'vectors'" in sample(upscaler, "--vectors", file)
    assert "vector must be numbers of (batch, 2), got float64 of (2, 3)" in sample(
        told, "--vectors", file
    )
    assert f"{unknown} 'small'" in sample(told, "--small", file)
    assert "small.logsnr must be at least logsnr_min, 0.0; got -1.0" in sample(
        upscaler, "--small", file, "--condition.small.logsnr", -1
    )
    assert "no config field 'condition.small.logsnr'" in sample(
        trained, "--condition.small.logsnr", 1
    )
    assert "no config field 'condition.small.guided'" in sample(
        trained, "--condition.small.guided", "True"
    )
    assert "no config field 'condition.labels.guided'" in sample(
        upscaler, "--condition.labels.guided", "True"
    )
    assert "held-out data lend their conditions" in sample(trained, "--data-path", tmp_path)
    assert "no held-out example has label 10" in sample(upscaler, "--labels", "10")
    np.savez(file, arr_0=small, arr_1=[1, 12])
    assert "label must lie in [0, 9], or be 10 for none; got 12" in sample(
        upscaler, "--small", file
    )


def test_a_part_that_is_missing_is_named(upscaler, trained):
    run = cfg_jax.load(upscaler)
    with pytest.raises(ValueError, match="needs small="):
        run.sample(KEY, label=[1], steps=2)
    one = {"label": [1], "vector": jnp.ones((1, 2)), "small": jnp.ones((1, 4, 4, 1))}
    with pytest.raises(ValueError, match="takes label, small; got vector"):
        run.sample(KEY, **one, steps=2)
    with pytest.raises(ValueError, match="needs label="):
        run.sample(KEY, small=jnp.ones((1, 4, 4, 1)), steps=2)
    with pytest.raises(ValueError, match="takes label; got small"):
        cfg_jax.load(trained).sample(KEY, label=[1], small=jnp.ones((1, 4, 4, 1)), steps=2)
