"""The commands `import` and `export`: runs made of other people's weights, and of our own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from torch_files import Call, Global, save_zip

import cfg_jax
from cfg_jax import grids, guidance, schedules, solvers
from cfg_jax.data.samples import to_float, to_uint8
from cfg_jax.interop import guided_diffusion
from cfg_jax.interop.guided_diffusion import ARCHITECTURES, Architecture
from cfg_jax.networks import Encoder, UNet
from cfg_jax.nn import TimestepFeatures
from cfg_jax.parts import Beside, Classes

pytestmark = pytest.mark.slow

LEVELS = {
    "channels": 32,
    "channel_mult": (1,),
    "blocks": 1,
    "attention_resolutions": (),
    "head_channels": 32,
    "level_features": TimestepFeatures(schedule=schedules.CosineBeta(steps=1000)),
}
LABEL, SMALL = ("label", Classes(5)), ("small", Beside((4, 4, 3)))


def unet(*inlets):
    return UNet(**LEVELS, inlets=inlets, learned_variance=True)


TINY = {
    "tiny": Architecture(network=unet(LABEL), side=8, legacy=False),
    "tiny_upsampler": Architecture(network=unet(LABEL, SMALL), side=8),
    "tiny_uncond": Architecture(network=unet(), side=8),
    "tiny_classifier": Architecture(network=Encoder(**LEVELS, num_classes=5), side=8),
}
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def tiny_architectures(monkeypatch):
    for name, arch in TINY.items():
        monkeypatch.setitem(ARCHITECTURES, name, arch)


def state(name):
    rng = np.random.default_rng(0)
    return {
        key: (rng.normal(size=shape) * 0.2).astype(np.float32)
        for key, shape in guided_diffusion.tensor_shapes(TINY[name]).items()
    }


@pytest.fixture
def imported(command, tmp_path):
    """Imports a network of random weights; returns where it is."""

    def run(name):
        save_zip(tmp_path / f"{name}.pt", state(name))
        workdir = tmp_path / name
        code, printed, err = command(
            "import", "--from", "guided-diffusion", "--arch", name, tmp_path / f"{name}.pt",
            "--workdir", workdir,
        )  # fmt: skip
        assert code == 0, err
        assert str(workdir) in printed
        return workdir

    return run


def test_an_imported_network_is_sampled_as_it_was_published(imported, command, tmp_path):
    workdir, out = imported("tiny"), tmp_path / "samples.npz"
    run = cfg_jax.load(workdir)
    assert run.network == TINY["tiny"].network
    assert run.schedule == schedules.CosineBeta(steps=1000)
    assert run.config.sample.steps == 250
    code, _, err = command(
        "sample", "--workdir", workdir, "--steps", 3, "--per-label", 1, "--out", out
    )
    assert code == 0, err
    want = cfg_jax.sample(
        cfg_jax.denoiser.clipped(run.denoiser),
        KEY,
        {"label": jnp.arange(5)},
        shape=(8, 8, 3),
        schedule=run.schedule,
        solver=solvers.Ancestral(v=None),
        grid=grids.UniformU(),
        steps=3,
    )
    with np.load(out) as arrays:
        np.testing.assert_array_equal(arrays["arr_1"], np.arange(5))
        assert np.abs(arrays["arr_0"].astype(int) - to_uint8(want)).max() <= 1
    on_grid = {"steps": 3, "grid": grids.UniformU()}
    fixed = run.sample(KEY, [0], solver=solvers.Ancestral(v=0.0), **on_grid)
    assert np.abs(fixed - want[:1]).max() > 0.01


def test_an_imported_network_is_evaluated(imported, command, tmp_path):
    workdir, rng = imported("tiny"), np.random.default_rng(0)
    for name in range(5):
        folder = tmp_path / "pictures" / str(name)
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    code, _, err = command(
        "evaluate", "--workdir", workdir, "--w", 0, "--samples", 10, "--steps", 2,
        "--data-path", tmp_path / "pictures",
    )  # fmt: skip
    assert code == 0, err
    assert (workdir / "evaluation" / "report.json").is_file()


def test_an_upsampler_enlarges_the_images_of_a_file(imported, command, refused, tmp_path):
    workdir, small, out = imported("tiny_upsampler"), tmp_path / "small.npz", tmp_path / "x.npz"
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    np.savez(small, images, np.array([4, 0, 1]))
    ask = ("sample", "--workdir", workdir, "--steps", 2, "--batch", 2, "--out", out)
    code, _, err = command(*ask, "--small", small)
    assert code == 0, err
    run = cfg_jax.load(workdir)
    want = run.sample(KEY, label=[4, 0, 1], small=to_float(images), steps=2)
    with np.load(out) as arrays:
        np.testing.assert_array_equal(arrays["arr_1"], [4, 0, 1])
        assert np.abs(arrays["arr_0"].astype(int) - to_uint8(want)).max() <= 1
    assert "give --labels and --small, or --data-path" in refused(*ask)
    assert "files bring their own label" in refused(*ask, "--small", small, "--labels", "1")
    assert "cannot be read" in refused(*ask, "--small", workdir / "config.json")
    np.savez(small, images)
    assert "holds no label" in refused(*ask, "--small", small)
    np.savez(small, images[:, :3], np.zeros(3, int))
    assert "must be uint8 images of (4, 4, 3)" in refused(*ask, "--small", small)
    np.savez(small, images, np.zeros(2, int))
    assert "of the same number of examples" in refused(*ask, "--small", small)
    with pytest.raises(ValueError, match="needs small="):
        run.sample(KEY, label=[1])


def test_a_classifier_guides_what_was_imported_with_it(imported):
    run = cfg_jax.load(imported("tiny"))
    log_prob = cfg_jax.load(imported("tiny_classifier")).log_prob
    assert log_prob.network == TINY["tiny_classifier"].network
    params = guided_diffusion.parameters(state("tiny_classifier"), TINY["tiny_classifier"])
    jax.tree.map(np.testing.assert_array_equal, log_prob.params, params)
    solver = solvers.Ancestral(v=None, shift=guidance.ascent(log_prob, w=50.0))
    want = run.sample(KEY, [3], steps=2, solver=solver, grid=grids.UniformU())
    strong = {"classifier": log_prob, "classifier_scale": 50.0, "classifier_form": "mean"}
    np.testing.assert_allclose(run.sample(KEY, [3], steps=2, **strong), want, atol=1e-5)
    assert np.abs(run.sample(KEY, [3], steps=2) - want).max() > 1e-3


def test_what_a_network_cannot_do_is_refused(imported, refused, tmp_path):
    workdir, out = imported("tiny"), tmp_path / "x.png"
    ask = ("sample", "--workdir", workdir, "--out", out, "--steps", 2)
    assert "nothing that guidance could hide: w must be 0, got 1.0" in refused(*ask, "--w", 1)
    assert "label must lie in [0, 4]; got 5" in refused(*ask, "--labels", 5)
    assert "Unknown command line flag 'small'" in refused(*ask, "--small", "x.npz")
    nothing = cfg_jax.load(imported("tiny_uncond"))
    assert nothing.sample(KEY, batch=2, steps=2).shape == (2, 8, 8, 3)


def test_mistakes_are_told_in_one_line(imported, refused, tmp_path):
    path, workdir = tmp_path / "x.pt", tmp_path / "new"
    ask = ("import", "--from", "guided-diffusion", "--workdir", workdir)
    tiny = (*ask, "--arch", "tiny")
    assert "give the FILE" in refused(*tiny)
    assert "there is no architecture 'tini'" in refused(*ask, "--arch", "tini", path)
    assert "give --arch" in refused(*ask, path)
    assert "does not exist" in refused(*tiny, path)
    assert "--from must be one of" in refused("import", "--from", "x", path, "--workdir", workdir)
    assert "unexpected argument" in refused(*tiny, path, "more")
    path.write_bytes(b"not a checkpoint")
    assert "not a PyTorch weights file" in refused(*tiny, path)
    save_zip(path, {"w": Call(Global("os", "system"), (f"touch {tmp_path}/executed",))})
    assert "nothing was executed" in refused(*tiny, path)
    assert not (tmp_path / "executed").exists()
    save_zip(path, state("tiny_classifier"))
    told = refused(*tiny, path)
    assert f"{path} is not of tiny: " in told
    assert "missing" in told
    assert "unexpected" in told
    assert not workdir.exists()
    made = imported("tiny")
    save_zip(path, state("tiny"))
    again = ("import", "--from", "guided-diffusion", "--arch", "tiny", path, "--workdir", made)
    assert "holds a run already" in refused(*again)


def test_our_own_runs_go_out_and_come_back(command, refused, trained, tmp_path):
    path, workdir = tmp_path / "digits.safetensors", tmp_path / "again"
    code, printed, err = command("export", "--workdir", trained, "--out", path)
    assert code == 0, err
    assert str(path) in printed
    code, _, err = command("import", "--from", "cfg-jax", path, "--workdir", workdir)
    assert code == 0, err
    before, after = cfg_jax.load(trained), cfg_jax.load(workdir)
    assert (after.network, after.step, after.shape) == (before.network, before.step, before.shape)
    assert after.class_names == before.class_names
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    ask = ("import", "--from", "cfg-jax", path, "--workdir", workdir)
    assert "holds a run already" in refused(*ask)
    assert "--arch belongs to" in refused(*ask, "--arch", "tiny")
    assert "must end in .safetensors" in refused("export", "--workdir", trained, "--out", "x.pt")
    path.write_bytes(path.read_bytes()[:-9])
    assert "is damaged, or not a .safetensors file" in refused(*ask)
