"""The training loop: going on bitwise, stopping well, and refusing what does not fit."""

import os
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny

import cfg_jax
from cfg_jax import recipe
from cfg_jax.data import Digits
from cfg_jax.runtime import mesh as meshes
from cfg_jax.runtime.checkpoints import Checkpoints
from cfg_jax.training import loop, metrics
from cfg_jax.training.feed import StalledDataError
from cfg_jax.training.loop import StoppedError, train
from cfg_jax.training.program import build
from cfg_jax.training.window import NonFiniteLossError


def final(workdir, step):
    program = build(tiny(), Digits().open("train").facts, meshes.device_mesh())
    with Checkpoints(workdir) as checkpoints:
        return jax.device_get(checkpoints.restore(step, program.state))


def rows(workdir):
    return metrics.read(workdir / "metrics.jsonl")


def saved(workdir):
    return sorted(p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())


def test_it_leaves_checkpoints_and_metrics(trained):
    assert saved(trained) == ["3", "6"]
    logged = rows(trained)
    # Rows every 2 steps, and one wherever a checkpoint was made.
    assert [row["step"] for row in logged] == [2, 3, 4, 6]
    for row in logged:
        assert np.isfinite([row["loss"], row["grad_norm"], row["images_per_second"]]).all()
        assert len(row["loss_by_logsnr"]) == 10


def test_going_on_equals_never_having_stopped_bitwise(trained, tmp_path):
    config = tiny()
    config.train.steps = 3
    train(config, tmp_path)
    config.train.steps = 6
    train(config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, final(trained, 6), final(tmp_path, 6))
    for a, b in zip(rows(trained), rows(tmp_path), strict=True):
        assert (a["step"], a["loss"], a["grad_norm"]) == (b["step"], b["loss"], b["grad_norm"])


@pytest.fixture
def finished(trained, tmp_path):
    """A run that is done, and that nobody else looks at."""
    return shutil.copytree(trained, tmp_path / "finished")


def test_a_finished_run_is_left_alone(finished, capsys):
    before = sorted(str(p) for p in finished.rglob("*"))
    train(tiny(), finished)
    assert "trained already, to step 6" in "".join(capsys.readouterr())
    assert sorted(str(p) for p in finished.rglob("*")) == before


def test_a_signal_saves_and_stops(tmp_path, monkeypatch):
    made = []

    def signalling(config, *args, **more):
        program = build(config, *args, **more)

        def step(state, frozen, batch):
            made.append(1)
            if len(made) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return program.step(state, frozen, batch)

        return program._replace(step=step)

    monkeypatch.setattr(loop, "build", signalling)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(StoppedError, match=r"SIGINT; step 2 is saved: .*checkpoints/2"):
        train(tiny(), tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "checkpoints" / "2").is_dir()


def poisoned(*steps):
    """A program whose given steps get parameters that are not numbers, for that step alone."""

    def building(config, *args, **more):
        program = build(config, *args, **more)

        def step(state, frozen, batch):
            if int(state.step) + 1 not in steps:
                return program.step(state, frozen, batch)
            kept = jax.tree.map(jnp.copy, state.params)
            broken = state._replace(params=jax.tree.map(lambda a: a * np.nan, state.params))
            after, metrics = program.step(broken, frozen, batch)
            return after._replace(params=kept), metrics

        return program._replace(step=step)

    return building


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_checkpoint(
    tmp_path, monkeypatch
):
    config = tiny()
    config.train.steps = 3
    train(config, tmp_path)
    config.train.steps = 12
    monkeypatch.setattr(loop, "build", poisoned(5))
    with pytest.raises(NonFiniteLossError, match=r"at step 5 .*nan.*checkpoints/3"):
        train(config, tmp_path)
    assert saved(tmp_path) == ["3"]


def test_a_few_steps_may_be_skipped_and_are_counted(tmp_path, monkeypatch, capsys):
    config = tiny()
    config.train.max_skipped = 2
    monkeypatch.setattr(loop, "build", poisoned(2, 5))
    train(config, tmp_path)
    assert [row["skipped"] for row in rows(tmp_path)] == [1, 1, 1, 2]
    told = "".join(capsys.readouterr())
    assert "step 2 (examples 16 to 31)" in told
    assert "skipped, 2 of 2" in told
    monkeypatch.setattr(loop, "build", poisoned(7))
    config.train.steps = 8
    with pytest.raises(NonFiniteLossError, match=r"at step 7 .*allows 2 such steps"):
        train(config, tmp_path)


@pytest.mark.slow
def test_data_that_fall_silent_stop_the_run(tmp_path, monkeypatch):
    config = tiny()
    config.train.data_timeout = 2.0
    batches = loop.batches

    def stalling(*args, **options):
        stream = batches(*args, **options)
        yield next(stream)
        time.sleep(20.0)

    monkeypatch.setattr(loop, "batches", stalling)
    with pytest.raises(StalledDataError, match="no batch has come for 2 s"):
        train(config, tmp_path)


def test_steps_compile_once(tmp_path):
    program = build(tiny(), Digits().open("train").facts, meshes.device_mesh())
    state, read = program.start(), np.zeros((16, 8, 8, 1), np.uint8)
    frozen = jax.device_put(program.frozen, meshes.replicated(program.mesh))
    for step in range(4):
        label = np.arange(16, dtype=np.int32) % 10
        batch = {"x": read + step, "label": label, "replaced": 0 * label}
        state, _ = program.step(state, frozen, meshes.global_batch(batch, program.mesh))
    assert program.step._cache_size() == 1


def test_grids_of_samples_are_pictures(tmp_path):
    from PIL import Image

    config = tiny()
    config.train.steps = 2
    config.train.sample_every = 2
    train(config, tmp_path)
    picture = Image.open(tmp_path / "samples" / "2.png")
    assert picture.height > picture.width > 200  # ten classes, eight images each, enlarged


@pytest.mark.parametrize(
    ("sample", "line"),
    [
        ({"solver": recipe.node("Ancestral", v=None)}, "learned"),
        ({"grid": recipe.node("UniformLogSNR", start=0.0, end=1e-7), "steps": 50}, "levels|steps"),
    ],
)
def test_what_the_page_of_samples_cannot_be_drawn_by_shows_before_training(tmp_path, sample, line):
    config = tiny()
    config.train.sample_every = 2
    config.sample.update(sample)
    with pytest.raises(ValueError, match=line):
        train(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_config_is_refused_field_by_field(finished):
    config = tiny()
    config.condition.label.p_uncond = 0.2
    config.optimiser.learning_rate = 1e-3
    with pytest.raises(
        ValueError,
        match=r"condition.label.p_uncond: 0.1 -> 0.2; optimiser.learning_rate: 0.01 -> 0.001",
    ):
        train(config, finished)


@pytest.mark.slow
def test_a_batch_that_the_devices_do_not_divide_is_shared_by_fewer(tmp_path, monkeypatch):
    """12 examples lie on 6 of 8 devices, and take the same step as on one."""
    config, meshed = tiny(), []
    config.train.batch_size, config.train.steps, config.train.log_every = 12, 1, 1

    def watched(config, *args, **more):
        program = build(config, *args, **more)
        meshed.append(program.mesh.size)
        return program

    monkeypatch.setattr(loop, "build", watched)
    train(config, tmp_path / "all")
    one = meshes.device_mesh(1, jax.devices()[:1])
    monkeypatch.setattr(meshes, "fitting", lambda *_, **__: one)
    train(config, tmp_path / "one")
    assert meshed == [6, 1]
    (many,), (alone,) = rows(tmp_path / "all"), rows(tmp_path / "one")
    assert many["loss"] == pytest.approx(alone["loss"], rel=1e-4)


def test_a_batch_that_no_devices_divide_is_refused(tmp_path):
    config = tiny()
    config.train.batch_size, config.mesh.fsdp = 12, 8
    with pytest.raises(ValueError, match=r"train.batch_size must be a multiple of mesh.fsdp, 8"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_image_size_the_network_cannot_take_is_refused_before_anything_is_written(tmp_path):
    config = tiny()
    config.network.patch = 16
    with pytest.raises(ValueError, match="multiples of 16; got 8×8"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_together_is_refused_before_anything_is_written(tmp_path):
    from cfg_jax.conditions import Small
    from cfg_jax.objectives import Hybrid

    variance = tiny()
    variance.objective = recipe.node(Hybrid)
    level = tiny()
    level.condition.small = recipe.node(Small, logsnr_min=30.0)
    for config, line in (
        (variance, "Hybrid needs a network that says the variance: learned_variance=True"),
        (level, r"small.logsnr_min must lie in \[-20, 20\]"),
    ):
        with pytest.raises(ValueError, match=line):
            train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_unconditional_network_trains_and_samples(tmp_path):
    config = tiny()
    del config.condition.label
    config.train.steps = 2
    config.train.sample_every = 2
    train(config, tmp_path)
    run = cfg_jax.load(tmp_path)
    assert run.null == {}
    assert run.sample(jax.random.key(0), batch=3).shape == (3, 8, 8, 1)
    with pytest.raises(ValueError, match="the model takes no condition; got label"):
        run.sample(jax.random.key(0), label=[1])
    with pytest.raises(ValueError, match="name the entries of the condition: none"):
        run.sample(jax.random.key(0), [1])
    with pytest.raises(ValueError, match=r"w must be 0, got 1.0"):
        run.sample(jax.random.key(0), w=1.0, batch=3)
